"""Formats that encode each row by itself."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.matrix import CHUNK_BYTES, Matrix, Planes, check_finite, chunks
from onnxquant.numerics.rows import row_ranges


@dataclass(frozen=True)
class Rowwise(Format):
    """Base of the formats that encode each row by itself."""

    @abstractmethod
    def encode_rows(self, chunk: Matrix, first: int) -> Planes:
        """Planes of some rows, contiguous and finite; the first of them is row ``first`` of the weight."""

    @abstractmethod
    def decode_rows(self, planes: Planes, cols: int) -> Matrix:
        """The values of some rows."""

    def _encode(self, weight: NDArray[Any]) -> Encoded:
        rows, cols = weight.shape
        out = self._allocate(rows, cols)
        for first, chunk in chunks(weight):
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                part = self.encode_rows(chunk, first)
            for name, plane in part.items():
                out[name][first : first + len(chunk)] = plane
        check_finite(self.name, out)
        return Encoded(self, rows, cols, out, (rows, cols))

    def _decode(self, encoded: Encoded) -> Matrix:
        rows, cols = encoded.rows, encoded.cols
        own = {name: plane for name, plane in encoded.planes.items() if name != "permutation"}
        out = np.empty((rows, cols), np.float32)
        for part in row_ranges(rows, cols, CHUNK_BYTES):
            out[part] = self.decode_rows({name: plane[part] for name, plane in own.items()}, cols)
        return out
