"""``onnxquant dequantize``."""

from __future__ import annotations

import click

from onnxquant.artifact.restore import dequantize as dequantize_file
from onnxquant.cli.shared import errors_become_exit_codes


@click.command(short_help="Write the float model of a quantized one.")
@click.argument("model", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="File to write.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@errors_become_exit_codes
def dequantize(model: str, output: str, force: bool) -> None:
    """Write the plain float model that a quantized MODEL stands for.

    \b
    Examples:
      onnxquant dequantize model.int8.onnx -o model.float.onnx
    """
    count = dequantize_file(model, output, force=force)
    click.echo(f"{output}: {count} weights decoded")
