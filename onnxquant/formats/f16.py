"""f16: IEEE binary16, rounded to nearest even."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RangeError
from onnxquant.formats.base import Encoded, Format, Matrix, Plane, chunks


@dataclass(frozen=True)
class F16(Format):
    """Half precision: 16 bits per weight."""

    name = "f16"
    bits = 16

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        return 16.0

    def planes(self, rows: int, cols: int) -> dict[str, Plane]:  # noqa: D102
        return {"values": Plane((rows, cols), np.dtype(np.float16))}

    def encode(self, weight: NDArray[Any]) -> Encoded:  # noqa: D102
        rows, cols = weight.shape
        values = np.empty((rows, cols), np.float16)
        for first, chunk in chunks(weight):
            with np.errstate(over="ignore"):
                values[first : first + len(chunk)] = chunk
            if np.isinf(values[first : first + len(chunk)]).any():
                raise RangeError(f"format f16: holds {np.abs(chunk).max():.4g}, the largest float16 is 65504")
        return Encoded(self, rows, cols, {"values": values}, (rows, cols))

    def decode(self, encoded: Encoded) -> Matrix:  # noqa: D102
        return encoded.planes["values"].astype(np.float32)


FORMATS = [F16]
