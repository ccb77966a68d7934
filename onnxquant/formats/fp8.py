"""f8_e4m3 and f8_e5m2: 8-bit floats with one float32 scale per row.

scale = row's max |w| / largest, code = the bits of w * (1 / scale) rounded to nearest even and saturated, so that NaN and
infinity are never written. A row whose scale is zero, or so small that its reciprocal overflows (max |w| below 1.4e-36
for e4m3, 1.7e-34 for e5m2), has codes 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Prepared
from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.granularity import PerRow
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Planes
from onnxquant.formats.table import TableCodes


@dataclass(frozen=True)
class Float8(TableCodes):
    """Base of the 8-bit floats."""

    dtype: ClassVar[np.dtype[Any]]
    largest: ClassVar[float]
    granularity = PerRow()

    @classmethod
    def table(cls) -> Matrix:  # noqa: D102
        return _values(cls.dtype)

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        top = np.float32(self.largest)
        scale = np.abs(chunk).max(axis=1, keepdims=True) / top
        inverse = ggml.reciprocal(scale)
        values = np.where(inverse != 0, chunk * inverse, np.float32(0))
        np.clip(values, -top, top, out=values)
        return {"codes": values.astype(self.dtype).view(np.uint8), "scales": scale}


@cache
def _values(dtype: np.dtype[Any]) -> Matrix:
    values: NDArray[Any] = np.arange(256, dtype=np.uint8).view(dtype)
    return values.astype(np.float32)


@dataclass(frozen=True)
class E4M3(Float8):
    """8-bit floats with 3 bits of mantissa, one scale per row."""

    name = "f8_e4m3"
    bits = 8
    facts = Facts(rmse=0.026, drift=0.001)
    source = "OCP 8-bit floating point: E4M3, without infinities (ONNX FLOAT8E4M3FN)"
    dtype = np.dtype(ml_dtypes.float8_e4m3fn)
    largest = 448.0


@dataclass(frozen=True)
class E5M2(Float8):
    """8-bit floats with 2 bits of mantissa, one scale per row."""

    name = "f8_e5m2"
    bits = 8
    facts = Facts(rmse=0.0517, drift=0.001)
    source = "OCP 8-bit floating point: E5M2 (ONNX FLOAT8E5M2)"
    dtype = np.dtype(ml_dtypes.float8_e5m2)
    largest = 57344.0
