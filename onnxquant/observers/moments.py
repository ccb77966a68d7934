"""Count, extremes, sum and sum of squares: the accumulator of minmax and mean-std."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.numerics.exact_sum import ExactSum, variance
from onnxquant.observers.base import Accumulator, Batch, ObserverState, scalar

_BLOCK, _LANES = 8192, 16


class Moments(Accumulator):
    """Extremes and moments of all values.

    The sums of a block of values are float64, added up in lanes as the compiled library does it; sums of blocks are exact,
    so that the order of merging does not matter.
    """

    kind = "moments"
    count = 0

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.total, self.squares = ExactSum(), ExactSum()

    def add(self, batch: Batch) -> None:
        """Add one checked tensor."""
        flat = batch.array.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            lanes = np.zeros((-(-block.size // _LANES), _LANES))
            lanes.reshape(-1)[: block.size] = block
            self.total.add(_sum(lanes))
            self.squares.add(_sum(np.square(lanes, out=lanes)))
        self.count += flat.size
        self.low, self.high = min(self.low, batch.low), max(self.high, batch.high)

    def merge(self, other: Self) -> None:
        """Add the statistics of another one."""
        self.count += other.count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total.merge(other.total)
        self.squares.merge(other.squares)

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return self.total.mean(self.count)

    @property
    def std(self) -> float:
        """Standard deviation of all values (of the population: divided by their number)."""
        return math.sqrt(variance(self.total, self.squares, self.count))

    def state(self) -> ObserverState:
        """All of it, as arrays."""
        sums = {"total": self.total.state(), "squares": self.squares.state()}
        return {"count": np.array(self.count, np.int64), "low": scalar(self.low), "high": scalar(self.high), **sums}

    @classmethod
    def from_state(cls, state: ObserverState) -> Self:
        """The inverse of ``state``."""
        out = cls()
        out.count, out.low, out.high = int(state["count"]), float(state["low"]), float(state["high"])
        out.total, out.squares = ExactSum.from_state(state["total"]), ExactSum.from_state(state["squares"])
        return out


def _sum(lanes: NDArray[np.float64]) -> float:
    """Each lane from its first to its last value, then lanes in halves."""
    sums: NDArray[np.float64] = np.add.reduce(lanes, axis=0)
    while sums.size > 1:
        half = sums.size // 2
        sums = sums[:half] + sums[half:]
    return float(sums[0])
