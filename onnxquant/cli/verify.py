"""``onnxquant verify``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from onnxquant.artifact.hashes import METADATA_ENTRY
from onnxquant.artifact.hashes import verify as verify_file
from onnxquant.cli.shared import FAILED, errors_become_exit_codes, json_option, print_json, progress_bar


@click.command(short_help="Check that a file is whole.")
@click.argument("model", type=click.Path())
@json_option
@errors_become_exit_codes
def verify(model: str, as_json: bool) -> None:
    """Check the stored hashes of MODEL, of every tensor and of its metadata; exit 1 where one does not hold.

    MODEL may be a decoder folder, or a file of tensors without a graph: GGUF, safetensors, a folder of .q8k files, AXQT.
    Every tensor of these is read: its checksum where there is one, that its codes have a meaning, that scales are finite,
    and that no float is NaN.

    \b
    Examples:
      onnxquant verify model.int8.onnx
      onnxquant verify model.gguf
      onnxquant verify decoder
    """
    if Path(model).suffix.lower() != ".onnx":
        # Files of tensors need formats, and with them plug-ins: a broken one must not keep a model from being checked.
        from onnxquant.cli.convert import verify_checkpoint
        from onnxquant.interchange.files import is_checkpoint
        from onnxquant.language.quantize import graph_of

        if is_checkpoint(Path(model)):
            verify_checkpoint(model, as_json=as_json)
            return
        model = str(graph_of(model))
    with progress_bar(is_shown=not as_json) as progress:
        results = verify_file(model, progress=progress)
    damaged = [name for name, is_whole in results.items() if not is_whole]
    if as_json:
        print_json({"model": model, "tensors": len(results), "damaged": damaged})
    else:
        for name in damaged:
            click.echo(f"damaged: {name}")
        tensors = [is_whole for name, is_whole in results.items() if name != METADATA_ENTRY]
        count = f"{sum(tensors)} of {len(tensors)} tensors as written" if tensors else "tensors were not checked"
        click.echo(f"{model}: {count}")
    if damaged:
        sys.exit(FAILED)
