"""Sums of floats without rounding: additions in any order give the same result to the last bit."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import StatisticsError

# Every float64 is a whole number of these units of 2^-1074.
_UNIT_EXPONENT = 1074


class ExactSum:
    """A sum of float64 numbers, held as one integer.

    >>> total = ExactSum()
    >>> for value in (1e16, 1.0, -1e16):
    ...     total.add(value)
    >>> total.mean(1)
    1.0
    """

    def __init__(self, units: int = 0) -> None:
        self.units = units

    def add(self, value: float, times: int = 1) -> None:
        """Add a number a number of times.

        Raises:
            StatisticsError: it is not finite.
        """
        if not math.isfinite(value):
            raise StatisticsError("a sum of values overflows float64")
        mantissa, exponent = math.frexp(value)
        # 53 bits of mantissa are a whole number; no float64 has bits below 2^-1074, so none is shifted out.
        whole, shift = int(mantissa * 2.0**53), exponent - 53 + _UNIT_EXPONENT
        self.units += times * (whole << shift if shift >= 0 else whole >> -shift)

    def merge(self, other: ExactSum) -> None:
        """Add another sum."""
        self.units += other.units

    def mean(self, count: int) -> float:
        """The sum over a count, rounded once."""
        return self.units / (count << _UNIT_EXPONENT)

    def state(self) -> NDArray[np.uint8]:
        """The integer's bytes."""
        length = self.units.bit_length() // 8 + 1
        return np.frombuffer(self.units.to_bytes(length, "little", signed=True), np.uint8)

    @classmethod
    def from_state(cls, state: NDArray[np.uint8]) -> Self:
        """The inverse of ``state``."""
        return cls(int.from_bytes(state.tobytes(), "little", signed=True))


def variance(total: ExactSum, squares: ExactSum, count: int) -> float:
    """Mean of squares minus square of the mean, rounded once: no cancellation."""
    numerator = (count * squares.units << _UNIT_EXPONENT) - total.units**2
    return max(0, numerator) / (count**2 << 2 * _UNIT_EXPONENT)
