"""f32, which changes nothing, and the 16-bit floats f16 and bf16, rounded to nearest even."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RangeError
from onnxquant.formats.base import Format, Prepared
from onnxquant.formats.facts import Facts
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Plane, Planes


@dataclass(frozen=True)
class Floats(Format):
    """Base of the formats whose one plane ``values`` holds floats."""

    dtype: ClassVar[np.dtype[Any]]
    largest: ClassVar[str]

    why_not_solvable = "its weights are floats, and no codes"

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        return float(self.bits)

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:  # noqa: D102
        return [Plane.of("values", (rows, cols), self.dtype)]

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        planes: Planes = {"values": chunk.astype(self.dtype)}
        self.check_range(chunk, planes)
        return planes

    def check_range(self, weight: NDArray[Any], planes: Planes) -> None:
        """Refuse weights beyond the type.

        Raises:
            RangeError: the largest magnitude, and the largest number of the type.
        """
        if np.isinf(planes["values"]).any():
            raise RangeError(
                f"format {self.name}: holds {np.abs(weight).max():.4g}, the largest {self.dtype} is {self.largest}"
            )

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:  # noqa: D102
        return planes["values"].astype(np.float32)


@dataclass(frozen=True)
class F32(Floats):
    """Single precision: the weights as they are."""

    name = "f32"
    bits = 32
    facts = Facts(rmse=0.0)
    source = "IEEE 754 binary32"
    dtype = np.dtype(np.float32)
    largest = "3.403e38"
    changes_nothing = True


@dataclass(frozen=True)
class F16(Floats):
    """Half precision: 5 bits of exponent, 10 of mantissa."""

    name = "f16"
    bits = 16
    facts = Facts(rmse=0.0002074)
    source = "IEEE 754 binary16"
    dtype = np.dtype(np.float16)
    largest = "65504"


@dataclass(frozen=True)
class BF16(Floats):
    """The upper half of a float32: 8 bits of exponent, 7 of mantissa."""

    name = "bf16"
    bits = 16
    facts = Facts(rmse=0.00165)
    source = "bfloat16 as ml_dtypes and ONNX define it"
    dtype = np.dtype(ml_dtypes.bfloat16)
    largest = "3.39e38"
