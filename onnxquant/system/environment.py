"""Environment variables. No other module reads ``os.environ``.

``ONNXQUANT_ISA`` caps the instruction set of the compiled kernels (scalar, avx2, ...).
"""

from __future__ import annotations

import os

COMPLETION = "_ONNXQUANT_COMPLETE"
"""The variable by which a shell's script asks the command for completions."""


def instruction_set_cap() -> str | None:
    """The value of ``ONNXQUANT_ISA``; None where it is empty or not set."""
    return os.environ.get("ONNXQUANT_ISA") or None


def is_completing() -> bool:
    """Whether a shell has started this process to get completions."""
    return COMPLETION in os.environ


def environment_with(**variables: str) -> dict[str, str]:
    """This process's environment with other values for some variables, for a child process."""
    return {**os.environ, **variables}
