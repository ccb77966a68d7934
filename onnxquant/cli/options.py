"""Command-line options generated from the one Options object, and what commands share."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import Field, fields
from functools import wraps
from types import FrameType
from typing import Any, NoReturn

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from onnxquant.errors import OnnxQuantError
from onnxquant.formats import parameters, registry
from onnxquant.formats.parameters import Parameter
from onnxquant.recipe.files import shipped
from onnxquant.recipe.options import Options

Command = Callable[..., Any]
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
FAILED, UNUSABLE = 1, 2
# Where a context keeps what was typed.
ARGUMENTS = "onnxquant.arguments"


def model_options(*names: str, without: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Click options for fields of Options, all of them but those ``without`` when none is named."""

    def decorate(command: Command) -> Command:
        for spec in reversed(fields(Options)):
            if spec.name == "parameters" and not names:
                for parameter in reversed(parameters().values()):
                    command = _of_format(parameter)(command)
            elif spec.metadata and spec.name not in without and (not names or spec.name in names):
                command = _option(spec)(command)
        return command

    return decorate


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that the command line holds, so that a recipe or a file decides the others."""
    source = click.get_current_context().get_parameter_source
    return {k: v for k, v in options.items() if source(k) is not ParameterSource.DEFAULT}


def _option(spec: Field[Any]) -> Callable[[Command], Command]:
    meta, default = spec.metadata, spec.default
    flag = meta["flag"] or f"--{spec.name.replace('_', '-')}"
    help_text = meta["help"]
    if isinstance(default, bool) or meta["flag"]:
        return click.option(flag, spec.name, is_flag=True, default=default, help=help_text)
    several = isinstance(default, tuple)
    kind: Any = click.Choice(meta["choices"]) if meta["choices"] else _kind(spec)
    shows = default not in (None, ())
    return click.option(
        flag, spec.name, type=kind, default=default, multiple=several, metavar=meta["metavar"] or None,
        help=help_text, show_default=shows, shell_complete=_completion(spec),
    )  # fmt: skip


def _of_format(parameter: Parameter) -> Callable[[Command], Command]:
    """A parameter of formats; not given, the format's own default holds."""
    flag = parameter.flag or f"--{parameter.name.replace('_', '-')}"
    if parameter.kind == "bool":
        return click.option(flag, parameter.name, is_flag=True, default=None, help=parameter.help)
    kinds: dict[str, type] = {"int": int, "float": float, "str": str}
    kind: Any = click.Choice(parameter.choices) if parameter.choices else kinds[parameter.kind]
    return click.option(flag, parameter.name, type=kind, metavar=parameter.metavar or None, help=parameter.help)


def _completion(spec: Field[Any]) -> Complete | None:
    """What a shell offers for an option; None: what its type does, which for choices are these."""
    if spec.name in ("format", "formats"):
        return _formats
    return _files if spec.metadata["metavar"] in ("FILE", "DIR") else None


def _formats(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in registry() if name.startswith(typed)]


def _files(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    return [CompletionItem(typed, type="file")]


def _recipes(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    named = [CompletionItem(name) for name in shipped() if name.startswith(typed)]
    return [CompletionItem(typed, type="file"), *named]  # bash forgets what comes before a file


def _kind(spec: Field[Any]) -> type:
    text = str(spec.type)
    return str if "str" in text else int if "int" in text else float if "float" in text else str


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
def progress_bar(*, shown: bool) -> Iterator[Callable[[str, float], None]]:
    """A progress display on stderr, gone when it is done."""
    if not shown:
        yield lambda stage, done: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
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
