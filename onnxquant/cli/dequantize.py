"""``onnxquant dequantize``."""

from __future__ import annotations

import click

from onnxquant.artifact.restore import dequantize as dequantize_file
from onnxquant.cli.shared import errors_become_exit_codes, progress_bar
from onnxquant.language.quantize import dequantize as dequantize_folder
from onnxquant.language.running.folder import is_decoder_folder


@click.command(short_help="Write the float model of a quantized one.")
@click.argument("model", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="File to write; of a decoder folder, the folder.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@errors_become_exit_codes
def dequantize(model: str, output: str, force: bool) -> None:
    """Write the plain float model that a quantized MODEL stands for. MODEL may be a decoder folder, and becomes one.

    \b
    Examples:
      onnxquant dequantize model.int8.onnx -o model.float.onnx
      onnxquant dequantize decoder -o decoder.float
    """
    write = dequantize_folder if is_decoder_folder(model) else dequantize_file
    with progress_bar(is_shown=True) as progress:
        count = write(model, output, force=force, progress=progress)
    click.echo(f"{output}: {count} weights decoded")
