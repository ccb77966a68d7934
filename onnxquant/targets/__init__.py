"""Targets: which nodes an encoded weight becomes. A module here with a ``Target`` subclass is all it takes to add one.

Packages outside register through the entry point group ``onnxquant.targets``.
"""

from __future__ import annotations

import sys
from functools import cache

from onnxquant.errors import RecipeError, nearest
from onnxquant.registry import classes
from onnxquant.targets.base import Lowered, Refusal, Result, Target

__all__ = ["AUTO", "Lowered", "Refusal", "Result", "Target", "registry", "target_named", "targets"]

AUTO = "auto"


@cache
def registry() -> dict[str, Target]:
    """Targets by name."""
    return {name: c() for name, c in classes(sys.modules[__name__], Target, "onnxquant.targets").items()}


def targets() -> list[Target]:
    """Every target; each has ``.name`` and ``.summary``."""
    return list(registry().values())


def target_named(name: str) -> Target:
    """A target by name.

    Raises:
        RecipeError: no such target; the message names the nearest.
    """
    if name not in registry():
        raise RecipeError(f"unknown target {name!r}{nearest(name, [AUTO, *registry()])}")
    return registry()[name]
