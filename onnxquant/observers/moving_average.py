"""moving-average: extremes of each sample, averaged with more weight on the later ones."""

from __future__ import annotations

from typing import Self

import numpy as np

from onnxquant.numerics.exact_sum import ExactSum
from onnxquant.observers.base import Accumulator, ActivationGrid, Batch, ObserverState, RangeObserver

WEIGHT = 0.01
"""Weight of a new sample, as in PyTorch's and ONNX Runtime's observers of this name."""


class MovingExtremes(Accumulator):
    """Exponential moving averages of the smallest and the largest value of each sample.

    The first sample starts the average: ``low += WEIGHT * (sample's low - low)`` from the second on. Two averages merge
    to their mean, weighted with their numbers of samples. One run over both parts would have another result (it would weigh
    the second part more), but shards have no order that a longer memory of one of them could be based on; merging is
    exact, so any order gives the same.
    """

    kind = "moving-average"
    count = 0

    def __init__(self) -> None:
        self._lows, self._highs = ExactSum(), ExactSum()  # average times samples

    @property
    def low(self) -> float:
        """Average of the smallest values."""
        return self._lows.mean(self.count)

    @property
    def high(self) -> float:
        """Average of the largest values."""
        return self._highs.mean(self.count)

    def add(self, batch: Batch) -> None:
        """See one checked tensor; empty ones are no sample."""
        if batch.array.size:
            self.note(batch.low, batch.high)

    def note(self, low: float, high: float) -> None:
        """See a sample with these extremes."""
        if self.count:
            low = self.low + WEIGHT * (low - self.low)
            high = self.high + WEIGHT * (high - self.high)
        self.count += 1
        self._lows, self._highs = ExactSum(), ExactSum()
        self._lows.add(low, self.count)
        self._highs.add(high, self.count)

    def merge(self, other: Self) -> None:
        """The mean of both, weighted with their numbers of samples."""
        self.count += other.count
        self._lows.merge(other._lows)
        self._highs.merge(other._highs)

    def state(self) -> ObserverState:
        """All of it, as arrays."""
        sums = {"lows": self._lows.state(), "highs": self._highs.state()}
        return {"samples": np.array(self.count, np.int64), **sums}

    @classmethod
    def from_state(cls, state: ObserverState) -> Self:
        """The inverse of ``state``."""
        out = cls()
        out.count = int(state["samples"])
        out._lows, out._highs = ExactSum.from_state(state["lows"]), ExactSum.from_state(state["highs"])
        return out


class MovingAverage(RangeObserver[MovingExtremes]):
    """Averaged extremes: one wild sample moves the range by one part in a hundred."""

    name = "moving-average"
    clips = False
    accumulator = MovingExtremes

    def _range(self, grid: ActivationGrid) -> tuple[float, float]:
        return self.accumulated.low, self.accumulated.high
