"""Solvers: ways to choose the codes and scales of a weight. They know matrices and formats, no graph and no plan.

Every ``Solver`` with a name in a module here is registered; other packages register through the entry point group
``onnxquant.solvers``. They may import native, formats and numerics; passes and the rooms above may import them.
"""

from __future__ import annotations

import sys
from functools import cache

from onnxquant.errors import RecipeError, nearest
from onnxquant.registry import classes
from onnxquant.solvers.base import Inputs, Solver, losses

__all__ = ["Inputs", "Solver", "losses", "registry", "solver_named", "solvers"]


@cache
def registry() -> dict[str, Solver]:
    """Solvers by name."""
    by_name = classes(sys.modules[__name__], Solver, "onnxquant.solvers", trial=lambda solver: solver().summary)
    return {name: solver() for name, solver in by_name.items()}


def solvers() -> list[Solver]:
    """Every solver; each has ``.name`` and ``.summary``."""
    return list(registry().values())


def solver_named(name: str) -> Solver:
    """A solver by name.

    Raises:
        RecipeError: no such solver; the message names the nearest.
    """
    if name not in registry():
        raise RecipeError(f"unknown solver {name!r}{nearest(name, list(registry()))}")
    return registry()[name]
