"""The formats that the kernels of the operators know."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from onnxquant.native import library

PERMUTATION = "permutation"

_INT = ctypes.c_int64
_DTYPES = [np.dtype(t) for t in (np.uint8, np.int8, np.int32, np.float16, bfloat16, np.float32)]


@dataclass(frozen=True)
class Geometry:
    """A format as the kernels see it.

    Attributes:
        name: name of the format; variants (with zero points, nested scales ...) have names of their own.
        suffix: suffix of its operators' names.
        bits: width of a code; 16 for floats.
        granularities: which weights may share a scale: ``block``, ``row``, ``tensor``.
        min_block: smallest block size.
        max_block: largest block size; block sizes are powers of two.
        has_int8: whether activations can be rounded to int8.
        planes: element type of each plane, in the order of the operators' inputs, without the permutation.
    """

    name: str
    suffix: str
    bits: int
    granularities: tuple[str, ...]
    min_block: int
    max_block: int
    has_int8: bool
    planes: dict[str, np.dtype[Any]]


def formats() -> list[str]:
    """Names of the formats that have operators."""
    return library.text("formats").split(",")


@cache
def geometry(name: str) -> Geometry:
    """A format as the kernels see it.

    Raises:
        NativeLibraryError: the library does not know the format.
    """
    out = (_INT * 32)()
    library.call("describe", name.encode(), out)
    bits, mask, smallest, largest, has_int8, count = out[:6]
    granularities = tuple(n for i, n in enumerate(("block", "row", "tensor")) if mask >> i & 1)
    pairs = [(out[6 + 2 * i], out[7 + 2 * i]) for i in range(count)]
    planes = {library.text("plane", _INT(plane)): _DTYPES[kind] for plane, kind in pairs}
    planes.pop(PERMUTATION)
    suffix = library.text("suffix", name.encode())
    return Geometry(name, suffix, bits, granularities, smallest, largest, bool(has_int8), planes)
