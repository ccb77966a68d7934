"""``onnxquant validate``."""

from __future__ import annotations

import sys
from typing import Any

import click

from onnxquant.cli.options import (
    FAILED,
    command_line,
    console,
    data_option,
    errors_become_exit_codes,
    model_options,
    output_options,
    print_json,
    progress_bar,
)
from onnxquant.inspect.validate import validate as validate_models
from onnxquant.report.summary import summary
from onnxquant.report.terminal import show


@click.command()
@click.argument("original", type=click.Path())
@click.argument("quantized", type=click.Path())
@click.option(
    "--detailed", is_flag=True, help="Each weight's error, and what each site adds to the outputs' error, the most first."
)
@data_option("Samples")
@model_options(
    "samples",
    "seed",
    "threads",
    "dim",
    "preprocess",
    "min_sqnr",
    "max_mse",
    "metric",
    "max_drop",
    "external_root",
    "report",
    "force",
)
@output_options
@errors_become_exit_codes
def validate(
    original: str,
    quantized: str,
    detailed: bool,
    data: str | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    one_line: bool,
    **options: Any,
) -> None:
    """Prove QUANTIZED against ORIGINAL: structure, weights, outputs, sizes, speed.

    \b
    Compares float, the dense twin (the original with decoded weights), and the file as deployed.
    Without --data the feeds are synthetic: good for finding defects, not for judging accuracy.

    \b
    Examples:
      onnxquant validate model.onnx model.int8.onnx
      onnxquant validate model.onnx model.int8.onnx --data feeds.npz --min-sqnr 30 --detailed
    """
    with progress_bar(shown=sys.stderr.isatty() and not (quiet or as_json or one_line)) as progress:
        report = validate_models(
            original, quantized, data, detailed=detailed, progress=progress, command=command_line(), **options
        )
    if as_json:
        print_json(report.to_dict())
    elif one_line:
        click.echo(summary(report))
    else:
        show(report, console(quiet=quiet), verbose=verbose or detailed)
    if not report.passed:
        sys.exit(FAILED)
