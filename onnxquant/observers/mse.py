"""mse: the range with the smallest expected squared error of the values, clipping and rounding together."""

from __future__ import annotations

import numpy as np

from onnxquant.numerics.arrays import Doubles
from onnxquant.observers.base import ActivationGrid, RangeObserver
from onnxquant.observers.histogram import Histogram, Masses

# Steps as powers of two of the step that clips nothing, and codes of zero: first over the whole range ...
_COARSE_POWERS, _COARSE_ZEROS = np.linspace(-10, 1, 23), 9
# ... then ever closer to the best: (spread of powers, part of all steps between codes of zero).
_ROUNDS = ((0.5, 32), (0.15, 128), (0.05, 256), (0.015, 1 << 16))
_POWERS, _CODES = np.linspace(-1, 1, 9), np.arange(-3, 4)
# More bins than these would change no step of 8 bits.
_MOST_BINS = 2048


class MseRange(RangeObserver[Histogram]):
    """The range that minimizes the expected squared error, estimated from the histogram.

    The search is over the step and the code of zero, as quantizing uses them: the bounds are whole steps, and may lie a
    part of a step beyond the values seen.
    """

    name = "mse"
    accumulator = Histogram

    def _range(self, grid: ActivationGrid) -> tuple[float, float]:
        histogram = self.accumulated.of_magnitudes() if grid.symmetric else self.accumulated.copy()
        while np.count_nonzero(histogram.counts) > _MOST_BINS:
            histogram.grow(histogram.exponent + 1)
        masses, steps = histogram.masses(), grid.steps
        low, high = (-histogram.high if grid.symmetric else min(histogram.low, 0.0)), max(histogram.high, 0.0)
        if low == high:
            return low, high
        step, zero = (high - low) / steps, float(round(-low / (high - low) * steps))
        free = low < 0 < high and not grid.symmetric
        zeros = np.append(np.round(np.linspace(0, steps, _COARSE_ZEROS)), zero) if free else np.array([zero])
        step, zero = _best(masses, step * 2.0**_COARSE_POWERS, zeros, steps)
        for spread, part in _ROUNDS:
            near = np.clip(zero + _CODES * max(1, steps // part), 0, steps) if free else zeros
            step, zero = _best(masses, step * 2.0 ** (spread * _POWERS), near, steps)
        if step * steps >= high - low and not free:  # nothing is clipped, and only a wider step could be better
            return low, high
        return 0.0 - zero * step, (steps - zero) * step


def _best(masses: Masses, steps: Doubles, zeros: Doubles, count: int) -> tuple[float, float]:
    """The best of all pairs of a step and a code of zero."""
    step, zero = (a.ravel() for a in np.meshgrid(steps, np.unique(zeros)))
    best = int(np.argmin(expected_errors(masses, step, zero, count)))
    return float(step[best]), float(zero[best])


def expected_errors(masses: Masses, step: Doubles, zero: Doubles, count: int) -> Doubles:
    """Expected squared error, times the number of values, of each candidate.

    Within a bin, values are taken as evenly spread. With u = x / step and k the nearest code, the integral of the squared
    error from 0 to u is k / 12 + (u - k)^3 / 3, also beyond the last code: a bin takes the difference of two of these.

    Args:
        masses: the histogram's bins.
        step: [candidates], size of a step.
        zero: [candidates], the code that stands for 0.
        count: number of steps of the grid, whose codes are 0 .. count.
    """
    step, zero = step[:, None], zero[:, None]
    left, right, mass = masses
    spread = right - left
    flat = spread == 0
    # Bins share their edges, and the integral is by far the dearest part: each edge is computed once.
    edges, position = np.unique(np.concatenate([left, right]), return_inverse=True)
    integrals = _integral(edges, step, zero, count)
    per_bin = np.take(integrals, position[left.size :], axis=1)
    per_bin -= np.take(integrals, position[: left.size], axis=1)
    per_bin *= step**3 / np.where(flat, 1.0, spread)
    if flat.any():
        at = left[flat]
        per_bin[:, flat] = (at - _code(at / step, zero, count) * step) ** 2
    errors: Doubles = per_bin @ mass
    return errors


def _code(u: Doubles, zero: Doubles, count: int) -> Doubles:
    """The codes nearest to values in steps."""
    return np.clip(np.round(u), -zero, count - zero)


def _integral(x: Doubles, step: Doubles, zero: Doubles, count: int) -> Doubles:
    """The integral of the squared error in steps from 0 to each value."""
    u = x / step
    k = _code(u, zero, count)
    u -= k
    result: Doubles = u * u
    result *= u
    result /= 3
    k /= 12
    result += k
    return result
