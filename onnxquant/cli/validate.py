"""``onnxquant validate``."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from onnxquant.cli.options import data_option, model_options
from onnxquant.cli.shared import FAILED, Display, command_line, errors_become_exit_codes, progress_bar, report_options
from onnxquant.inspect.validate import validate as validate_models

_OPTIONS = (
    "samples", "seed", "threads", "dim", "preprocess", "labels", "min_sqnr", "max_mse", "metric", "max_drop", "judge",
    "external_root", "custom_op_library", "report", "force",
)  # fmt: skip


@click.command(short_help="Prove a quantized model.")
@click.argument("original", type=click.Path())
@click.argument("quantized", type=click.Path())
@click.option(
    "--detailed",
    is_flag=True,
    help="Show the error of each weight, and what it adds to the error of the outputs; the largest first.",
)
@data_option("Samples")
@model_options(*_OPTIONS)
@report_options
@errors_become_exit_codes
def validate(original: str, quantized: str, detailed: bool, data: str | None, display: Display, **options: object) -> None:
    """Prove QUANTIZED against ORIGINAL: structure, weights, outputs, sizes, speed.

    \b
    Compares float, the dense twin (the original with decoded weights), and the
    file as deployed. Without --data the samples are synthetic: good for finding
    defects, not for judging accuracy.

    \b
    Examples:
      onnxquant validate model.onnx model.int8.onnx
      onnxquant validate model.onnx model.int8.onnx --data feeds.npz --detailed
      onnxquant validate model.onnx model.int8.onnx --min-sqnr 30
    """
    with progress_bar(is_shown=display.shows_progress) as progress:
        report = validate_models(
            original, quantized, data, detailed=detailed, progress=progress, command=command_line(), **options
        )
    replace(display, verbose=display.verbose or detailed).report(report)
    if not report.passed:
        sys.exit(FAILED)
