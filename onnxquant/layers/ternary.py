"""Products of BitNet's ternary weights with rows in float, or rounded to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.arguments import checked
from onnxquant.errors import RecipeError, WeightError, shown
from onnxquant.formats.base import Encoded
from onnxquant.formats.ggml.blocks import reciprocal, round_away
from onnxquant.formats.i2_s import I2_S
from onnxquant.formats.matrix import Matrix
from onnxquant.layers.linear import QuantizedLinear, as_float

# Sums of so many products of a trit and an 8-bit code are exact in float32.
_MOST_COLS = (1 << 24) // 128


@dataclass(frozen=True, eq=False)
class Int8Rows:
    """Rows rounded to 8 bits: values are ``codes * scales[:, None]``.

    Attributes:
        codes: int8 [rows, cols].
        scales: float32 [rows]; 0 for a row of zeros.
    """

    codes: NDArray[np.int8]
    scales: Matrix

    def __post_init__(self) -> None:
        """Check the arrays.

        Raises:
            RecipeError: they are none of these types, or do not belong together.
        """
        for name, array, dtype, rank in (("codes", self.codes, np.int8, 2), ("scales", self.scales, np.float32, 1)):
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != rank:
                kind = f"{array.dtype} of rank {array.ndim}" if isinstance(array, np.ndarray) else shown(array)
                raise RecipeError(f"{name} is {kind}, expected {np.dtype(dtype)} of rank {rank}")
        if len(self.codes) != len(self.scales):
            raise RecipeError(f"scales of {len(self.scales)} rows, expected {len(self.codes)}, as codes have")


def quantize_row_to_int8(x: ArrayLike) -> Int8Rows:
    """Each row rounded to 8 bits: scale = max |x| / 127, code = x / scale, halves away from zero.

    Args:
        x: finite floats [rows, cols], or one row.

    Raises:
        RecipeError: they are no numbers.
        WeightError: NaN or infinity, or another rank.
    """
    rows = np.atleast_2d(as_float(x, "x"))
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise WeightError(f"rows of shape {list(rows.shape)}: expected finite floats [rows, cols]")
    scales = np.abs(rows).max(axis=1, initial=0, keepdims=True) / np.float32(127)
    codes = np.clip(round_away(rows * reciprocal(scales)), -127, 127)
    return Int8Rows(codes.astype(np.int8), scales[:, 0])


@checked
def matmul_i2s(x: ArrayLike, weight: Encoded) -> Matrix:
    """``x @ W.T`` in float32.

    Args:
        x: floats [..., cols].
        weight: a weight of format i2_s, [outputs, cols].

    Raises:
        RecipeError: the weight has another format, or the rows are no numbers.
        WeightError: the rows have another length.
    """
    return QuantizedLinear(_ternary(weight)).forward(x)


@checked
def matmul_i2s_i8(rows: Int8Rows, weight: Encoded) -> Matrix:
    """``rows @ W.T``: sums of integers, which are exact, times both scales.

    Args:
        rows: rows rounded to 8 bits.
        weight: a weight of format i2_s, [outputs, cols].

    Raises:
        RecipeError: the weight has another format.
        WeightError: the rows have another length, or one at which sums are no longer exact.
    """
    if weight.cols > _MOST_COLS:
        raise WeightError(f"rows of {weight.cols} weights, expected at most {_MOST_COLS}: sums are exact up to there")
    planes = _ternary(weight).planes
    trits = replace(weight, planes={**planes, "scales": np.ones_like(planes["scales"])})
    sums = QuantizedLinear(trits).forward(rows.codes.astype(np.float32))
    factors: Matrix = rows.scales[:, None] * planes["scales"]
    return sums * factors


def _ternary(weight: Encoded) -> Encoded:
    if not isinstance(weight.format, I2_S):
        raise RecipeError(f"weight of format {weight.format.name}, expected {I2_S.name}")
    return weight
