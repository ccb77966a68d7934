"""The product of the operators' kernels, called without ONNX Runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import NativeLibraryError
from onnxquant.native import library
from onnxquant.native.kernels import PERMUTATION, geometry
from onnxquant.native.library import in_order

FLOATS = ctypes.POINTER(ctypes.c_float)
_INT = ctypes.c_int64


@dataclass(frozen=True)
class StoredWeight:
    """A weight as the library reads it.

    Attributes:
        format: name of the format e.g. ``q4_0``.
        planes: arrays by name as ``geometry(format).planes`` lists them, and perhaps ``permutation``, in the order
            that docs/layouts.md describes.
        rows: output channels N.
        cols: contracted channels K.
        block_size: weights per block along K.
    """

    format: str
    planes: Mapping[str, NDArray[Any]]
    rows: int
    cols: int
    block_size: int


class _Plane(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("dims", ctypes.POINTER(_INT)), ("rank", _INT))


def matmul(
    x: NDArray[np.float32],
    weight: StoredWeight,
    *,
    compute: str = "int8",
    isa: str | None = None,
    bias: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """``x @ decode(weight).T + bias`` by the operators' kernels, on one thread.

    Args:
        x: float32 [M, cols].
        weight: the encoded weight.
        compute: ``int8`` rounds each block of activations to int8 first, ``float32`` does not.
        isa: exactly this instruction set, one of ``isas()``; None: the one the operators use.
        bias: float32 [rows], or None.

    Raises:
        NativeLibraryError: the planes do not fit the sizes, or the library does not know a name.
    """
    planes = PlaneArguments(weight)
    if x.ndim != 2 or x.shape[1] != weight.cols or x.dtype != np.float32:
        raise NativeLibraryError(f"x is {x.dtype} {list(x.shape)}, expected float32 [M, {weight.cols}]")
    if bias is not None and (bias.shape != (weight.rows,) or bias.dtype != np.float32):
        raise NativeLibraryError(f"bias is {bias.dtype} {list(bias.shape)}, expected float32 [{weight.rows}]")
    x = in_order(x)
    out = np.empty((x.shape[0], weight.rows), np.float32)
    names = compute.encode(), (isa or "").encode()
    added = None if bias is None else in_order(bias).ctypes.data_as(FLOATS)
    ends = x.ctypes.data_as(FLOATS), _INT(x.shape[0]), added, out.ctypes.data_as(FLOATS)
    library.call("matmul", *planes.arguments, *names, *ends)
    return out


class PlaneArguments:
    """A weight as arguments of the C ABI. The library checks shapes; element types are checked here."""

    def __init__(self, weight: StoredWeight) -> None:
        sizes = weight.rows, weight.cols, weight.block_size
        if min(sizes) < 1:
            raise NativeLibraryError(
                f"rows {sizes[0]}, cols {sizes[1]}, block_size {sizes[2]}: expected positive numbers"
            )
        expected = dict(geometry(weight.format).planes)
        if PERMUTATION in weight.planes:
            expected[PERMUTATION] = np.dtype(np.int32)
        if missing := [name for name in expected if name not in weight.planes]:
            raise NativeLibraryError(f"plane {missing[0]!r} of {weight.format} is missing")
        for name, dtype in expected.items():
            if weight.planes[name].dtype != dtype:
                raise NativeLibraryError(
                    f"{name} are {weight.planes[name].dtype}, expected {dtype} for {weight.format}"
                )
        self._arrays = [in_order(weight.planes[name]) for name in expected]
        self._dims = [(ctypes.c_int64 * max(a.ndim, 1))(*weight.planes[n].shape)
                      for a, n in zip(self._arrays, expected, strict=True)]  # fmt: skip
        entries = [
            _Plane(a.ctypes.data_as(ctypes.c_void_p), d, weight.planes[n].ndim)
            for a, d, n in zip(self._arrays, self._dims, expected, strict=True)
        ]
        self._table = (_Plane * len(entries))(*entries)
        self.arguments = (weight.format.encode(), *map(_INT, sizes), self._table, _INT(len(entries)))
