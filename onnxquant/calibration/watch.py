"""A watched tensor: the outputs and nodes by which a session shows it to accumulators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.calibration.compiled import KINDS, CompiledObserver
from onnxquant.observers.base import Accumulator, Batch
from onnxquant.observers.moving_average import MovingExtremes


class Watch:
    """One watched tensor of a session.

    Args:
        name: name of the tensor.
        accumulators: accumulators that see it, by key.
        index: a number that makes the name of its node unique.
        compiled: whether observers of the library see all that they can; else numpy sees everything.
        shown: whether the tensor is an input or output of the model already.
    """

    def __init__(
        self, name: str, accumulators: Mapping[str, Accumulator], index: int, *, compiled: bool, shown: bool
    ) -> None:
        self.name = name
        self._kinds = [k for k, a in accumulators.items() if compiled and (k in KINDS or isinstance(a, MovingExtremes))]
        self.turn_to(accumulators)
        self._compiled = CompiledObserver(histogram="histogram" in self._fast) if self._kinds else None
        self._output = f"onnxquant/observe/{index}"
        self._shown = shown

    def turn_to(self, accumulators: Mapping[str, Accumulator]) -> None:
        """Let other accumulators of the same kinds see the next samples; the library's part has been moved before."""
        self._slow = [a for k, a in accumulators.items() if k not in self._kinds]
        self._averages = [a for k, a in accumulators.items() if k in self._kinds and isinstance(a, MovingExtremes)]
        self._fast = {k: a for k, a in accumulators.items() if k in self._kinds and k in KINDS}

    @property
    def is_fetched(self) -> bool:
        """Whether the tensor itself leaves the session."""
        return bool(self._slow)

    def extend(self, addition: onnx.ModelProto) -> None:
        """Add the outputs and the node that show the tensor."""
        if self._slow and not self._shown:
            addition.graph.output.add(name=self.name)
        if self._compiled is not None:
            addition.graph.node.append(self._compiled.node(self.name, self._output))
            addition.graph.output.add(name=self._output)

    def outputs(self, inputs: set[str]) -> list[str]:
        """Outputs to fetch from the session. Inputs of the model are not among them."""
        tensor = [self.name] if self._slow and self.name not in inputs else []
        return tensor + ([self._output] if self._compiled is not None else [])

    def see(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Show one sample's values to the accumulators; the library has seen its part already.

        Raises:
            StatisticsError: NaN or infinity, or a shape that does not fit.
        """
        if self._compiled is not None:
            low, high = map(float, values[self._output])
            if (low, high) != (math.inf, -math.inf):  # the extremes of no values
                Batch.of(np.array([low, high]))
                for average in self._averages:
                    average.note(low, high)
        if self._slow and self.name in values:  # an input with a default may be left out
            batch = Batch.of(np.asarray(values[self.name]))
            for accumulator in self._slow:
                accumulator.add(batch)

    def drain(self) -> None:
        """Move the statistics that the library holds to the accumulators."""
        if self._compiled is None:
            return
        for part in self._compiled.take():
            if part.kind in self._fast:
                self._fast[part.kind].merge(part)
