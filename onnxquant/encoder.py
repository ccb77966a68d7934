"""Encoders, decoders and packers of the compiled library, through ctypes: the bytes of ``onnxquant.formats``, faster."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxquant import native
from onnxquant.errors import NativeLibraryError

T = TypeVar("T")
TILE = native.TILE
_INT, _TEXT, _POINTER = ctypes.c_int64, ctypes.c_char_p, ctypes.c_void_p
# Elements that one call of the library works on: enough for a call to cost nothing, few enough to share out.
_CHUNK = 1 << 20


def pack_tiles(
    codes: NDArray[np.uint8], bits: int, padded_cols: int, pad: int, threads: int | None = None, isa: str = ""
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Codes [N, K], one per byte, as the tile planes ``codes`` and, for 3, 5 and 6 bits, ``high``.

    Raises:
        NativeLibraryError: no plane has such codes or columns.
    """
    low = {3: 2, 5: 4, 6: 4}.get(bits, bits)
    tiles = -(-len(codes) // TILE)
    out = np.empty((tiles, padded_cols * low // 32, TILE, 4), np.uint8)
    high = np.empty((tiles, -(-padded_cols * (bits - low) // 32), TILE, 4), np.uint8) if bits > low else None
    _pack("tiles", codes, bits, padded_cols, pad, out, high, threads, isa)
    return out, high


def pack_rows(
    codes: NDArray[np.uint8], bits: int, padded_cols: int, pad: int, threads: int | None = None, isa: str = ""
) -> NDArray[np.uint8]:
    """Codes [N, K], one per byte, as [N, padded_cols * bits / 8] with the first code in the lowest bits.

    Raises:
        NativeLibraryError: ``bits`` is not 2, 4 or 8, or rows are no whole bytes.
    """
    out = np.empty((len(codes), padded_cols * bits // 8), np.uint8)
    _pack("rows", codes, bits, padded_cols, pad, out, None, threads, isa)
    return out


def interleave(
    matrix: NDArray[Any], padded_cols: int | None = None, threads: int | None = None, isa: str = ""
) -> NDArray[Any]:
    """A matrix [N, n] of 8, 16 or 32-bit elements as [tiles, n, 16], zeros in the padding."""
    width = matrix.shape[1] if padded_cols is None else padded_cols
    out = np.empty((-(-len(matrix) // TILE), width, TILE), matrix.dtype)
    _pack("lanes", matrix, 8 * matrix.dtype.itemsize, width, 0, out, None, threads, isa)
    return out


class _PackJob(ctypes.Structure):
    _fields_ = (
        ("size", _INT), ("isa", _TEXT), ("layout", _TEXT), ("source", _POINTER), ("rows", _INT), ("cols", _INT),
        ("stride", _INT), ("padded", _INT), ("bits", _INT), ("pad", _INT), ("low", _POINTER), ("high", _POINTER),
    )  # fmt: skip


def _pack(
    layout: str,
    codes: NDArray[Any],
    bits: int,
    padded: int,
    pad: int,
    low: NDArray[Any],
    high: NDArray[Any] | None,
    threads: int | None,
    isa: str,
) -> None:
    rows, cols = codes.shape
    codes = np.ascontiguousarray(codes)
    unit = 1 if layout == "rows" else TILE

    def work(part: range) -> None:
        planes = [None if p is None or not p.size else _address(p[part.start // unit :]) for p in (low, high)]
        job = _PackJob(
            0, isa.encode(), layout.encode(), _address(codes[part.start :]), len(part), cols,
            codes.strides[0], padded, bits, pad, *planes,
        )  # fmt: skip
        _run("pack_codes", job)

    _in_parallel(work, _parts(rows, padded), threads)


def _run(function: str, job: ctypes.Structure) -> None:
    job.size = ctypes.sizeof(job)
    if _function(function)(ctypes.byref(job)):
        raise NativeLibraryError(native._last_error())


@cache
def _function(name: str) -> Any:
    function = getattr(native._library(), f"onnxquant_{name}")
    function.restype, function.argtypes = ctypes.c_int, [ctypes.c_void_p]
    return function


def _address(array: NDArray[Any]) -> int:
    return array.ctypes.data


def _parts(rows: int, cols: int) -> list[range]:
    """Rows in chunks of whole tiles, the same for any number of threads."""
    step = max(1, _CHUNK // (TILE * max(cols, 1))) * TILE
    return [range(first, min(first + step, rows)) for first in range(0, rows, step)]


def _in_parallel(work: Callable[[range], T], parts: Iterable[range], threads: int | None) -> list[T]:
    """Results in the order of the parts."""
    parts = list(parts)
    count = min(threads or os.cpu_count() or 1, len(parts))
    if count <= 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, parts))
