"""Passes from graph to graph, in the folders of their purposes; pipeline.py has their order.

They may import solvers and every room below; recipe and the rooms above it may import them. A module here with a ``Pass``
subclass is all it takes to add one. Packages outside register through the entry point group ``onnxquant.passes``.
"""

from __future__ import annotations

import sys
from functools import cache

from onnxquant.errors import RecipeError, nearest
from onnxquant.passes.base import Pass, PassResult
from onnxquant.registry import classes

__all__ = ["Pass", "PassResult", "pass_named", "passes_by_name", "registry"]


@cache
def registry() -> dict[str, type[Pass]]:
    """Passes by name."""
    return classes(
        sys.modules[__name__], Pass, "onnxquant.passes", trial=lambda step: (step.summary, step.needs_settings())
    )


def passes_by_name() -> list[str]:
    """Names of the passes that can be asked for by name: they need no settings."""
    return [name for name, cls in registry().items() if not cls.needs_settings()]


def pass_named(name: str) -> Pass:
    """A pass with its default settings.

    Raises:
        RecipeError: no such pass, or one that needs settings.
    """
    if name not in registry():
        raise RecipeError(f"unknown pass {name!r}{nearest(name, passes_by_name())}")
    if registry()[name].needs_settings():
        raise RecipeError(f"pass {name!r} needs settings; expected one of {', '.join(passes_by_name())}")
    return registry()[name]()
