"""The way from a float model to a candidate: placement, statistics, ranges, corrected biases, and a score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxquant.activations import balance, bias
from onnxquant.activations.bias_room import with_room_for_biases
from onnxquant.activations.calibrated import (
    WIDTHS,
    CalibratedModel,
    largest_magnitudes,
    unreached_kernels,
)
from onnxquant.activations.candidate import Candidate
from onnxquant.activations.candidates import CandidateRunner
from onnxquant.activations.equal_functions import EqualFunction
from onnxquant.activations.fused import GraphRemedies
from onnxquant.activations.insert import NodeForms
from onnxquant.activations.pair_room import with_room_for_pairs
from onnxquant.activations.placement import Cause, FloatKernel, Placement, place
from onnxquant.activations.plan import ActivationPlan, StaticActivations
from onnxquant.activations.settings import StaticSettings
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.activations.weights import excluded_kernels, static_sites
from onnxquant.calibration.collect import collect
from onnxquant.calibration.feeds import Chosen, Feeds
from onnxquant.calibration.statistics import Statistics
from onnxquant.errors import ModelError
from onnxquant.formats.base import Encoded
from onnxquant.graph.analysis.quantized import ALREADY_QUANTIZED, integer_weights
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.numerics.arrays import Doubles
from onnxquant.recipe.rules import Recipe
from onnxquant.validation.saturation import LargestPairs

# Biases are corrected on this many samples; more would hardly move their mean errors.
_BIAS_SAMPLES = 64
# Observers to add, each with the tensor that it sees.
Additions = Iterable[tuple[str, str]]


class CandidateBuilder:
    """Builds candidates of one model. Once a kernel is known to be no good on integers, no later candidate has it there.

    Args:
        runner: runner of the candidates.
        rules: the rules of the recipe.
        settings: type of the codes, and whether channels are balanced and biases corrected.
        feeds: samples to calibrate on.
        budget: time budget, which shows the progress.
    """

    def __init__(
        self, runner: CandidateRunner, rules: Recipe, settings: StaticSettings, feeds: Feeds, budget: TimeBudget
    ) -> None:
        self._runner, self._rules, self._settings = runner, rules, settings
        self._feeds, self._budget = feeds, budget
        self._excluded = excluded_kernels(runner.document, rules)
        self._remedies = GraphRemedies()

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
        original, strength = function.document, function.balance
        document = original.copy()
        placement = self._placed(document)
        if statistics is None:
            observers: dict[str, list[str]] = {name: list(methods) for name in placement.tensors}
            widths = balance.candidates(GraphEditor(document.proto.graph), placement) if strength else []
            for name, observer in (*more(placement), *((name, WIDTHS) for name in widths)):
                observers.setdefault(name, []).append(observer)
            threads, progress = self._settings.threads, self._budget.progress
            with self._budget.first_pass():
                statistics = collect(document, self._feeds, observers, threads=threads, progress=progress)
        while unreached := unreached_kernels(placement, statistics):
            self._excluded = {**self._excluded, **unreached}  # from now on, in every function that is tried
            placement = self._placed(document)
        balanced: dict[str, float] = {}
        if strength:
            balanced = balance.balance(document, placement, largest_magnitudes(statistics, WIDTHS), strength)
            placement = self._place(document)
        return CalibratedModel(original, document, placement, statistics, balanced)

    def candidate(self, model: CalibratedModel, method: str, solved: Mapping[str, Encoded] | None = None) -> Candidate:
        """A candidate with as many kernels on integers as possible, its biases corrected.

        Args:
            model: the calibrated model.
            method: calibration method of the ranges.
            solved: weights whose codes a solver has chosen.
        """
        settings, solved = self._settings, solved or {}
        corrections: dict[str, NDArray[np.float64]] = {}
        if settings.correct_biases:
            kernels = bias.RoundedKernels(
                model.placement,
                settings.codes,
                self._ranges(model, model.placement, method),
                partial(self._runner.decoded, model.document, solved),
            )
            feeds = Chosen(self._feeds, range(_BIAS_SAMPLES))
            corrections = bias.corrections(
                model.document, kernels, feeds, threads=settings.threads, progress=self._budget.progress
            )
        return self._scored(model, model.placement, method, corrections, solved)

    def in_float(self, candidate: Candidate, kernels: Mapping[str, FloatKernel]) -> Candidate:
        """A candidate with some of its kernels in float for accuracy, and no others.

        Args:
            candidate: the candidate.
            kernels: the kernels, by their names or first outputs.
        """
        placement = self._place(candidate.model.document, kernels)
        method, corrections, solved = candidate.static.method, candidate.corrections, candidate.plan.solved
        again = self._scored(candidate.model, placement, method, corrections, solved)
        return replace(again, changes=candidate.changes, methods=candidate.methods, solver=candidate.solver)

    def saturating(self, candidate: Candidate) -> dict[str, LargestPairs]:
        """Weights by name whose kernels lose much on CPUs without VNNI, with their largest sums of two products."""
        return self._runner.saturating(candidate.plan, self._feeds)

    def with_room_for_pairs(self, candidate: Candidate, sums: Mapping[str, Doubles]) -> Candidate:
        """A candidate with larger scales where sums of two products do not fit.

        Args:
            candidate: the candidate.
            sums: weights by name, with the largest sum in each row, as a multiple of what fits.
        """
        model, rules = candidate.model, self._rules
        encoded = with_room_for_pairs(model.document, sums, rules, candidate.plan.solved)
        return self.recoded(candidate, encoded)

    def recoded(self, candidate: Candidate, encoded: Mapping[str, Encoded]) -> Candidate:
        """A candidate with other codes of weights."""
        again = self.candidate(candidate.model, candidate.static.method, encoded)
        return replace(again, changes=candidate.changes, methods=candidate.methods, solver=candidate.solver)

    def taken(self, candidate: Candidate) -> Candidate:
        """A candidate whose integer kernels ONNX Runtime takes, all of them; those in float for accuracy stay so."""
        while self._find_remedies(candidate.plan, candidate.placement):
            kernels = candidate.static.float_kernels.items()
            chosen = {name: kernel for name, kernel in kernels if kernel.cause in (Cause.ACCURACY, Cause.LOSS)}
            candidate = self.in_float(candidate, chosen)
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
        self._remedies.slow = tuple(slow)
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
        self._remedies.add(GraphEditor(plan.document.proto.graph), in_float)
        return bool(in_float)

    def _place(self, document: Document, more: Mapping[str, FloatKernel] | None = None) -> Placement:
        """The placement in a model, with more kernels left in float."""
        excluded = {**self._excluded, **self._remedies.excluded, **(more or {})}
        # A zero point in the middle has no code to spare for what a Relu cuts off.
        return place(GraphEditor(document.proto.graph), excluded, clamps=not self._settings.codes.symmetric)

    def _placed(self, document: Document) -> Placement:
        """The placement in a model.

        Raises:
            ModelError: nothing can compute on integers.
        """
        placement = self._place(document)
        if not placement.units and not self._remedies.slow:
            if integers := integer_weights(document.proto):
                raise ModelError(f"{document.name}: {ALREADY_QUANTIZED.format(integers)}")
            reasons = "; ".join(f"{n}: {k.reason}" for n, k in list(placement.float_kernels.items())[:3])
            raise ModelError(f"{document.name}: no op can compute on integers: {reasons or 'no such op'}")
        return placement

    def _ranges(self, model: CalibratedModel, placement: Placement, method: str) -> dict[str, tuple[float, float]]:
        return model.ranges(placement, method, self._settings, self._budget.progress)

    def _scored(
        self,
        model: CalibratedModel,
        placement: Placement,
        method: str,
        corrections: Mapping[str, NDArray[np.float64]],
        solved: Mapping[str, Encoded],
    ) -> Candidate:
        """A candidate with the score of the file that it would become.

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
        plan = ActivationPlan(document, static_sites(document, static.float_kernels), static, weights)
        score = self._runner.score(plan, self._budget.progress)
        return Candidate(
            plan=plan, static=static, score=score, model=model, placement=placement, corrections=corrections
        )

    def _activations(self, model: CalibratedModel, placement: Placement, method: str) -> StaticActivations:
        """Activations of a placement in a calibrated model, with the ranges of a method."""
        return StaticActivations(
            codes=self._settings.codes,
            tensors=tuple(placement.tensors.values()),
            ranges=self._ranges(model, placement, method),
            method=method,
            forms=NodeForms(placement.split_gemms, tuple(sorted(self._remedies.sums))),
            integer_kernels=len(placement.kernels),
            float_kernels=placement.float_kernels,
            balanced=len(model.balanced),
        )
