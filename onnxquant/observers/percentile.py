"""percentile: a small share of the values, the furthest ones, is clipped."""

from __future__ import annotations

from onnxquant.errors import StatisticsError
from onnxquant.observers.base import ActivationGrid, RangeObserver
from onnxquant.observers.histogram import Histogram


class Percentile(RangeObserver[Histogram]):
    """The range that holds a percentage of the values.

    For a symmetric grid it is the percentile of magnitudes; else half of the clipped values lie at each end.

    Args:
        accumulated: the accumulator to read; None: a new one.
        percentile: share of the values that lie in the range, in percent.

    Raises:
        StatisticsError: the percentage is not above 0 and at most 100.
    """

    name = "percentile"
    accumulator = Histogram

    def __init__(self, accumulated: Histogram | None = None, *, percentile: float = 99.999) -> None:
        super().__init__(accumulated)
        if not 0 < percentile <= 100:
            raise StatisticsError(f"percentile is {percentile}, expected a number above 0 and at most 100")
        self.percentile = percentile

    def _range(self, grid: ActivationGrid) -> tuple[float, float]:
        share = self.percentile / 100
        if grid.symmetric:
            bound = self.accumulated.of_magnitudes().quantile(share)
            return -bound, bound
        clipped = (1 - share) / 2
        return self.accumulated.quantile(clipped), self.accumulated.quantile(1 - clipped)
