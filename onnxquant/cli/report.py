"""``onnxquant report``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxquant.cli.shared import console, errors_become_exit_codes, json_option, print_json
from onnxquant.errors import OutputError, RecipeError
from onnxquant.json_data import to_object
from onnxquant.report import comparison, schema
from onnxquant.report import write as files
from onnxquant.report.comparison import Comparison
from onnxquant.report.report import Report
from onnxquant.report.terminal import show, table


@click.command(short_help="Show or compare saved reports.")
@click.argument("reports", nargs=-1, type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="Write the page to this file: .html, .md or .json; an ending alone means beside the report.",
)
@json_option
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON Schema of reports.")
@click.option("-v", "--verbose", is_flag=True, help="Print every weight, and what passes changed.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@errors_become_exit_codes
def report(
    reports: tuple[str, ...], output: str | None, as_json: bool, as_schema: bool, verbose: bool, force: bool
) -> None:
    """Show a report that was saved as JSON, or compare several.

    \b
    Examples:
      onnxquant report model.int8.json                    on the terminal
      onnxquant report model.int8.json -o page.html       as a page
      onnxquant report model.int8.json model.q4_0.json    side by side
      onnxquant report --schema                           the schema of reports
    """
    if as_schema:
        click.echo(schema.text(), nl=False)
        return
    if not reports:
        raise RecipeError("report takes at least one report that was saved as JSON")
    loaded = {name: Report.load(name) for name in dict.fromkeys(reports)}
    if output is not None:
        _write(loaded, output, force=force)
    elif len(reports) == 1:
        only = loaded[reports[0]]
        if as_json:
            print_json(only.to_dict())
        else:
            show(only, console(), verbose=verbose)
    elif as_json:
        print_json(to_object(comparison.compare(loaded)))
    else:
        _show(comparison.compare(loaded))


def _write(loaded: dict[str, Report], output: str, *, force: bool) -> None:
    """Write one report in the form of the output's ending, or a comparison of several."""
    paths = files.places([output], Path(next(iter(loaded))), force=force)
    if paths[0].resolve() in [Path(name).resolve() for name in loaded]:
        raise OutputError(f"{paths[0]}: is an input; inputs are never overwritten, give another output")
    if len(loaded) == 1:
        files.write(next(iter(loaded.values())), paths)
    else:
        files.write_comparison(comparison.compare(loaded), paths[0])
    click.echo(f"{paths[0]}: written")


def _show(data: Comparison) -> None:
    screen = console()
    out = table("Reports", *comparison.COLUMNS)
    for row in data.reports:
        out.add_row(*row.cells)
    screen.print(out)
    for title, subject, differing in (
        ("Quality of each part of the outputs", "part", data.quality),
        ("Options that differ", "option", data.options),
        ("Weights on which they differ", "weight", data.sites),
    ):
        more = table(title, subject, *data.names)
        for fact in differing:
            more.add_row(*fact.cells)
        if differing:
            screen.print()
            screen.print(more)
    if not data.sites:
        screen.print("every weight has the same format in all of them")
