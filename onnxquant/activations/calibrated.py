"""A calibrated model: a float model with the statistics of its activations, and the ranges that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnxquant.activations.balance import Balance
from onnxquant.activations.placement import NO_SAMPLE, Cause, FloatKernel, Placement, QuantizedTensor
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
        balance: the channels that were balanced.
        folds: model of each fold of the samples, which the other folds make.
    """

    original: Document
    document: Document
    placement: Placement
    statistics: Statistics
    balance: Balance = field(default_factory=Balance)
    folds: tuple[CalibratedModel, ...] = ()
    _chosen: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def balanced(self) -> Mapping[str, float]:
        """Bound of all channels, by tensor with balanced channels."""
        return self.balance.bounds

    def with_ranges_of(self, fold: int) -> CalibratedModel:
        """This model, with the ranges that the samples of the other folds show."""
        return replace(self, statistics=self.folds[fold].statistics, folds=(), _chosen={})

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


def statistics_of_others(folds: Sequence[Statistics], whole: Statistics) -> list[Statistics]:
    """For each fold the statistics of the others.

    Args:
        folds: statistics of each fold.
        whole: statistics of all, for tensors that the others have no values of.
    """
    if len(folds) < 2:
        return []
    others = [[part for other, part in enumerate(folds) if other != fold] for fold in range(len(folds))]
    return [completed(Statistics.merge_all(parts), whole) for parts in others]


def completed(statistics: Statistics, whole: Statistics) -> Statistics:
    """Statistics of some samples, with those of all for tensors that they have no values of."""
    observers = {
        name: own if statistics.has_range(name) or name not in whole.observers else whole.observers[name]
        for name, own in statistics.observers.items()
    }
    return replace(statistics, observers=observers)


def largest_magnitudes(statistics: Statistics, observer: str) -> dict[str, NDArray[np.float64]]:
    """Largest magnitude of each channel of the tensors that an observer of magnitudes has seen values of."""
    return {
        name: magnitudes.absmax
        for name, observers in statistics.observers.items()
        if isinstance(magnitudes := observers.get(observer), AbsMean) and magnitudes.count
    }


def units_without_range(placement: Placement, statistics: Statistics) -> dict[str, FloatKernel]:
    """Units with a quantized tensor whose range the statistics do not tell, by their first output."""
    unknown = {name for name, tensor in placement.tensors.items() if not statistics.has_range(tensor.source)}
    units = {}
    for unit in placement.units:
        name = next((name for name in (*unit.node.input, *unit.outputs) if name in unknown), None)
        if name is not None:
            source = placement.tensors[name].source
            units[unit.node.output[0]] = _without_range(source, statistics.skipped.get(source, ""))
    return units


def _without_range(tensor: str, reason: str) -> FloatKernel:
    """The cause that a tensor has no range.

    Args:
        tensor: name of the tensor.
        reason: why the samples show none; empty: none of them has values there.
    """
    if not reason:
        return NO_SAMPLE
    return FloatKernel(Cause.SAMPLES, f"{tensor!r} has no range, because it {reason}")


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
