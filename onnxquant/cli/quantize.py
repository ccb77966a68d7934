"""``onnxquant quantize``."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.markup import escape

from onnxquant.cli.options import (
    FAILED,
    command_line,
    console,
    data_option,
    errors_become_exit_codes,
    given,
    model_options,
    output_options,
    print_json,
    progress_bar,
    recipe_option,
)
from onnxquant.convert.quantize import quantize as quantize_model
from onnxquant.inspect.compatibility import advice
from onnxquant.report.summary import summary
from onnxquant.report.terminal import show


@click.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="File to write. [default: MODEL.FORMAT.onnx beside MODEL]")
@recipe_option
@data_option("Samples for the proof")
@model_options()
@output_options
@errors_become_exit_codes
def quantize(
    model: str,
    output: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    one_line: bool,
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
      onnxquant quantize model.onnx --dry-run --save-recipe plan.toml     the plan as a recipe to edit
    """
    with progress_bar(shown=sys.stderr.isatty() and not (quiet or as_json or one_line)) as progress:
        report = quantize_model(model, output, progress=progress, command=command_line(), **given(options))
    if as_json:
        print_json(report.to_dict())
    elif one_line:
        click.echo(summary(report))
    else:
        screen = console(quiet=quiet)
        show(report, screen, verbose=verbose)
        if report.output_bytes is not None:
            screen.print(f"[dim]{escape(advice(str(report.output)))}[/dim]")
    if not report.passed:
        sys.exit(FAILED)
