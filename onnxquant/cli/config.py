"""``onnxquant config``."""

from __future__ import annotations

import click

from onnxquant.batch import config_file
from onnxquant.batch.run import BatchProgress, BatchReport, run
from onnxquant.cli.many_models import many_options, run_many
from onnxquant.cli.options import given
from onnxquant.cli.shared import Display, errors_become_exit_codes, print_json, report_options
from onnxquant.errors import RecipeError


@click.command(short_help="Quantize the models that a file lists.")
@click.argument("file", required=False, type=click.Path())
@click.option("--dry-run", is_flag=True, help="Print the plan of every model. Writes nothing.")
@click.option("--force", is_flag=True, help="Replace existing outputs.")
@many_options
@click.option("--schema", is_flag=True, help="Print the JSON Schema of FILE, for editors.")
@click.option("--example", is_flag=True, help="Print a commented example.")
@report_options
@errors_become_exit_codes
def config(file: str | None, schema: bool, example: bool, display: Display, **options: object) -> None:
    """Quantize the models that FILE (YAML or TOML) lists, with global options and their own; one table, one exit code.

    \b
    Nothing is begun if anything in FILE is wrong. Paths in it are relative to its
    folder. Options on the command line win over those in FILE.

    \b
    Examples:
      onnxquant config --example > quantize.yaml
      onnxquant config quantize.yaml --dry-run         the plan of every model
      onnxquant config quantize.yaml --jobs 2 --continue-on-error
      onnxquant config --schema > quantize.schema.json

    Exit codes: 0 all done, 1 some failed or missed a bound, 2 FILE is wrong, nothing done; 130 interrupted.
    """
    if schema:
        print_json(config_file.config_schema())
        return
    if example:
        click.echo(config_file.EXAMPLE.read_text(encoding="utf-8"), nl=False)
        return
    if file is None:
        raise RecipeError("FILE is missing; `onnxquant config --example` prints one")
    chosen = given(options)
    overrides = {name: True for name in ("dry_run", "force") if chosen.get(name)}
    contents = config_file.read(file, skip_existing=bool(chosen.get("skip_existing")), **overrides)

    def run_all(progress: BatchProgress) -> BatchReport:
        return run(
            contents.jobs,
            progress,
            workers=chosen.get("jobs", contents.workers),
            continue_on_error=chosen.get("continue_on_error", contents.continue_on_error),
            journal=contents.journal,
        )

    run_many(run_all, display, len(contents.jobs))
