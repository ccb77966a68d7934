"""Base classes of observers: methods that turn a mergeable statistic of a tensor into a range or an array.

Methods that need the same statistic share one *accumulator*: percentile, entropy and mse read one histogram.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import StatisticsError
from onnxquant.observers.codes import Codes, QuantizationParameters

ObserverState = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ActivationGrid:
    """The codes of an activation, for which a calibration method chooses a range.

    Attributes:
        bits: number of bits of a code.
        symmetric: codes -2^(bits-1)+1 .. 2^(bits-1)-1 around zero; else 2^bits codes with a zero point.

    >>> ActivationGrid(8, symmetric=True).steps
    254
    """

    bits: int = 8
    symmetric: bool = False

    @property
    def steps(self) -> int:
        """Steps from the lowest code to the highest."""
        return int(2**self.bits) - (2 if self.symmetric else 1)


@dataclass(frozen=True)
class Batch:
    """One tensor of one sample, checked; its extremes are computed once for all accumulators.

    Attributes:
        array: float32 or float64, in the tensor's shape.
        low: smallest value; infinity where there is none.
        high: largest value; -infinity where there is none.
    """

    array: NDArray[Any]
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Self:
        """Check a tensor.

        Raises:
            StatisticsError: not floats, or NaN or infinity among them.
        """
        if values.dtype.kind not in "fV" or values.dtype.names:
            raise StatisticsError(f"holds {values.dtype}, expected floats")
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float32)
        if not values.size:
            return cls(values, np.inf, -np.inf)
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise StatisticsError(f"holds {'NaN' if np.isnan(low + high) else 'infinity'}")
        return cls(values, low, high)


class Accumulator(ABC):
    """One mergeable statistic of a tensor, without the samples themselves."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of values, rows or samples seen."""

    def update(self, values: NDArray[Any]) -> None:
        """Add one tensor of one sample.

        Raises:
            StatisticsError: not floats, NaN or infinity, or a shape that does not fit.
        """
        self.add(Batch.of(np.asarray(values)))

    @abstractmethod
    def add(self, batch: Batch) -> None:
        """Add one checked tensor."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add the statistics of another one. The order of merging does not matter; ranges are equal to the bit."""

    @abstractmethod
    def state(self) -> ObserverState:
        """All of it, as arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: ObserverState) -> Self:
        """The inverse of ``state``."""


A = TypeVar("A", bound=Accumulator)


class Observer(ABC, Generic[A]):
    """A calibration method over an accumulator, its own or a shared one.

    Args:
        accumulated: the accumulator to read; None: a new one.
    """

    name: ClassVar[str]
    accumulator: ClassVar[type[Any]]

    def __init__(self, accumulated: A | None = None) -> None:
        self.accumulated: A = self.accumulator() if accumulated is None else accumulated

    @property
    def count(self) -> int:
        """Number of values, rows or samples seen."""
        return self.accumulated.count

    def update(self, values: NDArray[Any]) -> None:
        """Add one tensor of one sample.

        Raises:
            StatisticsError: not floats, NaN or infinity, or a shape that does not fit.
        """
        self.accumulated.update(values)

    def merge(self, other: Self) -> None:
        """Add the statistics of another observer, as its accumulator merges."""
        self.accumulated.merge(other.accumulated)

    def state(self) -> ObserverState:
        """All of it, as arrays."""
        return self.accumulated.state()

    @classmethod
    def from_state(cls, state: ObserverState) -> Self:
        """The inverse of ``state``."""
        return cls(cls.accumulator.from_state(state))

    def _refuse_empty(self) -> None:
        """Refuse statistics of nothing.

        Raises:
            StatisticsError: no values were seen.
        """
        if not self.count:
            raise StatisticsError(f"{self.name}: no values were observed")


class RangeObserver(Observer[A]):
    """A method that chooses a clipping range."""

    # Whether the range of a single tensor may leave values out.
    clips: ClassVar[bool] = True

    def range(self, grid: ActivationGrid) -> tuple[float, float]:
        """The range [low, high] to quantize; it holds 0, and is symmetric around it where the grid is.

        Raises:
            StatisticsError: no values were seen.
        """
        self._refuse_empty()
        low, high = self._range(grid)
        if grid.symmetric:
            bound = max(-low, high, 0.0)
            return -bound, bound
        return min(low, 0.0), max(high, 0.0)

    def parameters(
        self, bits: int = 8, *, symmetric: bool = False, signed: bool | None = None
    ) -> QuantizationParameters:
        """The scale and the zero point of the range.

        Args:
            bits: bits of a code, 2 to 16.
            symmetric: put the zero point in the middle of the codes.
            signed: codes around zero, not from zero on; None: where they are symmetric.

        Raises:
            StatisticsError: no values were seen, or other bits.
        """
        codes = Codes(bits, symmetric if signed is None else signed, symmetric)
        low, high = self.range(ActivationGrid(bits, symmetric))
        return QuantizationParameters.of(low, high, codes)

    @abstractmethod
    def _range(self, grid: ActivationGrid) -> tuple[float, float]:
        """The range before it is widened to hold 0."""


def scalar(value: float) -> NDArray[np.float64]:
    """A number as an array, for a state."""
    return np.array(value, np.float64)
