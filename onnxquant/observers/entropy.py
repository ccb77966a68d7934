"""entropy: the range whose quantized distribution diverges least from the original one.

TensorRT's calibration: Szymon Migacz, "8-bit Inference with TensorRT", GTC 2017 (S7310), "Entropy Calibration -
pseudocode". For each number i of bins: P is the first i bins of the histogram of magnitudes, its last bin with
everything beyond added; Q is the same bins, without what lies beyond, averaged in 128 groups over the bins that are not
empty; the i with the smallest divergence KL(P || Q) wins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxquant.numerics.arrays import Doubles
from onnxquant.observers.base import ActivationGrid, RangeObserver
from onnxquant.observers.histogram import HALF, HALF_BITS, Histogram

_BITS = 11  # TensorRT's histograms have 2048 bins
Ints = NDArray[np.int64]


class Entropy(RangeObserver[Histogram]):
    """The range with the smallest Kullback-Leibler divergence.

    Differences to the slides: exact zeros, which every grid holds, are left out (of a ReLU's output they would be
    most of P); a candidate whose outermost bin is empty while values lie beyond has an infinite divergence; and grids
    with a zero point are searched as ranges [-t, t], cut to the values seen, with 2^bits groups.
    """

    name = "entropy"
    accumulator = Histogram

    def _range(self, grid: ActivationGrid) -> tuple[float, float]:
        histogram = self.accumulated.of_magnitudes() if grid.symmetric else self.accumulated.copy()
        histogram.grow(histogram.exponent + HALF_BITS - _BITS)
        counts = histogram.counts.astype(np.float64)
        counts[HALF] -= histogram.zeros
        used = np.flatnonzero(counts)
        if not used.size:
            return 0.0, 0.0
        first, last = min(int(used[0]), HALF), max(int(used[-1]) + 1, HALF)
        groups = 2 ** (grid.bits - 1 if grid.symmetric else grid.bits)
        reach = np.arange(1, max(HALF - first, last - HALF) + 1)
        starts, ends = np.maximum(HALF - reach, first), np.minimum(HALF + reach, last)
        enough = ends - starts >= groups
        if not enough.any():
            return histogram.low, histogram.high
        starts, ends = starts[enough], ends[enough]
        best = int(np.argmin(divergences(counts, starts, ends, groups)))
        low, high = (starts[best] - HALF) * histogram.width, (ends[best] - HALF) * histogram.width
        return max(float(low), histogram.low), min(float(high), histogram.high)


def divergences(counts: Doubles, starts: Ints, ends: Ints, groups: int) -> Doubles:
    """KL(P || Q) for each candidate of bins starts[i] .. ends[i] - 1; infinite where Q is 0 and P is not.

    Q is constant over the bins of a group that are not empty, so with P log P, P and the number of such bins summed up
    once, a candidate takes one term per group instead of one per bin.
    """
    mass, filled, own = (np.concatenate([[0.0], np.cumsum(a)]) for a in (counts, counts > 0, _xlogx(counts)))
    edges = starts[:, None] + np.arange(groups + 1) * (ends - starts)[:, None] // groups
    q_sum, bins = np.diff(mass[edges]), np.diff(filled[edges])
    below, above = mass[starts], mass[-1] - mass[ends]
    p_sum = q_sum.copy()
    p_sum[:, 0] += below
    p_sum[:, -1] += above
    # The outermost bins of P with what lies beyond them.
    first, last = counts[starts], counts[ends - 1]
    p_log_p = own[ends] - own[starts] + _xlogx(first + below) - _xlogx(first) + _xlogx(last + above) - _xlogx(last)
    p_log_q = (p_sum * np.log(np.divide(q_sum, bins, out=np.ones_like(q_sum), where=q_sum > 0))).sum(axis=1)
    inside = mass[ends] - mass[starts]
    missing = (inside == 0) | ((first == 0) & (below > 0)) | ((last == 0) & (above > 0))
    total = mass[-1]
    divergence = (p_log_p - p_log_q) / total + np.log(np.maximum(inside, 1) / total)
    return np.where(missing, np.inf, divergence)


def _xlogx(x: Doubles) -> Doubles:
    return x * np.log(np.where(x > 0, x, 1))
