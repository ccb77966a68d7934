"""mse: the range with the smallest expected squared error of the values, clipping and rounding together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.observers.base import Grid, RangeObserver
from onnxquant.calibration.observers.histogram import Histogram, Masses

Floats = NDArray[np.float64]
# Candidates as powers of two of the whole range: down to 2^-10 first, then ever closer around the best.
_COARSE = np.linspace(-10, 0, 41)
_FINE = np.linspace(-1, 1, 17)
_SPREADS = (0.25, 0.06, 0.015)
# More bins than these tell nothing that a step of 8 bits would notice.
_MOST_BINS = 2048


class Mse(RangeObserver[Histogram]):
    """The range that minimizes the expected squared error, as far as the histogram knows it."""

    name = "mse"
    accumulator = Histogram

    @property
    def count(self) -> int:
        """Values seen."""
        return self.accumulated.count

    def _range(self, grid: Grid) -> tuple[float, float]:
        seen = self.accumulated.folded() if grid.symmetric else self.accumulated.copy()
        while np.count_nonzero(seen.counts) > _MOST_BINS:
            seen.grow(seen.exponent + 1)
        masses = seen.masses()
        low, high = (0.0 if grid.symmetric else min(seen.low, 0.0)), max(seen.high, 0.0)
        if not masses.mass.size:
            return low, high
        sides = np.array([low, high])

        def search(powers: Floats, moved: Floats) -> None:
            """Move the sides that ``moved`` marks to the best of 2^powers times where they are."""
            nonlocal sides
            candidates = sides * np.where(moved, 2.0 ** powers[:, None], 1.0)
            candidates = np.clip(candidates, low, high)
            sides = candidates[int(np.argmin(expected_errors(masses, candidates, grid)))]

        both, lower, upper = np.array([1, 1]), np.array([1, 0]), np.array([0, 1])
        search(_COARSE, both)
        one_sided = grid.symmetric or low == 0 or high == 0
        for spread in _SPREADS:
            search(spread * _FINE, both)
            if not one_sided:
                for side in (lower, upper, lower, upper):
                    search(4 * spread * _FINE, side)
        return (-float(sides[1]) if grid.symmetric else float(sides[0])), float(sides[1])


def expected_errors(masses: Masses, sides: Floats, grid: Grid) -> Floats:
    """Expected squared error of all values for each candidate range [low, high] (times their number).

    Within a bin, values are taken as evenly spread. With u = x / step and k the nearest code, the integral of the squared
    error from 0 to u is k / 12 + (u - k)^3 / 3, also beyond the last code: a bin takes the difference of two of these.

    Args:
        masses: the histogram's bins.
        sides: [candidates, 2]; of a symmetric grid only the upper bound counts.
        grid: the codes.
    """
    low, high = sides[:, :1], sides[:, 1:]
    if grid.symmetric:
        step, least = high / (grid.steps // 2), np.full_like(high, -(grid.steps // 2))
    else:
        step = (high - low) / grid.steps
        least = -np.round(-low / step)
    left, right, count = masses

    def integral(x: Floats) -> Floats:
        u = x / step
        k = np.clip(np.round(u), least, least + grid.steps)
        result: Floats = k / 12 + (u - k) ** 3 / 3
        return result

    spread = right - left
    flat = spread == 0
    per_bin = (integral(right) - integral(left)) * step**3 / np.where(flat, 1.0, spread)
    if flat.any():
        at = left[flat]
        code = np.clip(np.round(at / step), least, least + grid.steps)
        per_bin[:, flat] = (at - code * step) ** 2
    errors: Floats = per_bin @ count
    return errors
