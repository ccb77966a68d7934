"""minmax: everything that was seen lies in the range."""

from __future__ import annotations

from onnxquant.observers.base import ActivationGrid, RangeObserver
from onnxquant.observers.moments import Moments


class MinMax(RangeObserver[Moments]):
    """The smallest and the largest value.

    >>> import numpy as np
    >>> observer = MinMax()
    >>> observer.update(np.float32([1, 5]))
    >>> observer.range(ActivationGrid())
    (0.0, 5.0)
    """

    name = "minmax"
    clips = False
    accumulator = Moments

    def _range(self, grid: ActivationGrid) -> tuple[float, float]:
        return self.accumulated.low, self.accumulated.high
