"""``onnxquant hub``."""

from __future__ import annotations

import signal
import sys

import click
from rich.text import Text

from onnxquant.batch.run import Interrupted
from onnxquant.cli.many_models import progress_bars
from onnxquant.cli.options import data_option, given, model_options
from onnxquant.cli.shared import FAILED, console, errors_become_exit_codes, print_json
from onnxquant.hub.report import HubReport
from onnxquant.hub.run import entries_text
from onnxquant.hub.run import hub as hub_folder
from onnxquant.hub.variants import variants
from onnxquant.report.table import say
from onnxquant.report.terminal import table
from onnxquant.report.units import size

# Options of quantize that hold for every variant.
_OPTIONS = (
    "clients", "external_data", "data_limit", "external_root", "dim", "preprocess", "calibration_samples", "samples", "seed",
    "threads", "dry_run", "force",
)  # fmt: skip


@click.command(short_help="Write the variants that a model hub expects.")
@click.argument("folder", type=click.Path())
@click.option(
    "--only", multiple=True, metavar="DTYPE,...", help=f"Variants to write: {', '.join(variants())}. [default: all but q2]"
)
@data_option("Samples of every model, or a folder with NAME.npz for single ones")
@click.option("--skip-existing", is_flag=True, help="Keep files that were made of the same model in the same way.")
@click.option("--jobs", type=click.IntRange(1), default=1, metavar="N", show_default=True, help="Number of files at a time.")
@model_options(*_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@errors_become_exit_codes
def hub(folder: str, as_json: bool, quiet: bool, **options: object) -> None:
    """Write variants of each model in FOLDER/onnx, named as transformers.js looks for them: model_q4.onnx and so on.

    The float models are FOLDER/onnx/model.onnx, encoder_model.onnx, decoder_model_merged.onnx and the like. config.json
    gets the entries that load the variants, onnx/variants.md is a table for the model card, onnx/variants.json holds the
    proofs. A file whose outputs are not close enough to the float model's is not kept; the others are.

    \b
    Examples:
      onnxquant hub minilm/
      onnxquant hub minilm/ --data texts.npz --only q8,q4
      onnxquant hub whisper/ --skip-existing --jobs 2
      onnxquant hub minilm/ --dry-run

    Exit codes: 0 all are there, 1 some are not, 2 bad usage, nothing done; 130 interrupted.
    """
    try:
        with progress_bars(is_shown=not (as_json or quiet)) as progress:
            report = hub_folder(folder, progress=progress, **given(options))
    except Interrupted as error:
        rows = error.report
        click.echo(f"onnxquant: interrupted; {rows.done} of {len(rows.rows)} files are done", err=True)
        sys.exit(128 + signal.SIGINT)
    if as_json:
        print_json(report.to_dict())
    elif not quiet:
        _print(report)
    if not report.passed:
        sys.exit(FAILED)


def _print(report: HubReport) -> None:
    screen = console()
    out = table("", "file", ">size", ">smaller", ">cosine", ">speed", "verdict", "~why")
    for model in report.models:
        out.add_row(model.path.name, size(model.nbytes), "1.00x", "1", "1.00x", "float", "")
        for row in (row for row in report.rows if row.model == model.name):
            out.add_row(row.file, *row.figures, Text(str(row.state), row.state.color), row.reason or row.way)
    if report.models:
        screen.print(out)
    for note in report.notes:
        say(screen, note)
    if report.config:
        say(screen, entries_text(report.config), label="config.json: transformers.js_config: ")
    for path in report.files:
        say(screen, str(path))
