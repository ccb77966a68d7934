"""gram: the Gram matrix X^T X of rows, which GPTQ-like solvers and corrections of a product's error need."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.observers.base import Accumulator, Batch, Observer, State
from onnxquant.errors import StatisticsError

# Elements of a block of rows that is converted to float64 at a time.
_BLOCK = 1 << 20


class Products(Accumulator):
    """Sum of the outer products of rows, in float64."""

    kind = "gram"

    def __init__(self) -> None:
        self.rows = 0
        self.matrix: NDArray[np.float64] = np.zeros((0, 0))

    def add(self, batch: Batch) -> None:
        """See one checked tensor [..., K].

        Raises:
            StatisticsError: a scalar, or another K than before.
        """
        array = batch.array
        if not array.ndim:
            raise StatisticsError("gram: expected a tensor of shape [..., K], found a scalar")
        if not array.size:
            return
        width = array.shape[-1]
        self._fit(width)
        flat = array.reshape(-1, width)
        step = max(1, _BLOCK // width)
        for start in range(0, len(flat), step):
            block = flat[start : start + step].astype(np.float64)
            self.matrix += block.T @ block
        self.rows += len(flat)

    def _fit(self, width: int) -> None:
        if not self.rows:
            self.matrix = np.zeros((width, width))
        elif width != len(self.matrix):
            raise StatisticsError(f"gram: rows of {width} values, {len(self.matrix)} before")

    def merge(self, other: Self) -> None:
        """See what another one saw."""
        if other.rows:
            self._fit(len(other.matrix))
            self.rows += other.rows
            self.matrix += other.matrix

    def state(self) -> State:
        """Everything, as arrays."""
        return {"rows": np.array(self.rows, np.int64), "matrix": self.matrix}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of ``state``."""
        out = cls()
        out.rows, out.matrix = int(state["rows"]), np.array(state["matrix"])
        return out


class Gram(Observer[Products]):
    """X^T X of all rows seen.

    >>> observer = Gram()
    >>> observer.update(np.float32([[1, 2]]))
    >>> observer.matrix.tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """

    name = "gram"
    accumulator = Products

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The matrix [K, K]."""
        return self.accumulated.matrix

    @property
    def rows(self) -> int:
        """Rows that it sums up."""
        return self.accumulated.rows
