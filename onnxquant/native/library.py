"""The compiled library through ctypes: which formats and instruction sets it has, a plain decoder and the product.

ONNX Runtime loads the same library for its operators (``library_path``); what is here needs no ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from onnxquant.errors import NativeLibraryError

ABI_VERSION = 2
"""The C ABI this module was written for; the library says its own."""

TILE = 16
"""Output channels that are interleaved in a plane."""

PERMUTATION = "permutation"

_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_FLOATS = ctypes.POINTER(ctypes.c_float)
_DTYPES = [np.dtype(t) for t in (np.uint8, np.int8, np.int32, np.float16, bfloat16, np.float32)]


@dataclass(frozen=True)
class Geometry:
    """What a format looks like to the kernels.

    Attributes:
        name: of the format, variants of it (with zero points, nested scales ...) apart.
        suffix: of its operators.
        bits: of a code; 16 for floats.
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
    _fields_ = (("data", ctypes.c_void_p), ("dims", ctypes.POINTER(ctypes.c_int64)), ("rank", ctypes.c_int64))


def library_path() -> Path:
    """Where the compiled library is; ONNX Runtime takes it as a custom op library.

    Raises:
        NativeLibraryError: the package was installed without it.
    """
    path = Path(__file__).parents[1] / "_lib" / f"libonnxquant_ops{_SUFFIX}"
    if not path.is_file():
        raise NativeLibraryError(
            f"the compiled library is missing: {path}. Reinstall onnxquant with pip; it needs a C++17 compiler"
        )
    return path


def abi_version() -> int:
    """Version of the library's C ABI."""
    return int(_library().onnxquant_abi_version())


def formats() -> list[str]:
    """Names of the formats that have operators."""
    return _names("onnxquant_formats")


@cache
def geometry(name: str) -> Geometry:
    """What a format looks like to the kernels.

    Raises:
        NativeLibraryError: the library does not know the format.
    """
    out = (ctypes.c_int64 * 32)()
    library = _library()
    _check(library.onnxquant_describe(name.encode(), out))
    bits, mask, smallest, largest, has_int8, count = out[:6]
    granularities = tuple(n for i, n in enumerate(("block", "row", "tensor")) if mask >> i & 1)
    pairs = [(out[6 + 2 * i], out[7 + 2 * i]) for i in range(count)]
    planes = {library.onnxquant_plane(plane).decode(): _DTYPES[kind] for plane, kind in pairs}
    planes.pop(PERMUTATION)
    suffix = library.onnxquant_suffix(name.encode()).decode()
    return Geometry(name, suffix, bits, granularities, smallest, largest, bool(has_int8), planes)


def isas() -> list[str]:
    """Instruction sets that run here, the best one last."""
    return _names("onnxquant_isas")


def compiled_isas() -> list[str]:
    """Instruction sets in the library, whether or not this CPU has them, the best one last."""
    return _names("onnxquant_compiled_isas")


def set_isa(name: str | None) -> None:
    """Let the operators of this process use no better instruction set than this one; None lifts the cap.

    Raises:
        NativeLibraryError: the library knows no such name.
    """
    _check(_library().onnxquant_set_isa((name or "").encode()))


def decode(weight: StoredWeight) -> NDArray[np.float32]:
    """The float matrix [rows, cols] that the planes stand for.

    Raises:
        NativeLibraryError: the planes do not fit the sizes, or the library does not know the format.
    """
    planes = _Planes(weight)
    out = np.empty((weight.rows, weight.cols), np.float32)
    _check(_library().onnxquant_decode(*planes.arguments, out.ctypes.data_as(_FLOATS)))
    return out


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
    planes = _Planes(weight)
    if x.ndim != 2 or x.shape[1] != weight.cols or x.dtype != np.float32:
        raise NativeLibraryError(f"x is {x.dtype} {list(x.shape)}, expected float32 [M, {weight.cols}]")
    if bias is not None and (bias.shape != (weight.rows,) or bias.dtype != np.float32):
        raise NativeLibraryError(f"bias is {bias.dtype} {list(bias.shape)}, expected float32 [{weight.rows}]")
    x = in_order(x)
    out = np.empty((x.shape[0], weight.rows), np.float32)
    how = compute.encode(), (isa or "").encode()
    added = None if bias is None else in_order(bias).ctypes.data_as(_FLOATS)
    ends = x.ctypes.data_as(_FLOATS), x.shape[0], added, out.ctypes.data_as(_FLOATS)
    _check(_library().onnxquant_matmul(*planes.arguments, *how, *ends))
    return out


def in_order(array: NDArray[Any]) -> NDArray[Any]:
    """The array as C has them, contiguous and aligned: itself, or a copy."""
    # ascontiguousarray keeps what is not aligned.
    return np.require(array, requirements=("C", "A"))


class _Planes:
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
        self.arguments = (weight.format.encode(), *sizes, self._table, len(entries))


def _names(function: str) -> list[str]:
    text: bytes | None = getattr(_library(), function)()
    if text is None:
        raise NativeLibraryError(_last_error())
    return text.decode().split(",")


def _last_error() -> str:
    text: bytes = _library().onnxquant_last_error()
    return text.decode(errors="replace")


def _check(failed: int) -> None:
    if failed:
        raise NativeLibraryError(_last_error())


@cache
def _library() -> ctypes.CDLL:
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
        library.onnxquant_abi_version.restype = ctypes.c_int
        found = library.onnxquant_abi_version()
    except (OSError, AttributeError) as error:
        raise NativeLibraryError(f"{path} cannot be loaded: {error}") from error
    if found != ABI_VERSION:
        raise NativeLibraryError(
            f"{path} has ABI version {found}, expected {ABI_VERSION}: package and library are not of one build; "
            f"reinstall onnxquant"
        )
    _declare(library)
    return library


def _declare(library: ctypes.CDLL) -> None:
    text, size, integer = ctypes.c_char_p, ctypes.c_int64, ctypes.c_int
    planes = [text, size, size, size, ctypes.POINTER(_Plane), size]
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "last_error": (text, []),
        "formats": (text, []),
        "isas": (text, []),
        "compiled_isas": (text, []),
        "describe": (integer, [text, ctypes.POINTER(size)]),
        "set_isa": (integer, [text]),
        "suffix": (text, [text]),
        "plane": (text, [size]),
        "decode": (integer, [*planes, _FLOATS]),
        "matmul": (integer, [*planes, text, text, _FLOATS, size, _FLOATS, _FLOATS]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"onnxquant_{name}")
        function.restype, function.argtypes = result, arguments
