"""The compiled library through ctypes: which formats and instruction sets it has, a plain decoder and the product.

ONNX Runtime loads the same library for its operators (``library_path``); what is here needs no ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import NativeLibraryError

ABI_VERSION = 1
"""The C ABI this module was written for; the library says its own."""

TILE = 16
"""Output channels that are interleaved in a plane."""

_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_BYTES = ctypes.POINTER(ctypes.c_uint8)
_FLOATS = ctypes.POINTER(ctypes.c_float)


@dataclass(frozen=True)
class Geometry:
    """What a format looks like to the kernels.

    Attributes:
        bits: of a code.
        scale_dtype: element type of the scales.
        granularities: which weights may share a scale: ``block``, ``row``, ``tensor``.
        min_block: smallest block size.
        max_block: largest block size; block sizes are powers of two.
    """

    bits: int
    scale_dtype: np.dtype[Any]
    granularities: tuple[str, ...]
    min_block: int
    max_block: int


@dataclass(frozen=True)
class StoredWeight:
    """A weight as the library reads it.

    Attributes:
        format: name of the format e.g. ``q4_0``.
        codes: uint8 ``[tiles, vectors, 16, 4]``.
        scales: float16 or float32, ``[tiles, blocks or 1, 16]`` or ``[1]``.
        rows: output channels N.
        cols: contracted channels K.
        block_size: weights per block along K.
    """

    format: str
    codes: NDArray[np.uint8]
    scales: NDArray[Any]
    rows: int
    cols: int
    block_size: int


def library_path() -> Path:
    """Where the compiled library is; ONNX Runtime takes it as a custom op library.

    Raises:
        NativeLibraryError: the package was installed without it.
    """
    path = Path(__file__).parent / "_lib" / f"libonnxquant_ops{_SUFFIX}"
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


def geometry(name: str) -> Geometry:
    """What a format looks like to the kernels.

    Raises:
        NativeLibraryError: the library does not know the format.
    """
    out = (ctypes.c_int64 * 5)()
    _check(_library().onnxquant_describe(name.encode(), out))
    bits, scale_bytes, mask, smallest, largest = out
    granularities = tuple(n for i, n in enumerate(("block", "row", "tensor")) if mask >> i & 1)
    return Geometry(bits, np.dtype(f"f{scale_bytes}"), granularities, smallest, largest)


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
    _check_planes(weight)
    out = np.empty((weight.rows, weight.cols), np.float32)
    _check(_library().onnxquant_decode(*_planes(weight), out.ctypes.data_as(_FLOATS)))
    return out


def matmul(
    x: NDArray[np.float32], weight: StoredWeight, *, compute: str = "int8", isa: str | None = None
) -> NDArray[np.float32]:
    """``x @ decode(weight).T`` by the operators' kernels, on one thread.

    Args:
        x: float32 [M, cols].
        weight: the encoded weight.
        compute: ``int8`` rounds each block of activations to int8 first, ``float32`` does not.
        isa: exactly this instruction set, one of ``isas()``; None: the one the operators use.

    Raises:
        NativeLibraryError: the planes do not fit the sizes, or the library does not know a name.
    """
    _check_planes(weight)
    if x.ndim != 2 or x.shape[1] != weight.cols or x.dtype != np.float32:
        raise NativeLibraryError(f"x is {x.dtype} {list(x.shape)}, expected float32 [M, {weight.cols}]")
    x = np.ascontiguousarray(x)
    out = np.empty((x.shape[0], weight.rows), np.float32)
    name, *planes = _planes(weight)
    how = compute.encode(), (isa or "").encode()
    ends = x.ctypes.data_as(_FLOATS), out.ctypes.data_as(_FLOATS)
    _check(_library().onnxquant_matmul(name, *how, ends[0], x.shape[0], *planes, ends[1]))
    return out


def _check_planes(weight: StoredWeight) -> None:
    """The C ABI trusts the planes' sizes: they are checked here, against what the format says."""
    rows, cols, block = weight.rows, weight.cols, weight.block_size
    if min(rows, cols, block) < 1:
        raise NativeLibraryError(f"rows {rows}, cols {cols}, block_size {block}: expected positive numbers")
    form = geometry(weight.format)
    tiles, blocks = -(-rows // TILE), -(-cols // block)
    expected = (tiles, blocks * block * form.bits // 32, TILE, 4)
    if weight.codes.dtype != np.uint8 or weight.codes.shape != expected:
        found = f"{weight.codes.dtype} {list(weight.codes.shape)}"
        raise NativeLibraryError(f"codes are {found}, expected uint8 {list(expected)} for {weight.format}")
    shapes = {(tiles, blocks, TILE), (tiles, 1, TILE), (1,)}
    if weight.scales.dtype != form.scale_dtype or weight.scales.shape not in shapes:
        found = f"{weight.scales.dtype} {list(weight.scales.shape)}"
        raise NativeLibraryError(
            f"scales are {found}, expected {form.scale_dtype} [{tiles}, {blocks} or 1, {TILE}] or [1] for {weight.format}"
        )


def _planes(weight: StoredWeight) -> tuple[Any, ...]:
    codes, scales = np.ascontiguousarray(weight.codes), np.ascontiguousarray(weight.scales)
    # data_as keeps the array it came from alive, a copy too.
    pointers = codes.ctypes.data_as(_BYTES), scales.ctypes.data_as(ctypes.c_void_p)
    sizes = scales.size, weight.rows, weight.cols, weight.block_size
    return weight.format.encode(), *pointers, *sizes


def _names(function: str) -> list[str]:
    text: bytes = getattr(_library(), function)()
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
    planes = [_BYTES, ctypes.c_void_p, size, size, size, size]
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "last_error": (text, []),
        "formats": (text, []),
        "isas": (text, []),
        "compiled_isas": (text, []),
        "describe": (integer, [text, ctypes.POINTER(size)]),
        "set_isa": (integer, [text]),
        "decode": (integer, [text, *planes, _FLOATS]),
        "matmul": (integer, [text, text, text, _FLOATS, size, *planes, _FLOATS]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"onnxquant_{name}")
        function.restype, function.argtypes = result, arguments
