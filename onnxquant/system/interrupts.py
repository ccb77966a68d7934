"""Ctrl-C and SIGTERM. While the command starts, Ctrl-C gives exit code 130 at once, without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The signal by which other programs end this one; long work keeps what it has, as at Ctrl-C."""


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _is_command() -> bool:
    """Whether this process runs ``onnxquant`` or ``python -m onnxquant``; others keep their own way with Ctrl-C."""
    if Path(sys.argv[0]).stem == "onnxquant":
        return True
    return ("-m", "onnxquant") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False) and sys.argv[0] == "-m"


def begin() -> None:
    """Let Ctrl-C end the command while it imports what it needs."""
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def done() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


begin()
