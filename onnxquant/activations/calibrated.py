"""A calibrated model: a float model with the statistics of its activations, and the ranges that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxquant.activations.placement import NO_SAMPLE, FloatKernel, Placement, QuantizedTensor
from onnxquant.activations.settings import StaticSettings
from onnxquant.calibration.statistics import Statistics
from onnxquant.errors import RecipeError, StatisticsError
from onnxquant.graph.identity import digest
from onnxquant.graph.io import Document
from onnxquant.observers import ActivationGrid
from onnxquant.observers.absmean import AbsMean
from onnxquant.observers.gram import ChannelMoments, Gram
from onnxquant.observers.histogram import Histogram, HistogramSummary
from onnxquant.recipe.progress import Progress, silent

# Observers that balancing, smoothing and a change of basis need; channels of a convolution are on axis 1.
WIDTHS, MAGNITUDES, MOMENTS = "absmean:1", "absmean", "gram:1"


@dataclass(frozen=True)
class CalibratedModel:
    """A float model with the statistics of its activations, its channels balanced.

    Attributes:
        original: the model before its channels were balanced.
        document: the model.
        placement: nodes and tensors that are integers.
        statistics: statistics of the original's tensors.
        balanced: bound of all channels, by tensor with balanced channels.
    """

    original: Document
    document: Document
    placement: Placement
    statistics: Statistics
    balanced: Mapping[str, float]
    _chosen: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict, repr=False, compare=False)

    def ranges(
        self, placement: Placement, method: str, settings: StaticSettings, progress: Progress = silent
    ) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of each source.

        Args:
            placement: a placement in this model; perhaps with more kernels in float.
            method: calibration method.
            settings: type of the codes, and the method's parameters; the same ones in each call.
            progress: display of the part that is done.

        Raises:
            StatisticsError: the statistics do not serve the method.
        """
        ranges: dict[str, tuple[float, float]] = {}
        for tensor in placement.tensors.values():
            source = tensor.source
            if source in self.balanced:
                ranges[source] = _clamped(-self.balanced[source], self.balanced[source], tensor)
            elif source not in ranges:
                progress("choosing ranges", len(ranges) / len(placement.tensors))
                ranges[source] = _clamped(*self._range(source, method, settings), tensor)
        return ranges

    def _range(self, source: str, method: str, settings: StaticSettings) -> tuple[float, float]:
        """The range that a method chooses for a tensor. It is chosen once: candidates share it."""
        if (source, method) not in self._chosen:
            grid = ActivationGrid(settings.codes.bits, settings.codes.symmetric)
            parameters = settings.parameters.get(method, {})
            try:
                self._chosen[source, method] = self.statistics.range(source, method, grid, **parameters)
            except StatisticsError as error:
                again = f"calibrate again with this version and method {method}"
                raise StatisticsError(f"{error}; {again}") from None
        return self._chosen[source, method]

    def magnitudes(self) -> dict[str, NDArray[np.float64]]:
        """Largest magnitude of each channel of the inputs of products, where they were collected."""
        return largest_magnitudes(self.statistics, MAGNITUDES)

    def moments(self) -> dict[str, ChannelMoments]:
        """Mean and covariance of the channels of linear streams, where they were collected."""
        return {
            name: gram.channel_moments
            for name, observers in self.statistics.observers.items()
            if isinstance(gram := observers.get(MOMENTS), Gram) and gram.count
        }

    def histograms(self) -> dict[str, HistogramSummary]:
        """Histograms of the quantized tensors, where one was collected; not of those whose channels were balanced."""
        summaries = {}
        for name, tensor in self.placement.tensors.items():
            if tensor.source in self.balanced or name not in self.statistics.observers:
                continue
            for accumulator in self.statistics.accumulators(name).values():
                if isinstance(accumulator, Histogram) and accumulator.count:
                    summaries[name] = accumulator.summary()
        return summaries


def largest_magnitudes(statistics: Statistics, observer: str) -> dict[str, NDArray[np.float64]]:
    """Largest magnitude of each channel of the tensors that an observer of magnitudes has seen values of."""
    return {
        name: magnitudes.absmax
        for name, observers in statistics.observers.items()
        if isinstance(magnitudes := observers.get(observer), AbsMean) and magnitudes.count
    }


def unreached_kernels(placement: Placement, statistics: Statistics) -> dict[str, FloatKernel]:
    """Kernels with a quantized tensor of which no sample has values, by their first output."""
    unreached = {name for name, tensor in placement.tensors.items() if not statistics.has_range(tensor.source)}
    return {
        unit.node.output[0]: NO_SAMPLE
        for unit in placement.kernels
        if not unreached.isdisjoint([*unit.node.input, *unit.outputs])
    }


def saved_statistics(path: str | None, original: Document) -> Statistics | None:
    """Statistics from a file; None: they are to be collected.

    Raises:
        StatisticsError: statistics of another model.
        RecipeError: statistics of synthetic samples.
    """
    if path is None:
        return None
    statistics = Statistics.load(path)
    statistics.check(digest(original), original.name)
    if statistics.synthetic:
        raise RecipeError(f"{path}: holds statistics of synthetic samples; expected real ones")
    return statistics


def _clamped(low: float, high: float, tensor: QuantizedTensor) -> tuple[float, float]:
    """A range within the bounds of a tensor's clamps."""
    low, high = max(low, tensor.bounds[0]), min(high, tensor.bounds[1])
    return (low, high) if low <= high else (0.0, 0.0)
