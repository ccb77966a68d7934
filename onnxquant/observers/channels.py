"""Base of the accumulators of channels along one axis of a tensor."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import StatisticsError
from onnxquant.numerics.arrays import Doubles
from onnxquant.observers.base import Accumulator, Batch, ObserverState


class ChannelAccumulator(Accumulator):
    """Sums per channel; a row has a value of each channel.

    Args:
        axis: axis of the channels; a negative one counts from the end.
    """

    count = 0

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis
        self.sums: Doubles = np.zeros(0)

    def add(self, batch: Batch) -> None:
        """Add one checked tensor.

        Raises:
            StatisticsError: it has no such axis, or another number of channels than before.
        """
        array = batch.array
        if not -array.ndim <= self.axis < array.ndim:
            raise StatisticsError(f"{self.kind}: axis {self.axis} of a tensor of shape {list(array.shape)}")
        if array.size:
            channels = array.shape[self.axis]
            self._fit(channels)
            self._add(array)
            self.count += array.size // channels

    @abstractmethod
    def _add(self, array: NDArray[np.floating]) -> None:
        """Add a tensor of as many channels as those before."""

    @abstractmethod
    def _start(self, channels: int) -> None:
        """Begin all statistics at zero, for ``channels`` channels."""

    def _fit(self, channels: int) -> None:
        """Take a number of channels, that of those before if there are any."""
        if not self.count:
            self._start(channels)
        elif channels != len(self.sums):
            raise StatisticsError(f"{self.kind}: {channels} channels on axis {self.axis}, {len(self.sums)} before")

    def merge(self, other: Self) -> None:
        """Add the statistics of another one.

        Raises:
            StatisticsError: it has another axis, or another number of channels.
        """
        if other.axis != self.axis:
            raise StatisticsError(f"{self.kind}: axis {other.axis} cannot be merged with axis {self.axis}")
        if other.count:
            self._fit(len(other.sums))
            self._merge(other)
            self.count += other.count

    @abstractmethod
    def _merge(self, other: Self) -> None:
        """Add the statistics of another one of as many channels."""

    def state(self) -> ObserverState:
        """All of it, as arrays."""
        return {"axis": np.array(self.axis, np.int64), "rows": np.array(self.count, np.int64), "sums": self.sums}
