"""absmean: the mean and the largest magnitude of each channel, for SmoothQuant-like passes and importance weights."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.numerics.arrays import Doubles
from onnxquant.observers.base import Observer, ObserverState
from onnxquant.observers.channels import ChannelAccumulator


class Magnitudes(ChannelAccumulator):
    """Sum (float64) and maximum of the magnitudes of each channel."""

    kind = "absmean"

    def __init__(self, axis: int = -1) -> None:
        super().__init__(axis)
        self.largest: Doubles = np.zeros(0)

    def _start(self, channels: int) -> None:
        self.sums, self.largest = np.zeros(channels), np.zeros(channels)

    def _add(self, array: NDArray[np.floating]) -> None:
        magnitudes = np.moveaxis(np.abs(array), self.axis, 0).reshape(len(self.sums), -1)
        self.sums += magnitudes.sum(axis=1, dtype=np.float64)
        np.maximum(self.largest, magnitudes.max(axis=1), out=self.largest)

    def _merge(self, other: Self) -> None:
        self.sums += other.sums
        np.maximum(self.largest, other.largest, out=self.largest)

    def state(self) -> ObserverState:
        """All of it, as arrays."""
        return {**super().state(), "largest": self.largest}

    @classmethod
    def from_state(cls, state: ObserverState) -> Self:
        """The inverse of ``state``."""
        out = cls(int(state["axis"]))
        out.count = int(state["rows"])
        out.sums, out.largest = np.array(state["sums"]), np.array(state["largest"])
        return out


class AbsMean(Observer[Magnitudes]):
    """Magnitudes per channel: ``absmean`` (last axis) or ``absmean:1`` (axis 1).

    >>> observer = AbsMean()
    >>> observer.update(np.float32([[1, -2], [3, -6]]))
    >>> observer.absmean.tolist(), observer.absmax.tolist()
    ([2.0, 4.0], [3.0, 6.0])
    """

    name = "absmean"
    accumulator = Magnitudes

    @property
    def absmean(self) -> Doubles:
        """Mean magnitude of each channel.

        Raises:
            StatisticsError: no values were seen.
        """
        self._refuse_empty()
        mean: Doubles = self.accumulated.sums / self.count
        return mean

    @property
    def absmax(self) -> Doubles:
        """Largest magnitude of each channel.

        Raises:
            StatisticsError: no values were seen.
        """
        self._refuse_empty()
        return self.accumulated.largest
