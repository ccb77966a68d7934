"""gram: the Gram matrix X^T X of rows, for GPTQ-like solvers, and with their sum the covariance of channels."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import StatisticsError
from onnxquant.observers.base import Accumulator, Batch, Observer, State

# Elements of a block of rows that is converted to float64 at a time.
_BLOCK = 1 << 20


class Products(Accumulator):
    """Sum of rows and of their outer products, in float64.

    Args:
        axis: which axis a row lies along; negative ones count from the end.
    """

    kind = "gram"

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis
        self.rows = 0
        self.sums: NDArray[np.float64] = np.zeros(0)
        self.matrix: NDArray[np.float64] = np.zeros((0, 0))

    def add(self, batch: Batch) -> None:
        """Add one checked tensor.

        Raises:
            StatisticsError: it has no such axis, or rows of another length than before.
        """
        array = batch.array
        if not -array.ndim <= self.axis < array.ndim:
            raise StatisticsError(f"gram: axis {self.axis} of a tensor of shape {list(array.shape)}")
        if not array.size:
            return
        width = array.shape[self.axis]
        self._fit(width)
        flat = np.moveaxis(array, self.axis, -1).reshape(-1, width)
        step = max(1, _BLOCK // width)
        for start in range(0, len(flat), step):
            block = flat[start : start + step].astype(np.float64)
            self.sums += block.sum(axis=0)
            self.matrix += block.T @ block
        self.rows += len(flat)

    def _fit(self, width: int) -> None:
        if not self.rows:
            self.sums, self.matrix = np.zeros(width), np.zeros((width, width))
        elif width != len(self.matrix):
            raise StatisticsError(f"gram: rows of {width} values, {len(self.matrix)} before")

    def merge(self, other: Self) -> None:
        """Add the statistics of another one."""
        if other.axis != self.axis:
            raise StatisticsError(f"gram: axis {other.axis} cannot be merged with axis {self.axis}")
        if other.rows:
            self._fit(len(other.matrix))
            self.rows += other.rows
            self.sums += other.sums
            self.matrix += other.matrix

    def state(self) -> State:
        """All of it, as arrays."""
        numbers = {"axis": np.array(self.axis, np.int64), "rows": np.array(self.rows, np.int64)}
        return {**numbers, "sums": self.sums, "matrix": self.matrix}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of ``state``; sums that the first files of statistics do not have are NaN, and stay so."""
        out = cls(int(state.get("axis", -1)))
        out.rows, out.matrix = int(state["rows"]), np.array(state["matrix"])
        out.sums = np.array(state["sums"]) if "sums" in state else np.full(len(out.matrix), np.nan)
        return out


class ChannelMoments(NamedTuple):
    """Mean [n] and covariance [n, n] of a tensor's channels over samples and positions."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


class Gram(Observer[Products]):
    """X^T X of all rows seen, their mean and covariance: ``gram`` (last axis) or ``gram:1`` (axis 1).

    >>> observer = Gram()
    >>> observer.update(np.float32([[1, 2], [3, 2]]))
    >>> observer.matrix.tolist()
    [[10.0, 8.0], [8.0, 8.0]]
    >>> observer.mean.tolist(), observer.covariance.tolist()
    ([2.0, 2.0], [[1.0, 0.0], [0.0, 0.0]])
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

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean row [K].

        Raises:
            StatisticsError: no rows were seen, or the statistics are of a version that kept no sums.
        """
        if not self.rows:
            raise StatisticsError("gram: no values were observed")
        if np.isnan(self.accumulated.sums).any():
            raise StatisticsError("gram: the statistics hold no sums of rows; calibrate again with this version")
        mean: NDArray[np.float64] = self.accumulated.sums / self.rows
        return mean

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The covariance [K, K] (of the population: divided by the number of rows).

        Raises:
            StatisticsError: see ``mean``.
        """
        mean = self.mean
        covariance: NDArray[np.float64] = self.matrix / self.rows - np.outer(mean, mean)
        return covariance

    @property
    def channel_moments(self) -> ChannelMoments:
        """Mean and covariance.

        Raises:
            StatisticsError: no rows were seen, or the statistics are of a version that kept no sums.
        """
        return ChannelMoments(self.mean, self.covariance)
