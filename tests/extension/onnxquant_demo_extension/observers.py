"""Observer ``demo-observer``: nine tenths of the range that was seen."""

from __future__ import annotations

from onnxquant.observers.base import ActivationGrid
from onnxquant.observers.minmax import MinMax


class DemoObserver(MinMax):
    """The smallest and the largest value, times 0.9."""

    name = "demo-observer"

    def _range(self, grid: ActivationGrid) -> tuple[float, float]:
        return 0.9 * self.accumulated.low, 0.9 * self.accumulated.high
