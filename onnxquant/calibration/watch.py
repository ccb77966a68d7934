"""How a session shows one tensor to its accumulators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.calibration.compiled import KINDS, Compiled
from onnxquant.observers.base import Accumulator, Batch
from onnxquant.observers.moving_average import MovingExtremes


class Watch:
    """One tensor of a session.

    Args:
        name: of the tensor.
        accumulators: what sees it, by key.
        index: makes the name of its node unique.
        compiled: the library's observers see what they can; without, everything is seen in numpy.
        shown: the tensor is an input or output of the model already.
    """

    def __init__(
        self, name: str, accumulators: Mapping[str, Accumulator], index: int, *, compiled: bool, shown: bool
    ) -> None:
        self.name = name
        fast = {k: a for k, a in accumulators.items() if compiled and (k in KINDS or isinstance(a, MovingExtremes))}
        self._slow = [a for k, a in accumulators.items() if k not in fast]
        self._averages = [a for a in fast.values() if isinstance(a, MovingExtremes)]
        self._fast = {k: a for k, a in fast.items() if k in KINDS}
        self._compiled = Compiled(histogram="histogram" in fast) if fast else None
        self._output = f"onnxquant/observe/{index}"
        self._shown = shown

    @property
    def is_fetched(self) -> bool:
        """Whether the tensor itself leaves the session."""
        return bool(self._slow)

    def extend(self, addition: onnx.ModelProto) -> None:
        """Add outputs, and a node."""
        if self._slow and not self._shown:
            addition.graph.output.add(name=self.name)
        if self._compiled is not None:
            addition.graph.node.append(self._compiled.node(self.name, self._output))
            addition.graph.output.add(name=self._output)

    def outputs(self, inputs: set[str]) -> list[str]:
        """Outputs to ask the session for."""
        tensor = [self.name] if self._slow and self.name not in inputs else []
        return tensor + ([self._output] if self._compiled is not None else [])

    def see(self, values: Mapping[str, NDArray[Any]]) -> None:
        """See one sample's values; the library has seen its part already.

        Raises:
            StatisticsError: NaN or infinity, or a shape that does not fit.
        """
        if self._compiled is not None:
            low, high = map(float, values[self._output])
            if (low, high) != (math.inf, -math.inf):  # what no values have
                Batch.of(np.array([low, high]))
                for average in self._averages:
                    average.note(low, high)
        if self._slow and self.name in values:  # an input with a default may be left out
            batch = Batch.of(np.asarray(values[self.name]))
            for one in self._slow:
                one.add(batch)

    def drain(self) -> None:
        """Take over what the library has seen."""
        if self._compiled is None:
            return
        for one in self._compiled.take():
            if one.kind in self._fast:
                self._fast[one.kind].merge(one)
