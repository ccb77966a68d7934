"""Count, extremes, sum and sum of squares: the accumulator of minmax and mean-std."""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from onnxquant.calibration.observers.base import Accumulator, Batch, State, scalar
from onnxquant.calibration.observers.exact import ExactSum, variance

_CHUNK = 1 << 16


class Moments(Accumulator):
    """Extremes and moments of all values.

    The sums of one tensor are float64; sums of tensors are exact, so that merging knows no order.
    """

    kind = "moments"

    def __init__(self) -> None:
        self.count = 0
        self.low, self.high = math.inf, -math.inf
        self.total, self.squares = ExactSum(), ExactSum()

    def add(self, batch: Batch) -> None:
        """See one checked tensor."""
        flat = batch.array.reshape(-1)
        total = squares = 0.0
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK].astype(np.float64)
            total += float(chunk.sum())
            squares += float(np.square(chunk, out=chunk).sum())
        self.note(flat.size, batch.low, batch.high, total, squares)

    def note(self, count: int, low: float, high: float, total: float, squares: float) -> None:
        """See a tensor of which this is known."""
        self.count += count
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.total.add(total)
        self.squares.add(squares)

    def merge(self, other: Self) -> None:
        """See what another one saw."""
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

    def state(self) -> State:
        """Everything, as arrays."""
        sums = {"total": self.total.state(), "squares": self.squares.state()}
        return {"count": np.array(self.count, np.int64), "low": scalar(self.low), "high": scalar(self.high), **sums}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of ``state``."""
        out = cls()
        out.count, out.low, out.high = int(state["count"]), float(state["low"]), float(state["high"])
        out.total, out.squares = ExactSum.from_state(state["total"]), ExactSum.from_state(state["squares"])
        return out
