"""The command line: each command parses, calls the library, prints and sets the exit code.

It may import every room; no room imports it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import SequenceMatcher
from importlib import import_module
from typing import Any

import click

from onnxquant.cli.shared import ARGUMENTS, fail
from onnxquant.errors import OnnxQuantError
from onnxquant.registry import broken_left_out
from onnxquant.system import interrupts
from onnxquant.system.environment import is_completing
from onnxquant.version import __version__

_COMMANDS = (
    "quantize", "plan", "batch", "config", "hub", "calibrate", "validate", "report", "benchmark", "diff", "info", "list",
    "verify", "dequantize", "move", "convert", "transplant", "generate",
    "completion",
)  # fmt: skip


# First words of click's messages.
_FIRST_WORDS = ("Missing", "Got", "No", "Invalid", "Option", "Could", "Value", "Argument")


# Names are about as likely as the likeliest one if their likeness to what was typed is less by no more than this.
_AS_LIKELY = 0.1


class _Modules(Mapping[str, click.Command]):
    """Commands by name. Each is imported when it is asked for: a broken plug-in stops only the commands that use it."""

    def __getitem__(self, name: str) -> click.Command:
        if name not in _COMMANDS:
            raise KeyError(name)
        # `list` would hide Python's own.
        module, function = ("listing", "list_installation") if name == "list" else (name, name)
        command: click.Command = getattr(import_module(f"onnxquant.cli.{module}"), function)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Commands(click.Group):
    """Reports errors of usage as the commands report theirs: one line and exit code 2."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """The context of a run, which keeps what was typed for reports."""
        typed = list(args)
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[ARGUMENTS] = typed
        return context

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:  # noqa: ANN401 - click's signature
        """Run, and exit unless ``standalone_mode`` is off."""
        interrupts.done()
        if not extra.get("standalone_mode", True):
            return super().main(args, *more, **extra)
        tolerance: AbstractContextManager[list[str]] = broken_left_out() if _only_explains(args) else nullcontext([])
        with tolerance as broken:
            code = self._run(args, *more, **extra)
        for reason in dict.fromkeys(broken) if not is_completing() else ():
            click.echo(f"onnxquant: warning: {' '.join(reason.splitlines())}", err=True)
        sys.exit(code)

    def _run(self, *args: Any, **extra: Any) -> int:  # noqa: ANN401 - click's signature
        """Exit code of a run; errors of usage and of plug-ins are reported, and end the process."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            message = error.format_message()
            if message.startswith("Usage:"):  # the whole help, where no command is given
                error.show()
                return error.exit_code
            fail(_in_our_form(message, getattr(error, "ctx", None)))
        except OnnxQuantError as error:  # a plug-in that a command needs is broken
            fail(str(error))
        except (click.Abort, KeyboardInterrupt):
            return 128 + signal.SIGINT
        return code if isinstance(code, int) else 0


def _in_our_form(message: str, context: click.Context | None) -> str:
    """A message of click as ours are: what is wrong, then what to do, without a full stop.

    Args:
        message: the message.
        context: context of the command that was used wrongly; None where click does not say.
    """
    text, _, hint = message.strip().partition(" (Did you mean ")
    text = text.rstrip(".")
    if text.split(" ", 1)[0] in _FIRST_WORDS:
        text = text[0].lower() + text[1:]
    if hint:
        names = hint.removeprefix("one of: ").rstrip(".)?").split(", ")
        text += f"; did you mean {', '.join(_nearest_first(text, names))}?"
    path: list[str] = []
    while context is not None and context.parent is not None:
        path.insert(0, context.info_name or "")
        context = context.parent
    return f"{text}; see `{' '.join(['onnxquant', *path, '--help'])}`"


def _nearest_first(text: str, names: Sequence[str]) -> list[str]:
    """The names that a message offers, the likeliest first, without those that are far less likely.

    Args:
        text: the message, which ends with what was typed.
        names: the names.
    """
    typed = text.rpartition(" ")[2].strip("'")
    likeness = {name: SequenceMatcher(None, typed, name.strip("'")).ratio() for name in names}
    near = [name for name in names if likeness[name] >= max(likeness.values()) - _AS_LIKELY]
    return sorted(near, key=lambda name: -likeness[name])


def _only_explains(args: Sequence[str] | None) -> bool:
    """Whether a run prints help, lists or completions: broken plug-ins are then left out, and named at the end."""
    typed = sys.argv[1:] if args is None else args
    return is_completing() or not typed or typed[0] == "list" or not {"-h", "--help"}.isdisjoint(typed)


@click.group(cls=_Commands, commands=_Modules(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="onnxquant")
def main() -> None:
    """Store the weights of ONNX models in fewer bits, and prove what that cost.

    \b
    Start here:
      onnxquant plan model.onnx                       what it is made of, what suits it
      onnxquant quantize model.onnx --data samples/   the fastest file that keeps the answers
      onnxquant quantize model.onnx                   int8 weights, for any onnxruntime
      onnxquant quantize model.onnx --format q4_0     4.5 bits per weight
      onnxquant validate model.onnx model.q4_0.onnx   prove any pair of files
      onnxquant list                                  formats, targets, solvers ...

    Exit codes: 0 done and proven, 1 done but a bound was missed or the proof failed, 2 bad input or usage.
    """
