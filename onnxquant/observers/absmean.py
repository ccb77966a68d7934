"""absmean: the mean and the largest magnitude of each channel, for SmoothQuant-like passes and importance weights."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import StatisticsError
from onnxquant.observers.base import Accumulator, Batch, Observer, State


class Magnitudes(Accumulator):
    """Sum (float64) and maximum of magnitudes along one axis.

    Args:
        axis: axis of the channels; a negative one counts from the end.
    """

    kind = "absmean"

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis
        self.rows = 0
        self.sums: NDArray[np.float64] = np.zeros(0)
        self.largest: NDArray[np.float64] = np.zeros(0)

    def add(self, batch: Batch) -> None:
        """Add one checked tensor.

        Raises:
            StatisticsError: it has no such axis, or another number of channels than before.
        """
        array = batch.array
        if not -array.ndim <= self.axis < array.ndim:
            raise StatisticsError(f"absmean: axis {self.axis} of a tensor of shape {list(array.shape)}")
        channels = array.shape[self.axis]
        if not array.size:
            return
        self._fit(channels)
        magnitudes = np.moveaxis(np.abs(array), self.axis, 0).reshape(channels, -1)
        self.rows += magnitudes.shape[1]
        self.sums += magnitudes.sum(axis=1, dtype=np.float64)
        np.maximum(self.largest, magnitudes.max(axis=1), out=self.largest)

    def _fit(self, channels: int) -> None:
        if not self.rows:
            self.sums, self.largest = np.zeros(channels), np.zeros(channels)
        elif channels != len(self.sums):
            raise StatisticsError(f"absmean: {channels} channels on axis {self.axis}, {len(self.sums)} before")

    def merge(self, other: Self) -> None:
        """Add the statistics of another one."""
        if other.axis != self.axis:
            raise StatisticsError(f"absmean: axis {other.axis} cannot be merged with axis {self.axis}")
        if other.rows:
            self._fit(len(other.sums))
            self.rows += other.rows
            self.sums += other.sums
            np.maximum(self.largest, other.largest, out=self.largest)

    def state(self) -> State:
        """All of it, as arrays."""
        numbers = {"axis": np.array(self.axis, np.int64), "rows": np.array(self.rows, np.int64)}
        return {**numbers, "sums": self.sums, "largest": self.largest}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of ``state``."""
        out = cls(int(state["axis"]))
        out.rows = int(state["rows"])
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
    def absmean(self) -> NDArray[np.float64]:
        """Mean magnitude of each channel.

        Raises:
            StatisticsError: no values were seen.
        """
        self._refuse_empty()
        mean: NDArray[Any] = self.accumulated.sums / self.accumulated.rows
        return mean

    @property
    def absmax(self) -> NDArray[np.float64]:
        """Largest magnitude of each channel.

        Raises:
            StatisticsError: no values were seen.
        """
        self._refuse_empty()
        return self.accumulated.largest

    def _refuse_empty(self) -> None:
        if not self.accumulated.rows:
            raise StatisticsError("absmean: no values were observed")
