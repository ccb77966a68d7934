"""``onnxquant calibrate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import click

from onnxquant.calibration.calibrate import DEFAULT_METHODS
from onnxquant.calibration.calibrate import calibrate as calibrate_model
from onnxquant.calibration.feeds.prepared import preparation
from onnxquant.calibration.statistics import Statistics
from onnxquant.cli.options import data_option, model_options
from onnxquant.cli.shared import Display, console, display_options, errors_become_exit_codes, print_json, progress_bar
from onnxquant.errors import StatisticsError
from onnxquant.json_data import to_json
from onnxquant.observers import ranging
from onnxquant.observers.base import ActivationGrid
from onnxquant.report.table import say
from onnxquant.report.terminal import table

_METHODS = (
    f"Collect what this calibration method needs. May be given several times. [default: {', '.join(DEFAULT_METHODS)}]"
)


@click.command(short_help="Write statistics of activations.")
@click.argument("model", type=click.Path())
@data_option("Samples")
@click.option("-o", "--output", required=True, type=click.Path(), metavar="STATS", help="File to write.")
@click.option("--method", "methods", multiple=True, type=click.Choice(ranging()), help=_METHODS)
@click.option(
    "--tensors", metavar="REGEX", help="Regular expression. Observe only tensors whose name contains a match."
)
@click.option(
    "--samples", type=int, metavar="N", help="Largest number of samples to run. [default: all; 8 synthetic ones]"
)
@click.option("--synthetic", is_flag=True, help="Run synthetic samples: good for a trial, not for ranges to use.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, whose state is in STATS.partial.")
@click.option(
    "--merge", multiple=True, type=click.Path(), metavar="OTHER", help="Merge with statistics of other samples."
)
@model_options("preprocess", "seed", "threads", "dim", "external_root", "custom_op_library", "force")
@display_options
@errors_become_exit_codes
def calibrate(model: str, data: str | None, output: str, display: Display, **options: object) -> None:
    """Run the float MODEL on samples, and write statistics of its tensors, from which their ranges follow.

    Memory does not grow with the number of samples. An interrupted run leaves STATS.partial; --resume continues it.

    By default the inputs and outputs of matrix products, convolutions, sums, products, concatenations, pools, Resize,
    Softmax, LayerNormalization and activations are observed, by all methods that a histogram serves.

    \b
    Examples:
      onnxquant calibrate model.onnx --data feeds.npz -o stats.npz
      onnxquant calibrate model.onnx --data feeds/ -o stats.npz --method minmax
      onnxquant calibrate model.onnx --data feeds/ -o stats.npz --resume
      onnxquant calibrate model.onnx --data more/ -o both.npz --merge stats.npz
      onnxquant calibrate model.onnx --synthetic -o trial.npz --tensors 'conv'
    """
    methods = list(cast(Sequence[str], options["methods"]) or DEFAULT_METHODS)
    options["methods"] = methods
    with progress_bar(is_shown=display.shows_progress) as progress:
        statistics = calibrate_model(model, data, output, progress=progress, **options)
    if display.as_json:
        print_json(_described(model, output, statistics, methods))
    elif not display.quiet:
        _show(output, statistics, methods, verbose=display.verbose)


def _ranges(statistics: Statistics, methods: list[str]) -> dict[str, dict[str, list[float] | None]]:
    """For each tensor, the 8-bit range with a zero point of each method; None where no values were seen."""
    out: dict[str, dict[str, list[float] | None]] = {}
    for tensor in statistics.observers:
        out[tensor] = {}
        for method in methods:
            try:
                out[tensor][method] = list(statistics.range(tensor, method, ActivationGrid()))
            except StatisticsError:
                out[tensor][method] = None
    return out


def _described(model: str, output: str, statistics: Statistics, methods: list[str]) -> dict[str, Any]:
    """The statistics as the command prints them with ``--json``."""
    return {
        "model": model,
        "output": output,
        "bytes": Path(output).stat().st_size,
        "digest": statistics.model,
        "samples": statistics.samples,
        "synthetic": statistics.synthetic,
        "sources": to_json(statistics.sources),
        "tensors": _ranges(statistics, methods),
        "skipped": statistics.skipped,
    }


def _show(output: str, statistics: Statistics, methods: list[str], *, verbose: bool) -> None:
    screen = console()
    if verbose:
        rows = table("8-bit ranges", "tensor", *(f">{m}" for m in methods))
        for tensor, ranges in _ranges(statistics, methods).items():
            rows.add_row(tensor, *("no values" if r is None else f"{r[0]:.4g} .. {r[1]:.4g}" for r in ranges.values()))
        screen.print(rows)
    for reason, number in Counter(statistics.skipped.values()).items():
        tensors = [tensor for tensor, why in statistics.skipped.items() if why == reason]
        shown = ", ".join(tensors) if verbose or number == 1 else f"{tensors[0]} and {number - 1} more"
        say(screen, f"not observed: {shown}: {reason}")
    if statistics.synthetic:
        say(
            screen, "the ranges are those of made-up inputs; calibrate again with real data",
            label="SYNTHETIC samples: ", style="bold",
        )  # fmt: skip
    for text in filter(None, map(preparation, statistics.sources)):
        say(screen, text, label="prepared ", style="bold")
    click.echo(f"{output}: {len(statistics.observers)} tensors, {statistics.samples} samples")
