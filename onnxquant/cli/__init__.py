"""The command line: each command parses, calls the library, prints and sets the exit code.

It may import every room; no room imports it.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from onnxquant.cli.batch import batch
from onnxquant.cli.benchmark import benchmark
from onnxquant.cli.calibrate import calibrate
from onnxquant.cli.completion import completion
from onnxquant.cli.config import config
from onnxquant.cli.dequantize import dequantize
from onnxquant.cli.diff import diff
from onnxquant.cli.info import info
from onnxquant.cli.listing import list_installation
from onnxquant.cli.quantize import quantize
from onnxquant.cli.report import report
from onnxquant.cli.shared import ARGUMENTS, fail
from onnxquant.cli.validate import validate
from onnxquant.cli.verify import verify
from onnxquant.version import __version__


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

    def main(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401 - the signature that click has
        """Run, and exit unless ``standalone_mode`` is off."""
        if not extra.get("standalone_mode", True):
            return super().main(*args, **extra)
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            message = error.format_message()
            if message.startswith("Usage:"):  # the whole help, where no command is given
                error.show()
                sys.exit(error.exit_code)
            where = getattr(error, "ctx", None)
            fail(message + (f" See {where.command_path} --help." if where else ""))
        except click.Abort:
            sys.exit(128 + signal.SIGINT)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="onnxquant")
def main() -> None:
    """Store the weights of ONNX models in fewer bits, and prove what that cost.

    \b
    Start here:
      onnxquant quantize model.onnx                   int8, for any onnxruntime
      onnxquant quantize model.onnx --format q4_0     4.5 bits per weight
      onnxquant validate model.onnx model.q4_0.onnx   prove any pair of files
      onnxquant list                                  formats, targets, solvers ...

    Exit codes: 0 done and proven, 1 done but a bound was missed or the proof failed, 2 bad input or usage.
    """


for command in (
    quantize, batch, config, calibrate, validate, report, benchmark, diff, info, list_installation, verify, dequantize,
    completion,
):  # fmt: skip
    main.add_command(command)
