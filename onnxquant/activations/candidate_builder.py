"""The way from a float model to a candidate: placement, statistics, ranges, corrected biases, and a score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxquant.activations import balance, bias
from onnxquant.activations.bias import Corrections
from onnxquant.activations.bias_room import with_room_for_biases
from onnxquant.activations.calibrated import (
    WIDTHS,
    CalibratedModel,
    completed,
    largest_magnitudes,
    statistics_of_others,
    units_without_range,
)
from onnxquant.activations.candidate import Candidate
from onnxquant.activations.candidates import CandidateRunner
from onnxquant.activations.equal_functions import EqualFunction
from onnxquant.activations.fused import GraphRemedies
from onnxquant.activations.insert import NodeForms
from onnxquant.activations.pair_room import with_room_for_pairs
from onnxquant.activations.placement import FloatKernel, Placement, place
from onnxquant.activations.plan import ActivationPlan, StaticActivations
from onnxquant.activations.settings import StaticSettings
from onnxquant.activations.slow_on_clients import measured, slow_on_clients
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.activations.weights import excluded_kernels, static_sites
from onnxquant.calibration.collect import collect, collect_folds
from onnxquant.calibration.feeds import spread
from onnxquant.calibration.folds import FoldedSamples, undivided
from onnxquant.calibration.shapes import shapes_of
from onnxquant.calibration.statistics import Statistics
from onnxquant.errors import ModelError
from onnxquant.formats.base import Encoded
from onnxquant.graph.analysis.quantized import ALREADY_QUANTIZED, integer_weights
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.traverse import graphs
from onnxquant.numerics.arrays import Doubles
from onnxquant.numerics.score import Score, UnseenOutputs
from onnxquant.recipe.rules import Recipe
from onnxquant.targets import Activations
from onnxquant.validation.saturation import LargestPairs

# Biases are corrected on this many samples; more would hardly move their mean errors.
_BIAS_SAMPLES = 64
# Observers to add, each with the tensor that it sees.
Additions = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class _Weights:
    """Codes of weights that are chosen already.

    Attributes:
        encoded: weights by name.
        sums: weights with larger scales, where sums of two products do not fit; see ``with_room_for_pairs``.
    """

    encoded: Mapping[str, Encoded] = field(default_factory=dict)
    sums: Mapping[str, Doubles] = field(default_factory=dict)


class CandidateBuilder:
    """Builds candidates of one model. Once a kernel is known to be no good on integers, no later candidate has it there.

    Args:
        runner: runner of the candidates.
        rules: the rules of the recipe.
        settings: type of the codes, and whether channels are balanced and biases corrected.
        samples: samples to calibrate on.
        budget: time budget, which shows the progress.

    Attributes:
        remedies: remedies for kernels that are no good on integers.
    """

    def __init__(
        self,
        runner: CandidateRunner,
        rules: Recipe,
        settings: StaticSettings,
        samples: FoldedSamples,
        budget: TimeBudget,
    ) -> None:
        self._runner, self._rules, self._settings = runner, rules, settings
        self._samples, self._budget = samples, budget
        self._slow = self._slow_on_clients()
        self._excluded = {**excluded_kernels(runner.document, rules), **self._slow}
        self.remedies = GraphRemedies()

    def _slow_on_clients(self) -> dict[str, FloatKernel]:
        """Kernels that are slower on integers on a client that the file is for."""
        document, clients = self._runner.document, self._rules.clients
        if not measured(clients):
            return {}
        shapes = shapes_of(document, {}, self._runner.samples[0], self._settings.threads)
        return slow_on_clients(document, clients, Activations.STATIC, shapes)

    def calibrated(
        self,
        function: EqualFunction,
        methods: Sequence[str],
        statistics: Statistics | None = None,
        more: Callable[[Placement], Additions] = lambda placement: (),
    ) -> CalibratedModel:
        """Collect statistics of a function, and balance its channels.

        Args:
            function: the function.
            methods: calibration methods that the statistics must serve.
            statistics: statistics of the model; None: collect them.
            more: further observers, once the placement is known.

        Raises:
            ModelError: nothing can compute on integers.
        """
        original, strength = function.document, function.balance or 0.0
        document = original.copy()
        placement = self._placed(document)
        folds: list[Statistics] = []
        if statistics is None:
            observers: dict[str, list[str]] = {name: list(methods) for name in placement.tensors}
            widths = balance.candidates(GraphEditor(document.proto.graph), placement) if strength else []
            for name, observer in (*more(placement), *((name, WIDTHS) for name in widths)):
                observers.setdefault(name, []).append(observer)
            threads, progress = self._settings.threads, self._budget.progress
            with self._budget.first_pass():
                folds = collect_folds(document, self._samples, observers, threads=threads, progress=progress)
            statistics = Statistics.merge_all(folds)
        while unknown := units_without_range(placement, statistics):
            self.remedies.in_float.update(unknown)  # from now on, in every function that is tried
            placement = self._placed(document)
        model = self._balanced(CalibratedModel(original, document, placement, statistics), strength)
        if function.folds:
            refit = (self._refitted(model, function, fold) for fold in range(len(function.folds)))
        else:
            refit = (self._of_fold(model, s, strength) for s in statistics_of_others(folds, statistics))
        return replace(model, folds=tuple(refit))

    def _refitted(self, model: CalibratedModel, function: EqualFunction, fold: int) -> CalibratedModel:
        """The model that the other folds make of a function which they have made, too."""
        original, threads, progress = function.folds[fold], self._settings.threads, self._budget.progress
        observers = {name: list(own) for name, own in model.statistics.observers.items()}
        statistics = collect(original, self._samples.others(fold), observers, threads=threads, progress=progress)
        document = original.copy()
        calibrated = CalibratedModel(original, document, self._place(document), completed(statistics, model.statistics))
        return self._balanced(calibrated, function.balance or 0.0)

    def _balanced(self, model: CalibratedModel, strength: float) -> CalibratedModel:
        """A model whose channels are balanced, in place."""
        if not strength:
            return model
        widths = largest_magnitudes(model.statistics, WIDTHS)
        channels = balance.balance(model.document, model.placement, widths, strength)
        return replace(model, balance=channels, placement=self._place(model.document))

    def _of_fold(self, model: CalibratedModel, statistics: Statistics, strength: float) -> CalibratedModel:
        """The model that the statistics of the other folds make."""
        if not model.balanced:
            return CalibratedModel(model.original, model.document, model.placement, statistics)
        document = model.original.copy()
        return self._balanced(CalibratedModel(model.original, document, self._place(document), statistics), strength)

    def candidate(self, model: CalibratedModel, method: str) -> Candidate:
        """A candidate with as many kernels on integers as possible, its biases corrected.

        Args:
            model: the calibrated model.
            method: calibration method of the ranges.
        """
        return self._scored(model, {}, method, self._corrections(model, method, {}), _Weights())

    def solved(self, candidate: Candidate, weights: Mapping[str, Encoded]) -> Candidate:
        """A candidate with codes of weights that a solver has chosen.

        Where samples are in folds, the last fold alone has not made the codes. The score is that of the candidate with
        weights rounded to nearest, and what the codes gain on that fold.

        Args:
            candidate: a candidate with other codes.
            weights: the solved weights.
        """
        rounded = candidate.rounded or candidate
        model, method = rounded.model, rounded.static.method
        corrections = self._corrections(model, method, weights)
        plan, static = self._planned(model, rounded.placement, method, corrections.whole, weights)
        if not model.folds:
            score = self._runner.score(plan, self._budget.progress)
            return replace(candidate, plan=plan, static=static, score=score, corrections=corrections)
        fold = len(model.folds) - 1
        judged = model.with_ranges_of(fold) if model.folds[fold].original is model.original else model
        before = rounded.corrections.whole, rounded.plan.solved
        gain = self._runner.gain(
            self._planned(judged, rounded.placement, method, corrections.whole, weights)[0],
            self._planned(judged, rounded.placement, method, *before)[0],
            fold,
        )
        score = rounded.score.plus(gain)
        return replace(candidate, plan=plan, static=static, score=score, corrections=corrections, rounded=rounded)

    def in_float(
        self, candidate: Candidate, kernels: Mapping[str, FloatKernel], *, in_folds: bool = True
    ) -> Candidate:
        """A candidate with some of its kernels in float for accuracy, and no others.

        Args:
            candidate: the candidate.
            kernels: the kernels, by their names or first outputs.
            in_folds: whether samples are judged by what others make; else the score, by what they made themselves, only
                compares with others of its kind.
        """
        model, method, weights = candidate.model, candidate.static.method, candidate.plan.solved
        rounded = candidate.rounded
        if rounded is None or not in_folds:
            model = model if in_folds else replace(model, folds=())
            again = self._scored(model, kernels, method, candidate.corrections, _Weights(weights, candidate.sums))
            return replace(again, changes=candidate.changes, methods=candidate.methods, solver=candidate.solver)
        gain = candidate.score.typical - rounded.score.typical
        rounded = self.in_float(rounded, kernels)
        plan, static = self._planned(model, rounded.placement, method, candidate.corrections.whole, weights)
        score, placement = rounded.score.plus(gain), rounded.placement
        return replace(candidate, plan=plan, static=static, score=score, placement=placement, rounded=rounded)

    def unseen(self, candidate: Candidate) -> UnseenOutputs | None:
        """The outputs of a candidate on each fold, made from the other folds; None where samples are not in folds."""
        rounded = candidate.rounded or candidate
        if not rounded.model.folds:
            return None
        return self._runner.unseen(self._folds(rounded, rounded.kernels_for_accuracy))

    def saturating(self, candidate: Candidate) -> dict[str, LargestPairs]:
        """Weights by name whose kernels lose much on CPUs without VNNI, with their largest sums of two products."""
        return self._runner.saturating(candidate.plan, self._samples.feeds)

    def with_room_for_pairs(self, candidate: Candidate, sums: Mapping[str, Doubles]) -> Candidate:
        """A candidate with larger scales where sums of two products do not fit.

        Args:
            candidate: the candidate.
            sums: weights by name, with the largest sum in each row, as a multiple of what fits.
        """
        model, method, rounded = candidate.model, candidate.static.method, candidate.rounded or candidate
        encoded = with_room_for_pairs(model.document, sums, self._rules, rounded.plan.solved)
        corrections = self._corrections(model, method, encoded)
        again = self._scored(model, {}, method, corrections, _Weights(encoded, sums))
        roomy = replace(again, changes=candidate.changes, methods=candidate.methods, solver=candidate.solver)
        if candidate.rounded is None:
            return roomy
        return self.solved(roomy, with_room_for_pairs(model.document, sums, self._rules, candidate.plan.solved))

    def taken(self, candidate: Candidate) -> Candidate:
        """A candidate whose integer kernels ONNX Runtime takes, all of them; those in float for accuracy stay so."""
        while self._find_remedies(candidate.plan, candidate.placement):
            candidate = self.in_float(candidate, candidate.kernels_for_accuracy)
        return candidate

    def taken_model(self, model: CalibratedModel) -> CalibratedModel:
        """A calibrated model whose integer kernels ONNX Runtime takes, all of them."""
        while self._find_remedies(self._plan(model), model.placement):
            model = replace(model, placement=self._placed(model.document))
        return model

    def with_slow(self, model: CalibratedModel, slow: Sequence[str]) -> tuple[CalibratedModel, ActivationPlan]:
        """A calibrated model with some kernels in float for speed, and a plan of it.

        Args:
            model: the model.
            slow: first outputs of the kernels.
        """
        self.remedies.slow = tuple(slow)
        model = self.taken_model(replace(model, placement=self._place(model.document)))
        return model, self._plan(model)

    def _plan(self, model: CalibratedModel) -> ActivationPlan:
        """A plan that is good enough to see how ONNX Runtime runs it: the ranges are those of the first method."""
        static = self._activations(model, model.placement, self._settings.methods[0])
        return ActivationPlan(model.document, static_sites(model.document, static.float_kernels), static)

    def _find_remedies(self, plan: ActivationPlan, placement: Placement) -> bool:
        """Find remedies for the units of a plan that ONNX Runtime would leave in float; False: there are no such units."""
        if self._settings.codes.bits > 8:
            return False  # for other providers: it has no such kernels
        in_float = self._runner.units_in_float(plan, placement.units)
        self.remedies.add(GraphEditor(plan.document.proto.graph), in_float)
        return bool(in_float)

    def _place(self, document: Document, more: Mapping[str, FloatKernel] | None = None) -> Placement:
        """The placement in a model, with more kernels left in float."""
        excluded = {**self._excluded, **self.remedies.excluded, **(more or {})}
        # A zero point in the middle has no code to spare for what a Relu cuts off.
        return place(GraphEditor(document.proto.graph), excluded, clamps=not self._settings.codes.symmetric)

    def _placed(self, document: Document) -> Placement:
        """The placement in a model.

        Raises:
            ModelError: nothing can compute on integers.
        """
        placement = self._place(document)
        if not placement.units and not self.remedies.slow and not self._slow:
            if integers := integer_weights(document.proto):
                raise ModelError(f"{document.name}: {ALREADY_QUANTIZED.format(integers)}")
            reasons = "; ".join(f"{n}: {k.reason}" for n, k in list(placement.float_kernels.items())[:3])
            raise ModelError(f"{document.name}: no op can compute on integers: {reasons or _no_such_op(document)}")
        return placement

    def _corrections(self, model: CalibratedModel, method: str, solved: Mapping[str, Encoded]) -> Corrections:
        """Corrections of the biases of a model, and of those that the other folds make."""
        if not self._settings.correct_biases:
            return Corrections({}, ({},) * len(model.folds))
        shared = self._corrections_on(self._samples.some(_BIAS_SAMPLES), model, method, solved)
        others = []
        for number, fold in enumerate(model.folds):
            if fold.original is model.original:
                factors = {n: fold.balance.factors.get(n, 1.0) / f for n, f in model.balance.factors.items()}
                others.append({n: change * factors.get(n, 1.0) for n, change in shared.others[number].items()})
            else:  # its channels may be others
                samples = undivided(spread(self._samples.others(number), _BIAS_SAMPLES // len(model.folds)))
                others.append(dict(self._corrections_on(samples, fold, method, {}).whole))
        return Corrections(shared.whole, tuple(others))

    def _corrections_on(
        self, samples: FoldedSamples, model: CalibratedModel, method: str, solved: Mapping[str, Encoded]
    ) -> Corrections:
        """Corrections of the biases of a model that samples show."""
        decoded, progress = partial(self._runner.decoded, model.document, solved), self._budget.progress
        ranges = model.ranges(model.placement, method, self._settings, progress)
        kernels = bias.RoundedKernels(model.placement, self._settings.codes, ranges, decoded)
        return bias.corrections(model.document, kernels, samples, threads=self._settings.threads, progress=progress)

    def _scored(
        self,
        model: CalibratedModel,
        kernels: Mapping[str, FloatKernel],
        method: str,
        corrections: Corrections,
        weights: _Weights,
    ) -> Candidate:
        """A candidate with the score of the file that it would become.

        Args:
            model: the calibrated model.
            kernels: kernels that are left in float for accuracy.
            method: calibration method of the ranges.
            corrections: corrections of biases; those of kernels in float are not used.
            weights: codes of weights.
        """
        placement = self._place(model.document, kernels)
        plan, static = self._planned(model, placement, method, corrections.whole, weights.encoded)
        score, progress = Score(math.inf, math.inf), self._budget.progress
        candidate = Candidate(
            plan=plan, static=static, score=score, model=model, placement=placement, corrections=corrections,
            sums=weights.sums,
        )  # fmt: skip
        if model.folds:
            return replace(candidate, score=self._runner.score_folds(self._folds(candidate, kernels), progress))
        return replace(candidate, score=self._runner.score(plan, progress))

    def _folds(self, candidate: Candidate, kernels: Mapping[str, FloatKernel]) -> Iterator[ActivationPlan]:
        """For each fold the plan that the samples of the other folds make, with weights rounded to nearest."""
        model, method = candidate.model, candidate.static.method
        for fold, changes in zip(model.folds, candidate.corrections.others, strict=True):
            encoded = with_room_for_pairs(fold.document, candidate.sums, self._rules, {})
            yield self._planned(fold, self._place(fold.document, kernels), method, changes, encoded)[0]

    def _planned(
        self,
        model: CalibratedModel,
        placement: Placement,
        method: str,
        corrections: Mapping[str, NDArray[np.float64]],
        solved: Mapping[str, Encoded],
    ) -> tuple[ActivationPlan, StaticActivations]:
        """A plan of a calibrated model.

        Args:
            model: the calibrated model.
            placement: a placement in it.
            method: calibration method of the ranges.
            corrections: corrections of biases, by the first output of the kernel; those of kernels in float are not used.
            solved: weights whose codes a solver has chosen.
        """
        static = self._activations(model, placement, method)
        outputs = {u.node.output[0] for u in placement.kernels}
        used = {name: change for name, change in corrections.items() if name in outputs}
        document = model.document.copy()
        bias.correct(document, used)
        static = replace(static, corrected_biases=len(used))
        weights = with_room_for_biases(document, placement, static, self._rules, solved)
        return ActivationPlan(document, static_sites(document, static.float_kernels), static, weights), static

    def _activations(self, model: CalibratedModel, placement: Placement, method: str) -> StaticActivations:
        """Activations of a placement in a calibrated model, with the ranges of a method."""
        return StaticActivations(
            codes=self._settings.codes,
            tensors=tuple(placement.tensors.values()),
            ranges=model.ranges(placement, method, self._settings, self._budget.progress),
            method=method,
            forms=NodeForms(placement.split_gemms, tuple(sorted(self.remedies.sums))),
            integer_kernels=len(placement.kernels),
            float_kernels=placement.float_kernels,
            balanced=len(model.balanced),
        )


def _no_such_op(document: Document) -> str:
    """The reason why there is none, and what may be done."""
    if len(list(graphs(document.proto.graph))) == 1:
        return "no such op"
    return "those inside of If, Loop and Scan have no static ranges; `--activations dynamic` computes them on integers"
