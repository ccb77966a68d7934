"""Parts of commands that all of them share: forms of output, progress bars, errors and exit codes."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from onnxquant.errors import FeedError, OnnxQuantError
from onnxquant.recipe.progress import Progress, silent
from onnxquant.report.report import Report
from onnxquant.report.summary import summary
from onnxquant.report.table import say, with_short_words
from onnxquant.report.terminal import show
from onnxquant.report.write import paths_of
from onnxquant.system import interrupts

Command = Callable[..., Any]
FAILED, UNUSABLE = 1, 2
# Characters of the longest error.
_LONGEST = 4000
# Characters of the narrowest line.
_NARROWEST = 40
# Seconds between lines of progress, where there is no terminal for a bar.
_LOG_SECONDS = 10.0
# Distance between the quartiles of ratios of runs, as a part of their median, from which they are called uncertain.
_SPREAD = 0.1
# Key of a context's metadata under which the arguments are kept as they were typed.
ARGUMENTS = "onnxquant.arguments"


@dataclass(frozen=True)
class Display:
    """Form in which a command shows its result: tables, unless another form is asked for.

    Attributes:
        as_json: JSON
        verbose: tables with all weights
        quiet: nothing
        one_line: one line for scripts
    """

    as_json: bool
    verbose: bool
    quiet: bool
    one_line: bool = False

    @property
    def shows_progress(self) -> bool:
        """Whether progress bars are shown, where stderr is a terminal."""
        return not (self.as_json or self.quiet or self.one_line)

    def report(self, report: Report) -> None:
        """Print a report."""
        if self.as_json:
            print_json(report.to_dict())
        elif self.one_line:
            click.echo(summary(report))
        else:
            names = click.get_current_context().params.get("report") or ()
            places = paths_of(names, Path(report.output) if report.output else None)
            show(report, console(quiet=self.quiet), verbose=self.verbose, places=places)


def display_options(command: Command) -> Command:
    """The options --json, -v and -q; the command gets them as ``display``."""
    return _display_options(command, "as_json", "verbose", "quiet")


def report_options(command: Command) -> Command:
    """The options --json, -v, -q and --summary; the command gets them as ``display``."""
    text = "Print one line that scripts can read: PASSED model.int8.onnx 3.74x smaller 41.2 dB 1.32x faster."
    command = _display_options(command, "as_json", "verbose", "quiet", "one_line")
    return click.option("--summary", "one_line", is_flag=True, help=text)(command)


def _display_options(command: Command, *names: str) -> Command:
    @wraps(command)
    def with_display(*args: object, **options: object) -> object:
        display = Display(**{name: bool(options.pop(name)) for name in names})
        return command(*args, display=display, **options)

    verbose = "Print every weight, and what passes changed."
    with_options: Command = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")(with_display)
    with_options = click.option("-v", "--verbose", is_flag=True, help=verbose)(with_options)
    return click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")(with_options)


def json_option(command: Command) -> Command:
    """The option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def errors_become_exit_codes(command: Command) -> Command:
    """One line on stderr and exit code 2 for our own errors; no traceback for anything a user can cause."""

    @wraps(command)
    def wrapped(*args: object, **kwargs: object) -> object:
        with suppress(ValueError):  # outside the main thread signals belong to somebody else
            signal.signal(signal.SIGTERM, _terminated)
        try:
            return command(*args, **kwargs)
        except FeedError as error:
            fail(str(error), error.table)
        except OnnxQuantError as error:
            fail(str(error))
        except KeyboardInterrupt as interrupt:
            said = str(interrupt) or "an output that is there is whole, but not proven"
            click.echo(f"onnxquant: interrupted; {said}", err=True)
            is_terminated = isinstance(interrupt, interrupts.Terminated)
            sys.exit(128 + (signal.SIGTERM if is_terminated else signal.SIGINT))
        except BrokenPipeError:
            sys.exit(FAILED)
        except MemoryError as error:
            fail(f"out of memory: {error}" if str(error) else "out of memory")
        except OSError as error:  # a full disk for temporary files, say
            fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))

    return wrapped


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    # An exception unwinds the stack, so that temporary files are removed.
    raise interrupts.Terminated


def fail(message: str, table: Sequence[str] = ()) -> NoReturn:
    """One line on stderr, exit code 2; on a terminal a table below it."""
    click.echo(f"onnxquant: error: {_in_one_line(message)}", err=True)
    for line in table if sys.stderr.isatty() else ():
        click.echo(_in_one_line(line), err=True)
    sys.exit(UNUSABLE)


def _in_one_line(message: str) -> str:
    """A message whose names, which come from files, can neither fill a terminal nor command it."""
    line = " ".join(message.splitlines())
    plain = with_short_words("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line))
    if len(plain) <= _LONGEST:
        return plain
    half = _LONGEST // 2
    return f"{plain[:half]} ... ({len(plain) - 2 * half} characters) ... {plain[-half:]}"


def command_line() -> str:
    """The command as it was typed, for reports."""
    context = click.get_current_context()
    arguments = context.find_root().meta.get(ARGUMENTS, [])
    return shlex.join(["onnxquant", *arguments])


def print_json(data: object) -> None:
    """Data for machines, on stdout."""
    click.echo(json.dumps(data, indent=2))


def console(*, quiet: bool = False) -> Console:
    """A console on stdout, as wide as ``COLUMNS`` or else the terminal; 80 characters where there is neither."""
    return Console(quiet=quiet, highlight=False, width=max(shutil.get_terminal_size().columns, _NARROWEST))


def say_spread(spreads: Mapping[str, float]) -> None:
    """Say that the speeds of models are uncertain, where pairs of runs differ much among themselves.

    Args:
        spreads: distance between the quartiles of the ratios of each model, as a part of their median.
    """
    wide = {name: spread for name, spread in spreads.items() if spread > _SPREAD}
    if wide:
        parts = ", ".join(f"{name} by {spread:.0%}" for name, spread in wide.items())
        text = f"ratios of single runs spread ({parts} between their quartiles): other programs disturb; measure again"
        say(console(), text, label="uncertain: ", style="yellow")


class _LogLines:
    """Progress as lines of a log, one for every ten seconds, whether work tells of itself or not."""

    def __init__(self) -> None:
        self._begin = self._last = self._stage_begin = time.monotonic()
        self._stage, self._first, self._done = "loading", 0.0, 0.0
        self._lock = threading.Lock()

    def __call__(self, stage: str, done: float, /) -> None:
        """Take note of the progress."""
        with self._lock:
            if stage.partition(",")[0] != self._stage.partition(",")[0] or done < self._done:
                self._stage_begin, self._first = time.monotonic(), done
            self._stage, self._done = stage, done
        self.show()

    def show(self) -> None:
        """Show a line, if it is time for one."""
        with self._lock:
            now = time.monotonic()
            if now - self._last >= _LOG_SECONDS:
                self._last = now
                click.echo(f"{now - self._begin:.0f} s: {self._stage}{self._part(now)}", err=True)

    def _part(self, now: float) -> str:
        """The part of the stage that is done, and the time that the rest takes at this pace."""
        if self._done <= self._first:
            return f", {self._done:.0%}" if self._done else ""
        left = (now - self._stage_begin) * (1 - self._done) / (self._done - self._first)
        return f", {self._done:.0%}" + (f", about {left:.0f} s left" if left >= 1 else "")

    def announce(self, line: str, /) -> None:
        """Show a line."""
        click.echo(f"{time.monotonic() - self._begin:.0f} s: {line}", err=True)


@contextmanager
def _log_lines() -> Iterator[_LogLines]:
    """Lines of a log, which come when work is silent, too."""
    lines, is_over = _LogLines(), threading.Event()

    def watch() -> None:
        while not is_over.wait(1.0):
            lines.show()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lines
    finally:
        is_over.set()
        watcher.join()


@contextmanager
def progress_bar(*, is_shown: bool) -> Iterator[Progress]:
    """A progress bar on stderr, removed at the end; a line now and then where stderr is no terminal."""
    if not is_shown:
        yield silent
        return
    if not sys.stderr.isatty():
        with _log_lines() as lines:
            yield lines
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), _SinceBegin(), TimeRemainingColumn(compact=True))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Stages(bars)


class _SinceBegin(ProgressColumn):
    """The time since the run began, of which a stage is a part."""

    def __init__(self) -> None:
        super().__init__()
        self._begin = time.monotonic()

    def render(self, task: Task) -> Text:
        """The minutes and seconds."""
        minutes, seconds = divmod(int(time.monotonic() - self._begin), 60)
        return Text(f"{minutes}:{seconds:02}")


class _Stages:
    """A bar for the stage at work; each stage begins with an empty one, which moves to and fro until its length is known."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._begin("loading", 0.0)

    def _begin(self, stage: str, done: float) -> None:
        self._stage, self._is_measured = stage, done > 0
        self._task = self._bars.add_task(escape(stage), total=1.0 if self._is_measured else None)
        self._bars.update(self._task, completed=done)

    def __call__(self, stage: str, done: float, /) -> None:
        """Show the progress of a stage."""
        if stage == self._stage and self._is_measured == (done > 0):
            self._bars.update(self._task, completed=done)
            return
        self._bars.remove_task(self._task)
        self._begin(stage, done)

    def announce(self, line: str, /) -> None:
        """Show a line above the bar, which stays."""
        self._bars.console.print(line, highlight=False, markup=False)
