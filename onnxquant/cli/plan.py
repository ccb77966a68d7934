"""``onnxquant plan``."""

from __future__ import annotations

from collections.abc import Callable

import click
from rich.markup import escape

from onnxquant.cli.options import data_option, given, model_options
from onnxquant.cli.shared import console, errors_become_exit_codes, json_option, print_json
from onnxquant.inspect.overview import Overview, Part, overview
from onnxquant.json_data import to_object
from onnxquant.language.quantize import graph_of
from onnxquant.report.table import say
from onnxquant.report.units import size

# Characters of the labels of lines.
_LABEL = 10


@click.command(short_help="Say what a model is made of, and how to quantize it.")
@click.argument("model", type=click.Path())
@data_option("Samples, the first of which is run; without them one is made up")
@model_options("dim", "preprocess", "seed", "threads", "external_root", "custom_op_library")
@json_option
@errors_become_exit_codes
def plan(model: str, data: str | None, as_json: bool, **options: object) -> None:
    """Say in ten lines what MODEL is made of, where its bytes and its time are, and which ways of quantizing suit it.

    Nothing is written. The time of each operator is measured with onnxruntime's profiler, on one thread unless --threads says
    otherwise. MODEL may be a decoder folder. `onnxquant quantize --dry-run` prints the decision about every weight.

    \b
    Examples:
      onnxquant plan model.onnx
      onnxquant plan model.onnx --data photos/ --json
    """
    chosen = {name: value for name, value in given(options).items() if name != "data"}
    result = overview(graph_of(model), data, **chosen)
    if as_json:
        print_json(to_object(result))
        return
    screen = console()
    for label, text in _lines(result):
        say(screen, text, label=f"{label:<{_LABEL}}", style="bold")
    for label, command in zip(("next", ""), result.commands, strict=True):  # to be copied: never broken into lines
        screen.print(f"[bold]{label:<{_LABEL}}[/bold]{escape(command)}", soft_wrap=True)


def _lines(result: Overview) -> list[tuple[str, str]]:
    """The lines, each with its label."""
    sample = "a made-up sample" if result.is_synthetic else "the first sample"
    return [
        ("model", f"{result.model}: {size(result.nbytes)}, opset {result.opset}, {result.nodes} nodes"),
        ("bytes", f"{result.weights} weights: {_shares(result.stored, _size)}"),
        ("time", f"{1e3 * result.seconds:.3g} ms for {sample}"),
        ("", _shares(result.operators, _milliseconds)),
        ("slowest", _shares(result.slowest, _milliseconds)),
        ("ways", "; ".join(result.ways) or "none"),
        ("gain", result.prospect),
    ]


def _shares(parts: tuple[Part, ...], unit: Callable[[float], str]) -> str:
    """Parts with their shares; those of less than one in a hundred are left out."""
    texts = [f"{part.name} {part.share:.0%} ({unit(part.amount)})" for part in parts if part.share >= 0.01]
    return ", ".join(texts) or "none"


def _size(nbytes: float) -> str:
    return size(int(nbytes))


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
