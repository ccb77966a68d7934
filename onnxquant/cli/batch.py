"""``onnxquant batch``."""

from __future__ import annotations

import click

from onnxquant.batch.run import batch as batch_models
from onnxquant.cli.many_models import many_options, run_many
from onnxquant.cli.options import data_option, given, model_options, recipe_option
from onnxquant.cli.shared import Display, errors_become_exit_codes, report_options


@click.command(short_help="Quantize many models.")
@click.argument("models", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o", "--output-dir", "--output", "output_dir", required=True, type=click.Path(), metavar="DIR",
    help="Folder to write to; it is created.",
)
@many_options
@recipe_option
@data_option("Samples for the proof, the same for every model")
@model_options(without=("jobs",))
@report_options
@errors_become_exit_codes
def batch(models: tuple[str, ...], output_dir: str, display: Display, **options: object) -> None:
    """Quantize MODELS (files, folders with *.onnx, or quoted patterns) into DIR; one table, one exit code.

    Each model is quantized in a process of its own: one that fails, runs out of memory or crashes is one row of the table.

    Without --continue-on-error no other model is begun once one has failed or missed a bound.

    With --skip-existing a second run makes the missing outputs. An output that was made of another model or with other
    options is an error; with --force it is made again.

    \b
    Examples:
      onnxquant batch models/ -o small/             every models/*.onnx, to int8
      onnxquant batch models/ -o fast/ --data photos/  the fastest good file of each
      onnxquant batch 'models/**/*.onnx' -o small/ --bits 4 --jobs 2
      onnxquant batch models/ -o small/ --skip-existing --min-sqnr 20
      onnxquant batch a.onnx b.onnx -o small/ --recipe cnn-int8 --data photos/
      onnxquant batch models/ -o small/ --dry-run   the plan of each

    Exit codes: 0 all done, 1 some failed or missed a bound, 2 bad usage, nothing done; 130 interrupted.
    """
    chosen = given(options)
    run_many(lambda progress: batch_models(models, output_dir, progress=progress, **chosen), display)
