"""Weight formats. A module here with a ``FORMATS`` list is a family; that is all it takes to add one.

Packages outside register through the entry point group ``onnxquant.formats`` (an entry names a Format class).
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError, nearest
from onnxquant.formats.base import Encoded, Format, ScaledCodes
from onnxquant.formats.parameters import Parameter, parameters_of

__all__ = ["Encoded", "Format", "ScaledCodes", "decode", "encode", "format_named", "formats", "parameters"]


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


def encode(array: NDArray[Any], format: str | Format, **parameters: Any) -> Encoded:
    """Encode an array; its last axis is the contracted one.

    Args:
        array: floats of any shape [..., K].
        format: a format or its name.
        parameters: of the format, by name: ``block_size``, ``per_channel``, ``symmetric`` ...; and ``permuted``.

    Raises:
        RecipeError: unknown format or parameter.
        WeightError: NaN, infinity, or a value out of the format's range.

    >>> import numpy as np
    >>> w = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    >>> bool(np.abs(decode(encode(w, "q8_0")) - w).max() < 1 / 127)
    True
    """
    chosen = format_named(format, **parameters) if isinstance(format, str) else format.with_(**parameters)
    array = np.asarray(array)
    if array.ndim == 0 or array.dtype.kind not in "fV":
        raise RecipeError(f"encode takes floats of rank >= 1, not {array.dtype} of shape {array.shape}")
    matrix = array.reshape(prod(array.shape[:-1]), array.shape[-1])
    encoded = chosen.encode(matrix)
    return Encoded(encoded.format, encoded.rows, encoded.cols, encoded.planes, array.shape)


def decode(encoded: Encoded) -> NDArray[np.float32]:
    """The float32 array, in its original shape, that an encoded weight stands for."""
    return encoded.format.decode(encoded).reshape(encoded.shape or (encoded.rows, encoded.cols))
