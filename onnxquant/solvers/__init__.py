"""Ways to choose the codes of a weight; they know matrices and formats, no nodes.

A module here with a ``Solver`` subclass is all it takes to add one. Packages outside register through the entry point
group ``onnxquant.solvers``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import entry_points

from onnxquant.errors import RecipeError, nearest
from onnxquant.solvers.base import Inputs, Solver, losses

__all__ = ["Inputs", "Solver", "losses", "registry", "solver_named", "solvers"]


@cache
def registry() -> dict[str, Solver]:
    """Solvers by name."""
    found: list[type[Solver]] = []
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        classes = [m for m in members if inspect.isclass(m) and issubclass(m, Solver)]
        found += [c for c in classes if not inspect.isabstract(c)]
    found += [entry.load() for entry in entry_points(group="onnxquant.solvers")]
    return {c.name: c() for c in sorted(set(found), key=lambda c: c.name)}


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
