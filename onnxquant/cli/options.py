"""Command-line options generated from the one Options object, and what commands share."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from onnxquant.errors import OnnxQuantError, nearest
from onnxquant.recipe.declaration import Option, options_of
from onnxquant.recipe.files import shipped
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress, silent

Command = Callable[..., Any]
if TYPE_CHECKING:
    _ParamType: TypeAlias = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # it is not generic in older releases of click
FAILED, UNUSABLE = 1, 2
# Where a context keeps what was typed.
ARGUMENTS = "onnxquant.arguments"


def model_options(*names: str, without: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Click options for the fields of ``Options`` and the parameters of formats.

    Args:
        names: names of the options to add; none: all
        without: names of options to leave out
    """
    known = options_of(Options)
    chosen = [known[name] for name in known if name not in without and (not names or name in names)]
    if unknown := {*names, *without} - set(known):
        raise LookupError(f"no options of these names: {', '.join(sorted(unknown))}")

    def decorate(command: Command) -> Command:
        for option in reversed(chosen):
            command = _click_option(option)(command)
        return command

    return decorate


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that the command line holds, so that a recipe or a file decides the others."""
    source = click.get_current_context().get_parameter_source
    return {k: v for k, v in options.items() if source(k) is not ParameterSource.DEFAULT}


def _click_option(option: Option) -> Callable[[Command], Command]:
    declared, default = option.declared, option.default
    if option.is_flag:
        return click.option(option.flag, option.name, is_flag=True, default=default, help=declared.help)
    return click.option(
        option.flag, option.name, type=_Value(option), default=default, multiple=option.is_list,
        metavar=declared.metavar or None, help=declared.help, show_default=default not in (None, ()),
    )  # fmt: skip


class _Value(_ParamType):
    """The value of an option: its type, its choices, and what a shell offers for it."""

    def __init__(self, option: Option) -> None:
        self._option = option
        kinds = {"string": click.STRING, "integer": click.INT, "number": click.FLOAT}
        self._type: click.ParamType[Any] = next(kind for name, kind in kinds.items() if name in option.kinds)
        self.name = self._type.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value in its type.

        Raises:
            BadParameter: it is of another type, or no choice.
        """
        converted = self._type.convert(value, param, ctx)
        choices = self._option.choices()
        if choices and converted not in choices:
            self.fail(f"{converted!r}{nearest(str(converted), list(map(str, choices)))}", param, ctx)
        return converted

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        """The choices, as help texts show them."""
        choices = self._option.choices()
        return f"[{'|'.join(map(str, choices))}]" if choices else None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Words that begin as typed, or files."""
        declared = self._option.declared
        if declared.is_path is not None:
            return [CompletionItem(incomplete, type="file")]
        words = declared.completion() if declared.completion else map(str, self._option.choices())
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    names = [CompletionItem(name) for name in shipped() if name.startswith(incomplete)]
    # The file comes first: bash drops the words that precede it.
    return [CompletionItem(incomplete, type="file"), *names]


def errors_become_exit_codes(command: Command) -> Command:
    """One line on stderr and exit code 2 for our own errors; no traceback for anything a user can cause."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with suppress(ValueError):  # outside the main thread signals belong to somebody else
            signal.signal(signal.SIGTERM, _terminated)
        try:
            return command(*args, **kwargs)
        except OnnxQuantError as error:
            fail(str(error))
        except KeyboardInterrupt:
            click.echo("onnxquant: interrupted; a file that is there already is whole, but not proven", err=True)
            sys.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            sys.exit(FAILED)
        except MemoryError as error:
            fail(f"out of memory: {error}" if str(error) else "out of memory")
        except OSError as error:  # a full disk for temporary files, say
            fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))

    return wrapped


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    # SystemExit unwinds the stack, so that temporary files are removed.
    sys.exit(128 + number)


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    click.echo(f"onnxquant: error: {' '.join(message.splitlines())}", err=True)
    sys.exit(UNUSABLE)


def command_line() -> str:
    """The command as it was typed, for reports."""
    context = click.get_current_context()
    arguments = context.find_root().meta.get(ARGUMENTS, [])
    return shlex.join(["onnxquant", *arguments])


def print_json(data: Any) -> None:
    """Data for machines, on stdout."""
    click.echo(json.dumps(data, indent=2))


def console(*, quiet: bool = False) -> Console:
    """Where reports go; wide enough for tables when it is not a terminal."""
    out = Console(quiet=quiet, highlight=False)
    if not out.is_terminal:
        out.width = max(out.width, 160)
    return out


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[Progress]:
    """A progress display on stderr, gone when it is done."""
    if not shown:
        yield silent
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=1.0)

        def advance(stage: str, done: float) -> None:
            # A stage of unknown length moves to and fro.
            bar.update(task, description=stage, completed=done, total=1.0 if done else None)

        yield advance


def data_option(samples: str) -> Callable[[Command], Command]:
    """The option --data; its help begins with what the samples are for."""
    kinds = ".npz, .npy, .txt, a folder of arrays or images, or module:function (docs/feeds.md)."
    return click.option("--data", type=click.Path(), metavar="FEEDS", help=f"{samples}: {kinds}")


def recipe_option(command: Command) -> Command:
    """The option --recipe."""
    return click.option(
        "--recipe", type=click.Path(), metavar="FILE|NAME", shell_complete=_recipes,
        help="TOML or YAML file of ordered rules and options, or a name that `onnxquant list` shows; options below win over "
        "its own, and decide what no rule does.",
    )(command)  # fmt: skip


def output_options(command: Command) -> Command:
    """The options --summary, --json, -v and -q."""
    text = "Print one line that scripts can read: PASSED model.int8.onnx 3.74x smaller 41.2 dB 1.32x faster."
    return chatter(click.option("--summary", "one_line", is_flag=True, help=text)(command))


def chatter(command: Command) -> Command:
    """The options --json, -v and -q."""
    command = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")(command)
    command = click.option("-v", "--verbose", is_flag=True, help="Print every weight, and what passes changed.")(
        command
    )
    return click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")(command)
