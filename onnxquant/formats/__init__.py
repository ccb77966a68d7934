"""Weight formats. A module here with a ``FORMATS`` list is a family; that is all it takes to add one.

Packages outside register through the entry point group ``onnxquant.formats`` (an entry names a Format class).
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from onnxquant.errors import RecipeError, nearest
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.facts import Facts
from onnxquant.formats.granularity import PerBlock, PerRow, PerTensor
from onnxquant.formats.parameters import Parameter, parameters_of
from onnxquant.formats.scaled_codes import ScaledCodes

__all__ = [
    "Encoded",
    "Facts",
    "Format",
    "PerBlock",
    "PerRow",
    "PerTensor",
    "ScaledCodes",
    "format_named",
    "formats",
    "parameters",
]


@cache
def registry() -> dict[str, type[Format]]:
    """Format classes by name, in the order of their bits."""
    found: list[type[Format]] = []
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        found += getattr(importlib.import_module(module.name), "FORMATS", [])
    found += [entry.load() for entry in entry_points(group="onnxquant.formats")]
    return {c.name: c for c in sorted(found, key=lambda c: (-c.bits, c.name))}


@cache
def parameters() -> dict[str, Parameter]:
    """Every parameter of every format by name: keywords of ``quantize``, keys of recipes, options of the command line."""
    found: dict[str, Parameter] = {}
    for form in sorted(registry().values(), key=lambda c: -len(c.parameters())):
        for name, parameter in parameters_of(form).items():
            found.setdefault(name, parameter)
    return found


def formats() -> list[Format]:
    """Every format with its default parameters; each has ``.name`` and ``.bits_per_weight``.

    >>> [f.name for f in formats()][-2:]
    ['int2', 'tq2_0']
    """
    return [c() for c in registry().values()]


def format_named(name: str, **parameters: Any) -> Format:
    """A format by name.

    Raises:
        RecipeError: no such format or parameter; the message names the nearest.
    """
    classes = registry()
    if name not in classes:
        raise RecipeError(f"unknown format {name!r}{nearest(name, list(classes))}")
    return classes[name].make(parameters)
