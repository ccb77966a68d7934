"""A weight as a matrix of float32 rows: read in chunks, split into groups, checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.errors import RangeError, WeightError
from onnxquant.formats.planes import Planes
from onnxquant.numerics.rows import row_ranges

Matrix = NDArray[np.float32]

# Bytes of float32 that are encoded or decoded at a time: temporaries stay in cache and never grow with the weight.
CHUNK_BYTES = 4 << 20
_SIDES = {"scales": "scale", "minima": "minimum"}


@dataclass(frozen=True)
class Stack:
    """Matrices of as many columns, below each other, as one weight that is nowhere copied together.

    Attributes:
        parts: the matrices, of any float types.
    """

    parts: Sequence[NDArray[Any]]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of all, and columns."""
        return sum(len(part) for part in self.parts), self.parts[0].shape[1]

    def whole(self) -> NDArray[Any]:
        """One matrix; a copy where there are several."""
        return self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)


def chunks(weight: NDArray[Any]) -> Iterator[tuple[int, Matrix]]:
    """The first row and the values of each chunk of rows: contiguous float32, checked to be finite.

    Raises:
        WeightError: NaN or infinity, with its position.
    """
    rows, cols = weight.shape
    for part in row_ranges(rows, cols, CHUNK_BYTES):
        with np.errstate(over="ignore", invalid="ignore"):
            chunk = np.ascontiguousarray(weight[part], dtype=np.float32)
            total = chunk.sum(dtype=np.float64)
        # One reduction finds both NaN and infinity; their position is searched for only when there is one.
        if not np.isfinite(total) and not np.isfinite(chunk).all():
            row, col = (int(i) for i in np.argwhere(~np.isfinite(chunk))[0])
            raise WeightError(
                f"holds {chunk[row, col]} at row {part.start + row}, column {col}; expected finite values"
            )
        yield part.start, chunk


def split(chunk: Matrix, group: int | None) -> Matrix:
    """Rows as [rows, groups, weights of a group]; a short last group is filled up with the last value of its row."""
    rows, cols = chunk.shape
    group = group or cols
    missing = -cols % group
    if missing:
        chunk = np.concatenate([chunk, np.repeat(chunk[:, -1:], missing, axis=1)], axis=1)
    return chunk.reshape(rows, -1, group)


def expand(side: NDArray[Any], group: int, cols: int) -> NDArray[Any]:
    """One value per weight from one per group (0: the row, which broadcasts by itself)."""
    return np.repeat(side, group, axis=1)[:, :cols] if group else side


def columns_by_norm(weight: NDArray[Any]) -> NDArray[np.int32]:
    """Columns by their L2 norm over all rows (float64), descending; equal ones in their order."""
    total = np.zeros(weight.shape[1], np.float64)
    for _, chunk in chunks(weight):
        total += np.square(chunk, dtype=np.float64).sum(axis=0)
    return np.argsort(-np.sqrt(total), kind="stable").astype(np.int32)


def check_permutation(order: ArrayLike, cols: int) -> NDArray[np.int32]:
    """An order of columns as int32.

    Raises:
        WeightError: it does not name each column once.
    """
    out = np.asarray(order)
    if out.shape != (cols,) or out.dtype.kind not in "iu" or not np.array_equal(np.sort(out), np.arange(cols)):
        raise WeightError(
            f"permutation of type {out.dtype} and shape {list(out.shape)}: expected each of 0 .. {cols - 1} once"
        )
    return out.astype(np.int32)


def check_finite(name: str, planes: Planes) -> None:
    """Refuse infinite scales and minima.

    Raises:
        RangeError: a group's values are beyond what the plane's type can express.
    """
    for plane, word in _SIDES.items():
        side = planes.get(plane)
        if side is not None and side.dtype.kind == "f" and not np.isfinite(side).all():
            where = [int(i) for i in np.argwhere(~np.isfinite(side))[0]]
            raise RangeError(
                f"format {name}: the {word} of group {where} is beyond {side.dtype} ({np.finfo(side.dtype).max:.4g})"
            )
