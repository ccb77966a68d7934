"""Targets: which nodes an encoded weight becomes. A module here with a ``Target`` subclass is all it takes to add one.

Packages outside register through the entry point group ``onnxquant.targets``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import entry_points

from onnxquant.errors import RecipeError, nearest
from onnxquant.targets.base import Lowered, Refusal, Result, Target

__all__ = ["AUTO", "Lowered", "Refusal", "Result", "Target", "registry", "target_named", "targets"]

AUTO = "auto"


@cache
def registry() -> dict[str, Target]:
    """Targets by name."""
    found: list[type[Target]] = []
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        found += [m for m in members if inspect.isclass(m) and issubclass(m, Target) and m is not Target]
    found += [entry.load() for entry in entry_points(group="onnxquant.targets")]
    return {c.name: c() for c in sorted(set(found), key=lambda c: c.name)}


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
