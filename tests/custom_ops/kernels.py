"""The kernels of the operators, called without ONNX Runtime: a decoder, and what the package itself calls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxquant.native import library
from onnxquant.native.kernels import PERMUTATION, Geometry, formats, geometry
from onnxquant.native.products import FLOATS, PlaneArguments, StoredWeight, matmul

__all__ = [
    "FLOATS", "PERMUTATION", "Geometry", "PlaneArguments", "StoredWeight", "decode", "formats", "geometry", "kinds", "matmul",
]  # fmt: skip


def kinds() -> list[str]:
    """One format of each kind: those of a kind have the same planes."""
    by_kind: dict[object, str] = {}
    for name in formats():
        by_kind.setdefault(tuple(geometry(name).planes.items()), name)
    return list(by_kind.values())


def decode(weight: StoredWeight) -> NDArray[np.float32]:
    """The float matrix [rows, cols] that the planes stand for.

    Raises:
        NativeLibraryError: the planes do not fit the sizes, or the library does not know the format.
    """
    planes = PlaneArguments(weight)
    out = np.empty((weight.rows, weight.cols), np.float32)
    library.call("decode", *planes.arguments, out.ctypes.data_as(FLOATS))
    return out
