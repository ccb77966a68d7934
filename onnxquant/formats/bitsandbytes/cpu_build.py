"""The rules of bitsandbytes' CPU build, to the byte, where they are not those of the formats here.

Blocks run over the flat array and may cross rows; the last may be short. Where these rules and the formats differ, values
are equal or as near as a step of the table:

- 4 bits: a short last block is divided by its scale, not multiplied by the reciprocal. Of fp4's two zeros tiny positive
  values get code 8.
- 8 bits: codes come from a table of 65536 bins, which does not always hold the nearest value; zero blocks get code 0.
- Nested scales: their mean is torch's float32 sum, in the order of its AVX2 kernel on one thread (torch divides sums of
  32,768 and more among threads), and their codes are those of 8 bits.
- int8: torch multiplies with 127 times the reciprocal of a row's scale. Outliers are single values, and the scale is that of
  all others, also of those in columns that are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RangeError
from onnxquant.formats.bitsandbytes.block_table import BlockTable
from onnxquant.formats.bitsandbytes.dynamic8 import signed_map
from onnxquant.formats.bitsandbytes.nf4_fp4 import NESTED_BLOCK
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.table import levels_of, midpoints_of
from onnxquant.numerics.arrays import Bytes

_SMALLEST = np.float32(1e-38)
_BINS = 65536
_LANES, _ROWS_AT_A_TIME, _LEVELS = 8, 4, 4


@dataclass(frozen=True, eq=False)
class FlatCodes:
    """Codes of a flat array, and the largest magnitude of each block.

    Attributes:
        codes: uint8 [n].
        absmax: float32 [blocks].
    """

    codes: Bytes
    absmax: Matrix


@dataclass(frozen=True, eq=False)
class NestedScales:
    """Scales in 8 bits: ``map[codes] * absmax + offset``.

    Attributes:
        codes: uint8 [n].
        absmax: float32 [blocks of 256].
        offset: mean of the scales.
    """

    codes: Bytes
    absmax: Matrix
    offset: np.float32


@dataclass(frozen=True, eq=False)
class Int8Matrix:
    """A matrix of 8-bit rows.

    Attributes:
        codes: int8 [rows, cols]; zeros in the columns of outliers.
        scb: largest magnitude of each row but for outliers, float32 [rows].
        outlier_columns: columns that hold outliers; None: they were not looked for.
    """

    codes: NDArray[np.int8]
    scb: Matrix
    outlier_columns: NDArray[np.int64] | None


def quantize_4bit(values: Matrix, form: BlockTable) -> FlatCodes:
    """Codes of a flat array, as ``bitsandbytes.functional.quantize_4bit`` chooses them."""
    blocks = _blocks(values, form.block_size)
    absmax = np.abs(blocks).max(axis=1)
    scaled = blocks * (np.float32(1) / np.maximum(absmax, _SMALLEST))[:, None]
    if values.size % form.block_size:
        absmax[-1] = max(absmax[-1], _SMALLEST)
        scaled[-1] = blocks[-1] / absmax[-1]
    levels, codes = levels_of(type(form))
    bounds = midpoints_of(type(form))
    if form.table()[8] == 0 and form.table()[0] == 0:
        zero = int(np.searchsorted(levels, 0))
        codes, bounds = np.insert(codes, zero + 1, 8), np.insert(bounds, zero, 0)
    at = np.searchsorted(bounds, np.clip(scaled, -1, 1).reshape(-1)[: values.size])
    return FlatCodes(codes[at], absmax)


def quantize_blockwise(values: Matrix, block: int) -> FlatCodes:
    """Codes of a flat array, as ``bitsandbytes.functional.quantize_blockwise`` looks them up in the signed map."""
    blocks = _blocks(values, block)
    absmax = np.abs(blocks).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scaled = np.clip(blocks * (np.float32(1) / absmax)[:, None], -1, 1)
        bins = (scaled + np.float32(1)) * np.float32(0.5) * np.float32(_BINS - 1) + np.float32(0.5)
    codes = _bin_codes()[np.where(np.isfinite(bins), bins, 0).astype(np.uint16)]
    codes[absmax == 0] = 0
    return FlatCodes(codes.reshape(-1)[: values.size], absmax)


def nest(absmax: Matrix) -> NestedScales:
    """Scales in 8 bits, as ``compress_statistics`` makes them."""
    offset = np.float32(_torch_sum(absmax) / np.float32(absmax.size))
    nested = quantize_blockwise(absmax - offset, NESTED_BLOCK)
    return NestedScales(nested.codes, nested.absmax, offset)


def int8_vectorwise_quant(weight: Matrix, threshold: float) -> Int8Matrix:
    """A matrix as ``bitsandbytes.functional.int8_vectorwise_quant`` codes it.

    Args:
        weight: floats [rows, cols], which are rounded to float16 first.
        threshold: magnitude from which on a value is an outlier; 0: none is.

    Raises:
        RangeError: a value is beyond float16.
    """
    with np.errstate(over="ignore"):
        values = weight.astype(np.float16).astype(np.float32)
    if np.isinf(values).any():
        raise RangeError("llm_int8: holds values beyond float16 (6.55e+04)")
    columns = None
    if threshold > 0:
        outliers = np.abs(values) >= np.float32(threshold)
        columns = np.flatnonzero(outliers.any(axis=0))
        values = np.where(outliers, np.float32(0), values)
    scb = np.abs(values).max(axis=1, initial=0)
    factor = np.divide(np.float32(1), scb, out=np.zeros_like(scb), where=scb > 0) * np.float32(127)
    codes = np.rint(values * factor[:, None]).astype(np.int8)
    if columns is not None and len(weight) > 1:
        codes[:, columns] = 0
    return Int8Matrix(codes, scb, columns)


def _blocks(values: Matrix, block: int) -> Matrix:
    """A flat array in blocks, zeros behind the last."""
    return np.pad(values, (0, -values.size % block)).reshape(-1, block)


@cache
def _bin_codes() -> Bytes:
    """The code of each bin of [-1, 1]."""
    values = np.float32(-1) + np.float32(2) * np.arange(_BINS, dtype=np.float32) / np.float32(_BINS - 1)
    table = signed_map()
    middles = np.float32(0.5) * (table[:-1] + table[1:])
    return np.searchsorted(middles, values).astype(np.uint8)


def _torch_sum(values: Matrix) -> np.float32:
    """The float32 sum of torch's AVX2 kernel: four rows of eight lanes at a time, added up in four levels.

    Fewer values than lanes are rows of one.
    """
    width = _LANES if values.size >= _LANES else 1
    whole = values.size // width
    lanes = values[: whole * width].reshape(whole, width)
    steps = whole // _ROWS_AT_A_TIME
    rows = lanes[: steps * _ROWS_AT_A_TIME].reshape(steps, _ROWS_AT_A_TIME, width)
    sums = _cascade_sum(rows)
    for row in lanes[steps * _ROWS_AT_A_TIME :]:
        sums[0] += row
    for other in sums[1:]:
        sums[0] += other
    total = np.float32(0)
    for value in (*values[whole * width :], *sums[0]):
        total += value
    return total


def _cascade_sum(rows: Matrix) -> Matrix:
    """The sum over the first axis: each level takes over the one before when that has added up a power of two of rows."""
    power = max(4, (max(len(rows), 1) - 1).bit_length() // _LEVELS)
    levels = np.zeros((_LEVELS, *rows.shape[1:]), np.float32)
    for position, row in enumerate(rows, start=1):
        levels[0] += row
        if position % (1 << power):
            continue
        for level in range(1, _LEVELS):
            levels[level] += levels[level - 1]
            levels[level - 1] = 0
            if position >> (level * power) & ((1 << power) - 1):
                break
    for level in levels[1:]:
        levels[0] += level
    total: Matrix = levels[0]
    return total
