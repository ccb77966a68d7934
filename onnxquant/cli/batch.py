"""``onnxquant batch``, and what it shares with ``config``: the display of many models, the table, the exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from onnxquant.batch.job import Verdict
from onnxquant.batch.run import BatchProgress, BatchReport, Interrupted, silent
from onnxquant.batch.run import batch as batch_models
from onnxquant.cli.options import (
    FAILED,
    console,
    data_option,
    errors_become_exit_codes,
    given,
    model_options,
    output_options,
    print_json,
    recipe_option,
)
from onnxquant.report.terminal import show, table
from onnxquant.report.units import decibels, size

_STYLES = {
    Verdict.PASSED: "green",
    Verdict.WRITTEN: "yellow",
    Verdict.PLANNED: "bold",
    Verdict.NOT_DONE: "dim",
    Verdict.FAILED: "red",
    Verdict.ERROR: "red",
}


def many_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --skip-existing, --continue-on-error and --jobs."""
    command = click.option(
        "--jobs", type=click.IntRange(1), default=1, metavar="N", show_default=True,
        help="Models at a time, each in a process of its own; they share the CPUs unless --threads is given.",
    )(command)  # fmt: skip
    command = click.option("--continue-on-error", is_flag=True, help="Go on when a model fails or misses a bound.")(
        command
    )
    return click.option(
        "--skip-existing",
        is_flag=True,
        help="Leave outputs alone that were made of the same model with the same options.",
    )(command)


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o", "--output-dir", required=True, type=click.Path(), metavar="DIR", help="Folder to write to; it is made."
)
@many_options
@recipe_option
@data_option("Samples for the proof, the same for every model")
@model_options(without=("jobs",))
@output_options
@errors_become_exit_codes
def batch(
    models: tuple[str, ...], output_dir: str, as_json: bool, verbose: bool, quiet: bool, one_line: bool, **options: Any
) -> None:
    """Quantize MODELS, which are files, folders (their *.onnx) or quoted patterns, into DIR; one table, one exit code.

    Each model is quantized in a process of its own: one that fails, runs out of memory or crashes is one row of the table.

    Without --continue-on-error no other model is begun once one has failed or missed a bound.

    With --skip-existing a second run does what is missing. An output that was made of another model or with other
    options is an error, or made again with --force.

    \b
    Examples:
      onnxquant batch models/ -o small/                            every models/*.onnx, to int8
      onnxquant batch 'models/**/*.onnx' -o small/ --bits 4 --jobs 2
      onnxquant batch models/ -o small/ --continue-on-error --skip-existing --min-sqnr 20
      onnxquant batch a.onnx b.onnx -o small/ --recipe cnn-int8 --data photos/ --summary
      onnxquant batch models/ -o small/ --dry-run                  what would become of each

    Exit codes: 0 all done, 1 some failed or missed a bound, 2 bad usage, nothing done; 130 interrupted.
    """
    quiet_display = quiet or as_json or one_line
    with interruptible() as conclude, display(shown=not quiet_display) as progress:
        conclude(batch_models(models, output_dir, progress=progress, **given(options)))
    finish(conclude.report, as_json=as_json, verbose=verbose, quiet=quiet, one_line=one_line, code=conclude.code)


class _Conclusion:
    """The report of a batch, also where it was interrupted."""

    def __init__(self) -> None:
        self.report, self.code = BatchReport(()), 0

    def __call__(self, report: BatchReport) -> None:
        self.report, self.code = report, 0 if report.passed else FAILED


@contextmanager
def interruptible() -> Iterator[_Conclusion]:
    """Take a report, or that of a batch that Ctrl-C ended."""
    conclusion = _Conclusion()
    try:
        yield conclusion
    except Interrupted as error:
        conclusion(error.report)
        conclusion.code = 128 + signal.SIGINT
        click.echo(f"onnxquant: interrupted; {error.report.done} of {len(error.report.rows)} models are done", err=True)


@contextmanager
def display(*, shown: bool, total: int | None = None) -> Iterator[BatchProgress]:
    """One bar for the batch, and one for every model that is being worked on; on stderr, gone when it is done."""
    if not (shown and sys.stderr.isatty()):
        yield silent
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        whole = bars.add_task("models done", total=total)
        active: dict[str, TaskID] = {}

        def show_progress(model: str, stage: str, done: float) -> None:
            if isinstance(stage, Verdict):
                if model in active:
                    bars.remove_task(active.pop(model))
                bars.advance(whole)
                return
            if model not in active:
                active[model] = bars.add_task(escape(model), total=100)
            bars.update(active[model], description=f"{escape(model)}: {stage}", completed=int(100 * done))

        yield show_progress


def finish(report: BatchReport, *, as_json: bool, verbose: bool, quiet: bool, one_line: bool, code: int) -> None:
    """Print what was asked for, and exit."""
    if as_json:
        print_json(report.to_dict())
    elif one_line:
        click.echo(report.summary())
    elif not quiet:
        _print(report, verbose=verbose)
    if code:
        sys.exit(code)


def _print(report: BatchReport, *, verbose: bool) -> None:
    screen = console()
    for row in report.rows:
        if row.report:
            show(row.report, screen, verbose=verbose)
    out = table(
        "Models", "model", "verdict", ">before", ">after", ">smaller", ">bits", ">worst SQNR", ">seconds", "why"
    )
    for row in report.rows:
        sizes = ["" if n is None else size(n) for n in (row.original_bytes, row.output_bytes)]
        why = " ".join(row.reason.split()) or ("kept from before" if row.reused else "")
        style = _STYLES[row.verdict]
        out.add_row(
            escape(row.model), f"[{style}]{row.verdict}[/{style}]", *sizes,
            "" if row.size_ratio is None else f"{row.size_ratio:.2f}x",
            "" if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}",
            "" if row.sqnr_db is None else decibels(row.sqnr_db),
            "" if row.seconds is None or row.reused else f"{row.seconds:.1f}", escape(why),
        )  # fmt: skip
    screen.print(out)
    screen.print(f"{report.done} of {len(report.rows)} models done")
