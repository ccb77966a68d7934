"""mean-std: the mean and k standard deviations to each side, no further than the values reach."""

from __future__ import annotations

import math

from onnxquant.errors import StatisticsError
from onnxquant.observers.base import ActivationGrid, RangeObserver
from onnxquant.observers.moments import Moments


class MeanStd(RangeObserver[Moments]):
    """Mean +- k standard deviations, within the smallest and the largest value.

    Args:
        accumulated: the accumulator to read; None: a new one.
        k: number of standard deviations; None: ``best_k`` of the grid, 3.92 for 8 bits. With a smaller one, clipping costs
            more than the finer steps save, even for a normal distribution.

    Raises:
        StatisticsError: k is not positive.
    """

    name = "mean-std"
    accumulator = Moments

    def __init__(self, accumulated: Moments | None = None, *, k: float | None = None) -> None:
        super().__init__(accumulated)
        if k is not None and not (k > 0 and math.isfinite(k)):
            raise StatisticsError(f"mean-std: k is {k}, expected a positive number")
        self.k = k

    def _range(self, grid: ActivationGrid) -> tuple[float, float]:
        moments = self.accumulated
        reach = (best_k(grid.bits) if self.k is None else self.k) * moments.std
        return max(moments.low, moments.mean - reach), min(moments.high, moments.mean + reach)


def best_k(bits: int) -> float:
    """The number of standard deviations with the smallest error for a normal distribution.

    The expected squared error of 2^bits steps over +-k is 2 ((1 + k^2) Q(k) - k phi(k)) + k^2 / (3 * 4^bits), with
    phi the normal density and Q its upper tail (Banner et al., "Post training 4-bit quantization of convolutional
    networks for rapid-deployment", 2019, section 3); this is the root of its derivative.

    >>> round(best_k(8), 2), round(best_k(4), 2)
    (3.92, 2.56)
    """

    def slope(k: float) -> float:
        density = math.exp(-k * k / 2) / math.sqrt(2 * math.pi)
        return k * math.erfc(k / math.sqrt(2)) / 2 - density + k / (6 * 4.0**bits)

    low, high = 0.0, 16.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return low
