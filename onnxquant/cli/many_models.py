"""Parts of the commands that quantize many models: options, progress bars, the table and the exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from onnxquant.batch.run import BatchProgress, BatchReport, Interrupted, silent
from onnxquant.cli.shared import FAILED, Command, Display, console, print_json
from onnxquant.report.state import State
from onnxquant.report.terminal import show, table
from onnxquant.report.units import decibels, size


def many_options(command: Command) -> Command:
    """The options --skip-existing, --continue-on-error and --jobs."""
    jobs = "Number of models at a time, each in a process of its own. They share the CPUs unless --threads is given."
    command = click.option("--jobs", type=click.IntRange(1), default=1, metavar="N", show_default=True, help=jobs)(
        command
    )
    go_on = "Go on when a model fails or misses a bound."
    command = click.option("--continue-on-error", is_flag=True, help=go_on)(command)
    skip = "Keep outputs that were made of the same model with the same options."
    return click.option("--skip-existing", is_flag=True, help=skip)(command)


def run_many(run: Callable[[BatchProgress], BatchReport], display: Display, count: int | None = None) -> None:
    """Quantize many models, print the report, also where Ctrl-C ended them, and exit unless all are done.

    Args:
        run: function that quantizes the models and reports its progress
        display: form of the report
        count: number of models, where it is known
    """
    try:
        with progress_bars(is_shown=display.shows_progress, count=count) as progress:
            report = run(progress)
        code = 0 if report.passed else FAILED
    except Interrupted as error:
        report, code = error.report, 128 + signal.SIGINT
        click.echo(f"onnxquant: interrupted; {report.done} of {len(report.rows)} models are done", err=True)
    if display.as_json:
        print_json(report.to_dict())
    elif display.one_line:
        click.echo(report.summary())
    elif not display.quiet:
        _print(report, verbose=display.verbose)
    if code:
        sys.exit(code)


@contextmanager
def progress_bars(*, is_shown: bool, count: int | None = None) -> Iterator[BatchProgress]:
    """A bar for all models, and one for each model at work; on stderr, removed at the end."""
    if not (is_shown and sys.stderr.isatty()):
        yield silent
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        whole = bars.add_task("models done", total=count)
        active: dict[str, TaskID] = {}

        def show_progress(model: str, stage: str, done: float) -> None:
            if isinstance(stage, State):
                if model in active:
                    bars.remove_task(active.pop(model))
                bars.advance(whole)
                return
            if model not in active:
                active[model] = bars.add_task(escape(model), total=100)
            bars.update(active[model], description=f"{escape(model)}: {stage}", completed=int(100 * done))

        yield show_progress


def _print(report: BatchReport, *, verbose: bool) -> None:
    screen = console()
    for row in report.rows:
        if row.report:
            show(row.report, screen, verbose=verbose)
            screen.print()
    out = table(
        "Models", "model", "verdict", ">before", ">after", ">smaller", ">worst SQNR", ">bits", ">seconds", "~why"
    )
    for row in report.rows:
        sizes = ["" if n is None else size(n) for n in (row.original_bytes, row.output_bytes)]
        why = " ".join(row.reason.split()) or ("kept from before" if row.reused else "")
        style = row.verdict.color
        out.add_row(
            row.model, Text(str(row.verdict), style), *sizes,
            "" if row.size_ratio is None else f"{row.size_ratio:.2f}x",
            "" if row.sqnr_db is None else decibels(row.sqnr_db),
            "" if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}",
            "" if row.seconds is None or row.reused else f"{row.seconds:.1f}", why,
        )  # fmt: skip
    screen.print(out)
    screen.print(f"{report.done} of {len(report.rows)} models done")
