"""``onnxquant move``."""

from __future__ import annotations

import click

from onnxquant.cli.shared import errors_become_exit_codes
from onnxquant.graph.move import move as move_model


@click.command(short_help="Rename a model with its data.")
@click.argument("model", type=click.Path())
@click.argument("target", type=click.Path())
@click.option(
    "--data-name", metavar="NAME", help="Name of the data file, or its ending behind TARGET (_data). [default: as before]"
)
@click.option("--force", is_flag=True, help="Replace an existing target.")
@errors_become_exit_codes
def move(model: str, target: str, data_name: str | None, force: bool) -> None:
    """Give MODEL the name TARGET, and its data files names to match.

    A model with external data says the name of its data file: renamed by hand, the pair does not load. This works for
    files of any tool.

    \b
    Examples:
      onnxquant move model.int8.onnx model_quantized.onnx
      onnxquant move a.onnx b.onnx --data-name _data     b.onnx and b.onnx_data
    """
    notes: list[str] = []
    for path in move_model(model, target, data_name=data_name, force=force, notes=notes):
        click.echo(path)
    for sentence in notes:
        click.echo(sentence, err=True)
