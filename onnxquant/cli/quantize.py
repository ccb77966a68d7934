"""``onnxquant quantize``."""

from __future__ import annotations

import sys
from typing import Any

import click

from onnxquant.cli.options import (
    FAILED,
    chatter,
    command_line,
    console,
    data_option,
    errors_become_exit_codes,
    model_options,
    print_json,
    progress_bar,
)
from onnxquant.convert import quantize as quantize_model
from onnxquant.report.terminal import show


@click.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="File to write. [default: MODEL.FORMAT.onnx beside MODEL]")
@click.option(
    "--recipe",
    type=click.Path(),
    help="TOML or YAML file of ordered rules, or a name that `onnxquant list` shows; options below add the last one.",
)
@data_option("Samples for the proof")
@model_options()
@chatter
@errors_become_exit_codes
def quantize(
    model: str,
    output: str | None,
    recipe: str | None,
    data: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Quantize the weights of MODEL, write the result, and prove it.

    \b
    Examples:
      onnxquant quantize model.onnx                               int8, the safe default
      onnxquant quantize model.onnx -o small.onnx --bits 4        4-bit weights
      onnxquant quantize model.onnx --format q4_0 --target custom ggml blocks for our kernels
      onnxquant quantize model.onnx --exclude 'head|embed'        keep some weights in float
      onnxquant quantize model.onnx --data feeds.npz --min-sqnr 30
      onnxquant quantize model.onnx --format int4 --data texts.npz    GPTQ: data tells what weights meet
      onnxquant quantize model.onnx --budget-bpw 4.5 --data texts.npz the best formats of that size
      onnxquant quantize model.onnx --recipe q4-mixed             a recipe that comes with the package
      onnxquant quantize model.onnx --dry-run                     the plan, nothing written
    """
    with progress_bar(shown=sys.stderr.isatty() and not (quiet or as_json)) as progress:
        report = quantize_model(
            model, output, recipe=recipe, data=data, progress=progress, command=command_line(), **options
        )
    if as_json:
        print_json(report.to_dict())
    else:
        show(report, console(quiet=quiet), verbose=verbose)
    if not report.passed:
        sys.exit(FAILED)
