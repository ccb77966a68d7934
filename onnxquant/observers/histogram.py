"""A histogram that grows its range by merging pairs of bins: the accumulator of percentile, entropy and mse.

Bin k holds the values from k w to (k + 1) w, and w is a power of two; a value that lies on an edge belongs to the bin
further from zero. The width follows from the largest magnitude alone: 2^12 bins on each side of zero just cover it. So
``k >> 1`` is the bin of a value when the width doubles, and whichever way samples were counted, merged and grown, the
counts are the same. Scaling by a power of two is exact, so no rounding decides about a bin either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.numerics.arrays import Doubles
from onnxquant.observers.base import Accumulator, Batch, ObserverState, scalar

HALF_BITS = 12
HALF = 1 << HALF_BITS
"""Bins on each side of zero."""

MIN_EXPONENT = -100
"""The finest width is 2^-100: its inverse is a float32."""

_CHUNK = 1 << 15


class Masses(NamedTuple):
    """Bins that are not empty: their bounds, cut to the smallest and largest value, and their counts."""

    left: Doubles
    right: Doubles
    mass: Doubles


@dataclass(frozen=True)
class HistogramSummary:
    """A coarse histogram, for reports.

    Attributes:
        low: lower bound of the first bin.
        high: upper bound of the last bin.
        counts: number of values in each of the equal bins.
    """

    low: float
    high: float
    counts: tuple[int, ...]


def exponent_of(magnitude: float) -> int:
    """The exponent of the smallest width, a power of two, with which HALF bins cover a magnitude.

    >>> exponent_of(6.0)
    -9
    """
    return max(math.frexp(magnitude)[1] - HALF_BITS, MIN_EXPONENT) if magnitude else MIN_EXPONENT


class Histogram(Accumulator):
    """Counts of values in bins around zero; exact zeros, which every grid holds, are counted separately, too.

    Attributes:
        counts: int64 [2 HALF]; bin k is at k + HALF.
        exponent: bins are 2^exponent wide.
        zeros: values that are 0; they are in bin 0 too.
        low: smallest value.
        high: largest value.
    """

    kind = "histogram"

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(2 * HALF, np.int64)
        self.exponent = MIN_EXPONENT
        self.zeros = 0
        self.low, self.high = math.inf, -math.inf

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0**self.exponent

    def add(self, batch: Batch) -> None:
        """Add one checked tensor."""
        flat = batch.array.reshape(-1)
        if not flat.size:
            return
        self.grow(exponent_of(max(-batch.low, batch.high)))
        self.low, self.high = min(self.low, batch.low), max(self.high, batch.high)
        scale = flat.dtype.type(2.0**-self.exponent)
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            self.counts += np.bincount(_bins(chunk, scale), minlength=2 * HALF)
            self.zeros += chunk.size - int(np.count_nonzero(chunk))

    def grow(self, exponent: int) -> None:
        """Make bins at least this wide, merging pairs."""
        shift = min(exponent - self.exponent, HALF_BITS)
        if shift > 0:
            half = HALF >> shift
            negative, positive = self.counts.reshape(2, HALF)
            counts = np.zeros_like(self.counts)
            counts[HALF - half : HALF] = negative.reshape(half, -1).sum(axis=1)
            counts[HALF : HALF + half] = positive.reshape(half, -1).sum(axis=1)
            self.counts = counts
        self.exponent = max(self.exponent, exponent)

    def merge(self, other: Self) -> None:
        """Add the statistics of another one."""
        fine = other.copy()
        fine.grow(self.exponent)
        self.grow(other.exponent)
        self.counts += fine.counts
        self.zeros += other.zeros
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def copy(self) -> Self:
        """A copy that shares nothing."""
        return self.from_state({k: v.copy() for k, v in self.state().items()})

    def of_magnitudes(self) -> Self:
        """The histogram of magnitudes."""
        out = self.copy()
        negative, positive = self.counts.reshape(2, HALF)
        out.counts[HALF:] = positive + negative[::-1]
        out.counts[:HALF] = 0
        inner = max(self.low, -self.high, 0.0)
        out.low, out.high = inner, max(-self.low, self.high)
        return out

    def masses(self) -> Masses:
        """Bins that are not empty, without exact zeros."""
        counts = self.counts.copy()
        counts[HALF] -= self.zeros
        index = np.flatnonzero(counts)
        left, right = (index - HALF) * self.width, (index - HALF + 1) * self.width
        return Masses(np.maximum(left, self.low), np.minimum(right, self.high), counts[index].astype(np.float64))

    def quantile(self, share: float) -> float:
        """The value below which this share of the values lies; within a bin they are taken as evenly spread."""
        left, right, count = self.masses()
        at = int(np.searchsorted(right, 0.0, side="right")) if self.zeros else 0
        if self.zeros:  # between the bins on both sides of zero
            left, right, count = (np.insert(a, at, v) for a, v in ((left, 0.0), (right, 0.0), (count, self.zeros)))
        below = np.concatenate([[0.0], np.cumsum(count)])
        target = share * below[-1]
        i = min(int(np.searchsorted(below[1:], target)), len(count) - 1)
        return float(left[i] + (right[i] - left[i]) * min(1.0, max(0.0, (target - below[i]) / count[i])))

    def summary(self, bins: int = 48) -> HistogramSummary:
        """A coarse histogram for reports: each bin here counts where its middle lies.

        Args:
            bins: number of equal bins between the smallest and the largest value.
        """
        left, right, mass = self.masses()
        low, high = float(self.low), float(self.high)
        if not high > low:
            low, high = low - 0.5, high + 0.5
        middles = np.append((left + right) / 2, 0.0)
        counts = np.histogram(middles, bins, (low, high), weights=np.append(mass, self.zeros))[0]
        return HistogramSummary(low, high, tuple(int(c) for c in counts))

    def state(self) -> ObserverState:
        """All of it, as arrays; counts from the first to the last bin that is not empty."""
        used = np.flatnonzero(self.counts)
        start, stop = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        return {
            "counts": self.counts[start:stop],
            "start": np.array(start, np.int64),
            "exponent": np.array(self.exponent, np.int64),
            "zeros": np.array(self.zeros, np.int64),
            "low": scalar(self.low),
            "high": scalar(self.high),
        }

    @classmethod
    def from_state(cls, state: ObserverState) -> Self:
        """The inverse of ``state``."""
        out = cls()
        start = int(state["start"])
        out.counts[start : start + len(state["counts"])] = state["counts"]
        out.exponent, out.zeros = int(state["exponent"]), int(state["zeros"])
        out.low, out.high = float(state["low"]), float(state["high"])
        return out


def _bins(chunk: NDArray[Any], scale: object) -> NDArray[np.intp]:
    """Positions in ``counts``: the magnitude's whole widths k, and the bin ~k for negative values."""
    bins: NDArray[np.intp] = (np.abs(chunk) * scale).astype(np.intp)
    np.invert(bins, out=bins, where=chunk < 0)
    bins += HALF
    return bins
