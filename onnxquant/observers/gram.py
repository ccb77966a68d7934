"""gram: the Gram matrix X^T X of rows, for GPTQ-like solvers, and with their sum the covariance of channels."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import StatisticsError
from onnxquant.numerics.arrays import Doubles
from onnxquant.observers.base import Observer, ObserverState
from onnxquant.observers.channels import ChannelAccumulator

# Elements of a block of rows that is converted to float64 at a time.
_BLOCK = 1 << 20


class Products(ChannelAccumulator):
    """Sum of rows and of their outer products, in float64."""

    kind = "gram"

    def __init__(self, axis: int = -1) -> None:
        super().__init__(axis)
        self.matrix: Doubles = np.zeros((0, 0))

    def _start(self, channels: int) -> None:
        self.sums, self.matrix = np.zeros(channels), np.zeros((channels, channels))

    def _add(self, array: NDArray[np.floating]) -> None:
        width = len(self.sums)
        flat = np.moveaxis(array, self.axis, -1).reshape(-1, width)
        step = max(1, _BLOCK // width)
        for start in range(0, len(flat), step):
            block = flat[start : start + step].astype(np.float64)
            self.sums += block.sum(axis=0)
            self.matrix += block.T @ block

    def _merge(self, other: Self) -> None:
        self.sums += other.sums
        self.matrix += other.matrix

    def state(self) -> ObserverState:
        """All of it, as arrays."""
        return {**super().state(), "matrix": self.matrix}

    @classmethod
    def from_state(cls, state: ObserverState) -> Self:
        """The inverse of ``state``; sums that the first files of statistics do not have are NaN, and stay so."""
        out = cls(int(state.get("axis", -1)))
        out.count, out.matrix = int(state["rows"]), np.array(state["matrix"])
        out.sums = np.array(state["sums"]) if "sums" in state else np.full(len(out.matrix), np.nan)
        return out


class ChannelMoments(NamedTuple):
    """Mean [n] and covariance [n, n] of a tensor's channels over samples and positions."""

    mean: Doubles
    covariance: Doubles


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
    def matrix(self) -> Doubles:
        """The matrix [K, K]."""
        return self.accumulated.matrix

    @property
    def mean(self) -> Doubles:
        """The mean row [K].

        Raises:
            StatisticsError: no rows were seen, or the statistics are of a version that kept no sums.
        """
        self._refuse_empty()
        if np.isnan(self.accumulated.sums).any():
            raise StatisticsError("gram: the statistics hold no sums of rows; calibrate again with this version")
        mean: Doubles = self.accumulated.sums / self.count
        return mean

    @property
    def covariance(self) -> Doubles:
        """The covariance [K, K] (of the population: divided by the number of rows).

        Raises:
            StatisticsError: see ``mean``.
        """
        mean = self.mean
        covariance: Doubles = self.matrix / self.count - np.outer(mean, mean)
        return covariance

    @property
    def channel_moments(self) -> ChannelMoments:
        """Mean and covariance.

        Raises:
            StatisticsError: no rows were seen, or the statistics are of a version that kept no sums.
        """
        return ChannelMoments(self.mean, self.covariance)
