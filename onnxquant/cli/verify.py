"""``onnxquant verify``."""

from __future__ import annotations

import sys

import click

from onnxquant.artifact.hashes import METADATA_ENTRY
from onnxquant.artifact.hashes import verify as verify_file
from onnxquant.cli.shared import FAILED, errors_become_exit_codes, json_option, print_json


@click.command(short_help="Check the hashes of a model.")
@click.argument("model", type=click.Path())
@json_option
@errors_become_exit_codes
def verify(model: str, as_json: bool) -> None:
    """Check the stored hashes of MODEL, of every tensor and of its metadata; exit 1 where one does not hold.

    \b
    Examples:
      onnxquant verify model.int8.onnx
    """
    results = verify_file(model)
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
