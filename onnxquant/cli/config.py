"""``onnxquant config``."""

from __future__ import annotations

from typing import Any

import click

from onnxquant.batch import config_file
from onnxquant.batch.run import run
from onnxquant.cli.batch import display, finish, interruptible, many_options
from onnxquant.cli.options import errors_become_exit_codes, given, output_options, print_json
from onnxquant.errors import RecipeError


@click.command()
@click.argument("file", required=False, type=click.Path())
@click.option("--dry-run", is_flag=True, help="Print the plan of every model. Writes nothing.")
@click.option("--force", is_flag=True, help="Replace existing outputs.")
@many_options
@click.option("--schema", is_flag=True, help="Print the JSON Schema of FILE, for editors.")
@click.option("--example", is_flag=True, help="Print a commented example.")
@output_options
@errors_become_exit_codes
def config(
    file: str | None,
    schema: bool,
    example: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    one_line: bool,
    **options: Any,
) -> None:
    """Quantize what FILE (YAML or TOML) says: global options, models with their own, a batch; one table, one exit code.

    \b
    Nothing is begun if anything in FILE is wrong. Paths in it are relative to its folder.
    Options given here win over those in FILE.

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
    options = given(options)
    overrides = {name: True for name in ("dry_run", "force") if options.get(name)}
    contents = config_file.read(file, skip_existing=bool(options.get("skip_existing")), **overrides)
    is_shown = not (quiet or as_json or one_line)
    with interruptible() as conclude, display(shown=is_shown, total=len(contents.jobs)) as progress:
        report = run(
            contents.jobs,
            progress,
            workers=options.get("jobs", contents.workers),
            continue_on_error=options.get("continue_on_error", contents.continue_on_error),
            journal=contents.journal,
        )
        conclude(report)
    finish(conclude.report, as_json=as_json, verbose=verbose, quiet=quiet, one_line=one_line, code=conclude.code)
