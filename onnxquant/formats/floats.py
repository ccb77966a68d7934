"""f16 and bf16: the 16-bit floats, rounded to nearest even."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from onnxquant.errors import RangeError
from onnxquant.formats.base import Plane
from onnxquant.formats.matrix import Matrix, Planes
from onnxquant.formats.rowwise import Rowwise


@dataclass(frozen=True)
class Floats(Rowwise):
    """Base of the formats whose one plane ``values`` holds floats."""

    dtype: ClassVar[np.dtype[Any]]
    largest: ClassVar[str]

    unsolvable = "its weights are floats, and no codes"

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        return float(self.bits)

    def _planes(self, rows: int, cols: int) -> dict[str, Plane]:
        return {"values": Plane((rows, cols), self.dtype)}

    def encode_rows(self, chunk: Matrix, first: int) -> Planes:  # noqa: D102
        values = chunk.astype(self.dtype)
        if np.isinf(values).any():
            raise RangeError(
                f"format {self.name}: holds {np.abs(chunk).max():.4g}, the largest {self.dtype} is {self.largest}"
            )
        return {"values": values}

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:  # noqa: D102
        return planes["values"].astype(np.float32)


@dataclass(frozen=True)
class F16(Floats):
    """Half precision: 5 bits of exponent, 10 of mantissa."""

    name = "f16"
    bits = 16
    source = "IEEE 754 binary16"
    dtype = np.dtype(np.float16)
    largest = "65504"


@dataclass(frozen=True)
class BF16(Floats):
    """The upper half of a float32: 8 bits of exponent, 7 of mantissa."""

    name = "bf16"
    bits = 16
    source = "bfloat16 as ml_dtypes and ONNX define it"
    dtype = np.dtype(ml_dtypes.bfloat16)
    largest = "3.39e38"


FORMATS = [F16, BF16]
