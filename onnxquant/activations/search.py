"""From a simplified float model and samples to what becomes of its activations: statistics, ranges, biases, exclusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.activations import balance as balance_
from onnxquant.activations import bias as bias_
from onnxquant.activations.codes import Codes
from onnxquant.activations.insert import Static
from onnxquant.activations.placement import Placement, Quantized, place
from onnxquant.calibration.collect import collect
from onnxquant.calibration.feeds import Chosen, Feeds
from onnxquant.calibration.statistics import Statistics
from onnxquant.errors import ModelError, StatisticsError
from onnxquant.graph.flow import Flow
from onnxquant.graph.io import Document
from onnxquant.numerics.score import Score
from onnxquant.observers import Grid
from onnxquant.observers.absmean import AbsMean
from onnxquant.observers.gram import Gram
from onnxquant.observers.histogram import Histogram
from onnxquant.passes.equivalent.rebase import Moments

Progress = Callable[[str, float], None]
# Methods that ``auto`` tries on the whole model, and keeps the best of.
CANDIDATES = ("minmax", "mse", "percentile")
# What biases are corrected on; the rest of the samples would not move a mean any more.
_BIAS_SAMPLES = 64
# What leaving one more kernel in float must gain.
_WORTH_DB = 0.1
FOR_ACCURACY = "left in float for accuracy (--auto-exclude)"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How activations are to be quantized.

    Attributes:
        codes: their type.
        method: of ``observers.ranging()``, or ``auto``.
        parameters: of methods that have some: ``{"percentile": {"percentile": 99.9}, "mean-std": {"k": 3}}``.
        balance: how much of the way to the widest channel the others are widened before depthwise convolutions; 0: none.
        correct: correct biases.
    """

    codes: Codes = field(default_factory=Codes)
    method: str = "auto"
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    balance: float = balance_.STRENGTH
    correct: bool = True

    @property
    def methods(self) -> tuple[str, ...]:
        """Those to try."""
        return CANDIDATES if self.method == "auto" else (self.method,)


@dataclass(frozen=True)
class Outcome:
    """A way to quantize activations, tried out.

    Attributes:
        document: the float model with its weights balanced and biases corrected.
        static: what becomes of the activations.
        score: what ``Tools.score`` says of it.
    """

    document: Document
    static: Static
    score: Score


@dataclass(frozen=True)
class Tools:
    """What the search needs from the layers above it.

    Attributes:
        decoded: what becomes of a weight of a document: (document, tensor name) -> array.
        score: how good a document with its static activations is on some samples.
        threads: of sessions.
        progress: told what is done.
    """

    decoded: Callable[[Document, str], NDArray[Any]]
    score: Callable[[Document, Static], Score]
    threads: int | None = None
    progress: Progress = lambda stage, done: None


class Search:
    """Tries ways to quantize the activations of one model.

    Args:
        document: prepared and simplified; edited in place where channels are balanced.
        wish: what is asked for.
        feeds: calibration samples.
        tools: of the layers above.
        excluded: kernels that stay in float, with the reason.
    """

    def __init__(self, document: Document, wish: Wish, feeds: Feeds, tools: Tools, excluded: Mapping[str, str]) -> None:
        self.document, self.wish, self.feeds, self.tools = document, wish, feeds, tools
        self.excluded = dict(excluded)
        self.placement = self._place(())
        if not self.placement.units:
            reasons = "; ".join(f"{n}: {r}" for n, r in list(self.placement.left.items())[:3]) or "no such op"
            raise ModelError(f"{document.name}: no op can compute on integers: {reasons}")
        self.statistics: Statistics | None = None
        self.balanced: dict[str, float] = {}
        self.magnitudes: dict[str, NDArray[np.float64]] = {}
        self.moments: dict[str, Moments] = {}
        self._corrected: dict[str, dict[str, NDArray[np.float64]]] = {}

    def _place(self, more: Sequence[str]) -> Placement:
        flow = Flow(self.document.proto.graph)
        # A zero point in the middle has no code to spare for what a Relu cuts off.
        excluded = {**self.excluded, **dict.fromkeys(more, FOR_ACCURACY)}
        return place(flow, excluded, clamps=not self.wish.codes.symmetric)

    def calibrate(
        self, statistics: Statistics | None = None, *, smoothing: bool = False, correlated: Sequence[str] = ()
    ) -> None:
        """Collect statistics, or take those that are there, and balance channels.

        Args:
            statistics: those that are there.
            smoothing: collect ``magnitudes`` too.
            correlated: tensors whose channels' ``moments`` to collect too.
        """
        wanted: dict[str, list[str]] = {name: list(self.wish.methods) for name in self.placement.tensors}
        if statistics is None:
            if smoothing:
                for unit in self.placement.kernels:
                    if unit.node.op_type in ("Gemm", "MatMul"):
                        wanted[unit.node.input[0]] = list(dict.fromkeys([*wanted[unit.node.input[0]], "absmean"]))
            if self.wish.balance:
                for name in balance_.candidates(Flow(self.document.proto.graph), self.placement):
                    wanted[name].append("absmean:1")
            for name in correlated:
                wanted.setdefault(name, []).append("gram:1")
            statistics = collect(
                self.document, self.feeds, wanted, threads=self.tools.threads, progress=self.tools.progress
            )
        self.statistics = statistics
        self.magnitudes = largest(statistics, "absmean")
        self.moments = moments(statistics)
        if self.wish.balance:
            widths = largest(statistics, "absmean:1")
            self.balanced = balance_.balance(self.document, self.placement, widths, self.wish.balance)
            self.placement = self._place(())

    def run(self) -> Outcome:
        """The best outcome of the methods."""
        assert self.statistics
        outcomes = [self.once(method) for method in self.wish.methods]
        best = max(outcomes, key=lambda o: o.score.judged)
        scores = {o.static.method: round(o.score.judged, 2) for o in outcomes}
        return replace(best, static=replace(best.static, about={**best.static.about, "tried": scores}))

    def with_tools(self, tools: Tools) -> Search:
        """The same search, calibrated and balanced, where other things become of the weights."""
        other = copy(self)
        other.tools, other._corrected = tools, {}
        return other

    def once(self, method: str) -> Outcome:
        """The outcome of one method."""
        return self._try(self.placement, method)

    def _try(self, placement: Placement, method: str) -> Outcome:
        ranges = self._ranges(placement, method)
        document = self.document.copy()
        outputs = {u.node.output[0] for u in placement.kernels}
        changes = {n: c for n, c in self._corrections(method).items() if n in outputs}
        bias_.correct(document, changes)
        about = {
            "integer_kernels": len(placement.kernels),
            "left_in_float": placement.left,
            "balanced": len(self.balanced),
            "biases_corrected": len(changes),
        }
        static = Static(
            self.wish.codes, tuple(placement.tensors.values()), ranges, method, tuple(placement.split), about
        )
        return Outcome(document, static, self.tools.score(document, static))

    def _corrections(self, method: str) -> dict[str, NDArray[np.float64]]:
        """Of every kernel's bias, with the ranges of a method."""
        if self.wish.correct and method not in self._corrected:
            self._corrected[method] = bias_.corrections(
                self.document,
                self.placement,
                (self.wish.codes, self._ranges(self.placement, method)),
                partial(self.tools.decoded, self.document),
                Chosen(self.feeds, range(_BIAS_SAMPLES)),
                self.tools.threads,
                self.tools.progress,
            )
        return self._corrected.get(method, {})

    def _ranges(self, placement: Placement, method: str) -> dict[str, tuple[float, float]]:
        assert self.statistics
        grid = Grid(self.wish.codes.bits, self.wish.codes.symmetric)
        found: dict[str, tuple[float, float]] = {}
        for tensor in placement.tensors.values():
            if tensor.source in self.balanced:
                found[tensor.source] = (0.0, self.balanced[tensor.source])
            elif tensor.source not in found:
                found[tensor.source] = _clamped(self._range(tensor.source, method, grid), tensor)
        return found

    def _range(self, source: str, method: str, grid: Grid) -> tuple[float, float]:
        assert self.statistics
        try:
            return self.statistics.range(source, method, grid, **self.wish.parameters.get(method, {}))
        except StatisticsError as error:
            raise StatisticsError(f"{error}; calibrate again with this version and method {method}") from None

    def observed(self) -> dict[str, Any]:
        """Histograms of the tensors with ranges, where one was collected; not of those whose channels were balanced."""
        found = {}
        for name, tensor in self.placement.tensors.items():
            if self.statistics is None or tensor.source in self.balanced or name not in self.statistics.observers:
                continue
            for accumulator in self.statistics.accumulators(name).values():
                if isinstance(accumulator, Histogram) and accumulator.count:
                    found[name] = accumulator.summary()
        return found

    def exclude(self, start: Outcome, enough: Callable[[Outcome], bool]) -> Outcome:
        """Leave few kernels in float, so many that the outcome is ``enough``.

        Each kernel is first left out alone; in the order of what that gains, those are kept out that gain something on
        top of the ones before; in the end those are taken back that the others made superfluous.
        """
        method, kernels = start.static.method, [u.node.output[0] for u in self.placement.kernels]
        gains: list[tuple[float, str]] = []
        for i, name in enumerate(kernels):
            gains.append((self._try(self._place([name]), method).score.judged, name))
            self.tools.progress("ranking sites", (i + 1) / len(kernels))
        best, chosen, done = start, list[str](), False
        for i, (_, name) in enumerate(sorted(gains, reverse=True)):
            tried = self._try(self._place([*chosen, name]), method)
            self.tools.progress("excluding sites", (i + 1) / len(kernels))
            if tried.score.judged >= best.score.judged + _WORTH_DB:
                best, chosen = tried, [*chosen, name]
                if done := enough(best):
                    break
        for name in list(chosen[:-1]) if done else []:
            fewer = [n for n in chosen if n != name]
            tried = self._try(self._place(fewer), method)
            if enough(tried):
                best, chosen = tried, fewer
        return best


def _clamped(found: tuple[float, float], tensor: Quantized) -> tuple[float, float]:
    low, high = max(found[0], tensor.bounds[0]), min(found[1], tensor.bounds[1])
    return (low, high) if low <= high else (0.0, 0.0)


def largest(statistics: Statistics, observer: str) -> dict[str, NDArray[np.float64]]:
    """Largest magnitude per channel of the tensors that an observer saw."""
    return {
        name: magnitudes.absmax
        for name, observers in statistics.observers.items()
        if isinstance(magnitudes := observers.get(observer), AbsMean)
    }


def moments(statistics: Statistics) -> dict[str, Moments]:
    """Mean and covariance of the channels of the tensors that were observed for them."""
    return {
        name: Moments(gram.mean, gram.covariance)
        for name, observers in statistics.observers.items()
        if isinstance(gram := observers.get("gram:1"), Gram) and gram.rows
    }
