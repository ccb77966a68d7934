"""The search for ranges of static activations, scored on the whole model.

It tries calibration methods, then functions equal to the model that may be easier to round (another basis, smoothed,
balanced or equalized channels), then codes of weights that GPTQ has chosen, and leaves kernels in float at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxquant.activations import balance, bias
from onnxquant.activations.bias_room import with_room_for_biases
from onnxquant.activations.calibrated import (
    MAGNITUDES,
    MOMENTS,
    WIDTHS,
    CalibratedModel,
    largest_magnitudes,
    saved_statistics,
    unreached_kernels,
)
from onnxquant.activations.candidate import Candidate
from onnxquant.activations.candidates import CandidateRunner
from onnxquant.activations.equal_functions import easier_to_round, rebased
from onnxquant.activations.exclusion import exclude
from onnxquant.activations.fused import GraphRemedies
from onnxquant.activations.insert import NodeForms
from onnxquant.activations.placement import FOR_ACCURACY, Placement, place
from onnxquant.activations.plan import ActivationPlan, SearchRecord, StaticActivations
from onnxquant.activations.settings import AccuracyGoal, StaticSettings
from onnxquant.activations.slow_kernels import LEAST_SECONDS, slow_kernels
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.activations.weights import excluded_kernels, site_of, static_format, static_sites
from onnxquant.calibration.collect import collect
from onnxquant.calibration.feeds import Chosen, Split
from onnxquant.calibration.gram_matrices import Reader, grams
from onnxquant.calibration.statistics import Statistics
from onnxquant.errors import FeedError, ModelError
from onnxquant.formats.base import Encoded
from onnxquant.graph.analysis.quantized import ALREADY_QUANTIZED, integer_weights
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.native import dispatch
from onnxquant.passes.equivalent.rebase import stream_tensors
from onnxquant.plan.context import Context
from onnxquant.recipe.progress import Progress
from onnxquant.recipe.rules import Recipe
from onnxquant.solvers import Inputs, solver_named
from onnxquant.targets import AUTO
from onnxquant.validation.metric import Metric

# Biases are corrected on this many samples; more would hardly move their mean errors.
_BIAS_SAMPLES = 64


def plan_static(context: Context) -> ActivationPlan:
    """Calibrate a prepared, simplified model, score ways to quantize its activations, and return the best.

    Args:
        context: context with the float model.

    Raises:
        FeedError: there are no samples, or they do not fit.
        ModelError: nothing can compute on integers.
        StatisticsError: statistics of another model, or none that the method can read.
    """
    if context.samples is None:
        raise FeedError(
            "static activations need samples that the model will see: give --data; ranges from synthetic ones would mean "
            "nothing"
        )
    document, options = context.document, context.options
    split = context.samples.for_calibration(document)
    statistics = saved_statistics(options.calibration, context.original)
    if statistics is not None and any(origin.source == split.judging.origin.source for origin in statistics.sources):
        split = context.samples.shared()
    search = StaticSearch(document, context.rules, StaticSettings.of(options), split, context.progress)
    return search.run(statistics)


class StaticSearch:
    """The search for one model.

    Args:
        document: the float model, prepared and simplified.
        rules: the rules of the recipe.
        settings: the ways to try.
        samples: samples to calibrate on, and others to compare candidates on.
        progress: display of the part that is done.
    """

    def __init__(
        self, document: Document, rules: Recipe, settings: StaticSettings, samples: Split, progress: Progress
    ) -> None:
        self._document, self._rules, self._settings, self._progress = document, rules, settings, progress
        self._streams = stream_tensors(GraphEditor(document.proto.graph)) if settings.rebase else []
        self._compares = bool(self._streams) or settings.has_alternatives
        self._feeds, self._is_judged_apart = samples.calibrating, samples.apart
        # A goal is to be reached on this CPU; else its saturation must not decide about a file for others.
        is_free = settings.goal is None
        threads, judge = settings.threads, settings.judge
        self._runner = CandidateRunner(document, rules, samples.judging, threads, exact=is_free, judge=judge)
        self._excluded = excluded_kernels(document, rules)
        self._remedies = GraphRemedies()
        self._budget = TimeBudget(settings.effort)

    def run(self, statistics: Statistics | None = None) -> ActivationPlan:
        """Find the best plan. Kernels are left in float only once the rest is chosen.

        Args:
            statistics: statistics of the model; None: collect them, and try equal functions too.
        """
        settings = self._settings
        model = self._calibrate(self._document, settings.methods, settings.balance, statistics, explore=True)
        best = self._best_of_methods(self._with_taken_kernels(model), settings.methods, ())
        functions = {best.title: best.score.criterion}
        if statistics is None:
            best = self._try_equal_functions(best, functions)
        if settings.may_solve and (settings.solver != AUTO or self._budget.allows("solved weights")):
            solved = self._with_solved_weights(best)
            functions[solved.title] = solved.score.criterion
            if settings.solver != AUTO or solved.score.criterion > best.score.criterion:
                best = solved
        if settings.goal is not None:
            best = exclude(best, self._excluding, self._goal_test(settings.goal), self._progress)
        best = self._taken(best)
        if self._settings.codes.bits == 8 and self._runner.seconds >= LEAST_SECONDS:
            weights, trial = best.plan.document.proto.graph.initializer, partial(self._with_slow, best)
            if slow := slow_kernels(best, weights, lambda c: self._runner.latency(c.plan), trial):
                best = self._taken(trial(slow))
        return self._with_record(best, functions)

    def _taken(self, candidate: Candidate) -> Candidate:
        """A candidate whose integer kernels ONNX Runtime takes, all of them."""
        while self._find_remedies(candidate.plan, candidate.placement):
            candidate = self._placed_again(candidate)
        return candidate

    def _placed_again(self, candidate: Candidate) -> Candidate:
        """A candidate with the units that are in float by now; those left in float for accuracy stay so."""
        kernels = candidate.static.float_kernels.items()
        return self._excluding(candidate, [name for name, kernel in kernels if kernel is FOR_ACCURACY])

    def _with_slow(self, candidate: Candidate, slow: Sequence[str]) -> Candidate:
        """A candidate with some kernels in float for speed."""
        self._remedies.slow = tuple(slow)
        return self._placed_again(candidate)

    def _with_taken_kernels(self, model: CalibratedModel) -> CalibratedModel:
        """A calibrated model whose integer kernels ONNX Runtime takes, all of them."""
        method = self._settings.methods[0]
        while True:
            document, static = model.document, self._activations(model, model.placement, method)
            plan = ActivationPlan(document, static_sites(document, static.float_kernels), static)
            if not self._find_remedies(plan, model.placement):
                return model
            model = replace(model, placement=self._placed(document))

    def _find_remedies(self, plan: ActivationPlan, placement: Placement) -> bool:
        """Find remedies for the units of a plan that ONNX Runtime would leave in float; False: there are no such units."""
        if self._settings.codes.bits > 8:
            return False  # for other providers: it has no such kernels
        in_float = self._runner.units_in_float(plan, placement.units)
        self._remedies.add(GraphEditor(plan.document.proto.graph), in_float)
        return bool(in_float)

    def _with_record(self, best: Candidate, functions: Mapping[str, float]) -> ActivationPlan:
        """The plan of the best candidate, with the scores of the search for reports."""
        weights = dict.fromkeys(u.node.input[1] for u in best.model.placement.kernels)
        record = SearchRecord(
            methods=best.methods,
            functions=functions,
            calibrated=len(self._feeds),
            judged=len(self._runner.samples),
            apart=self._is_judged_apart,
            solver=best.solver,
            skipped=tuple(self._budget.skipped),
            not_solved=tuple(name for name in weights if name not in best.plan.solved) if best.solver else (),
        )
        activations = replace(best.static, search=record, histograms=best.model.histograms())
        return replace(best.plan, activations=activations)

    def _place(self, document: Document, more: Collection[str] = ()) -> Placement:
        """The placement in a model, with more kernels left in float for accuracy."""
        excluded = {**self._excluded, **self._remedies.excluded, **dict.fromkeys(more, FOR_ACCURACY)}
        # A zero point in the middle has no code to spare for what a Relu cuts off.
        return place(GraphEditor(document.proto.graph), excluded, clamps=not self._settings.codes.symmetric)

    def _placed(self, document: Document) -> Placement:
        """The placement in a model.

        Raises:
            ModelError: nothing can compute on integers.
        """
        placement = self._place(document)
        if not placement.units:
            if integers := integer_weights(document.proto):
                raise ModelError(f"{document.name}: {ALREADY_QUANTIZED.format(integers)}")
            reasons = "; ".join(f"{n}: {k.reason}" for n, k in list(placement.float_kernels.items())[:3])
            raise ModelError(f"{document.name}: no op can compute on integers: {reasons or 'no such op'}")
        return placement

    def _calibrate(
        self,
        original: Document,
        methods: Sequence[str],
        strength: float,
        statistics: Statistics | None = None,
        *,
        explore: bool = False,
    ) -> CalibratedModel:
        """Collect statistics of a model, and balance its channels.

        Args:
            original: the model.
            methods: calibration methods that the statistics must serve.
            strength: strength of balancing.
            statistics: statistics of the model; None: collect them.
            explore: collect the statistics that equal functions need, too.

        Raises:
            ModelError: nothing can compute on integers.
        """
        document = original.copy()
        placement = self._placed(document)
        if statistics is None:
            observers: dict[str, list[str]] = {name: list(methods) for name in placement.tensors}
            if explore:
                self._add_observers(observers, placement)
            if strength:
                for name in balance.candidates(GraphEditor(document.proto.graph), placement):
                    observers[name].append(WIDTHS)
            threads, progress = self._settings.threads, self._progress
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

    def _add_observers(self, observers: dict[str, list[str]], placement: Placement) -> None:
        """Add the observers that equal functions are made by."""
        if self._settings.smooth:
            for unit in placement.kernels:
                x = unit.node.input[0]
                if unit.node.op_type in ("Gemm", "MatMul") and MAGNITUDES not in observers[x]:
                    observers[x].append(MAGNITUDES)
        for name in self._streams:
            observers.setdefault(name, []).append(MOMENTS)

    def _best_of_methods(self, model: CalibratedModel, methods: Sequence[str], changes: tuple[str, ...]) -> Candidate:
        candidates = list[Candidate]()
        for method in methods:
            if candidates and not self._budget.allows(method):
                continue
            with self._budget.step():
                candidates.append(self._candidate(model, method))
        best = max(candidates, key=lambda c: c.score.criterion)
        scores = {c.static.method: c.score.criterion for c in candidates}
        return replace(best, changes=changes, methods=scores)

    def _candidate(self, model: CalibratedModel, method: str, solved: Mapping[str, Encoded] | None = None) -> Candidate:
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
                model.ranges(model.placement, method, settings),
                partial(self._runner.decoded, model.document, solved),
            )
            feeds = Chosen(self._feeds, range(_BIAS_SAMPLES))
            corrections = bias.corrections(
                model.document, kernels, feeds, threads=settings.threads, progress=self._progress
            )
        return self._scored(model, model.placement, method, corrections, solved)

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
        score = self._runner.score(plan)
        return Candidate(
            plan=plan, static=static, score=score, model=model, placement=placement, corrections=corrections
        )

    def _activations(self, model: CalibratedModel, placement: Placement, method: str) -> StaticActivations:
        """Activations of a placement in a calibrated model, with the ranges of a method."""
        return StaticActivations(
            codes=self._settings.codes,
            tensors=tuple(placement.tensors.values()),
            ranges=model.ranges(placement, method, self._settings),
            method=method,
            forms=NodeForms(placement.split_gemms, tuple(sorted(self._remedies.sums))),
            integer_kernels=len(placement.kernels),
            float_kernels=placement.float_kernels,
            balanced=len(model.balanced),
        )

    def _try_equal_functions(self, start: Candidate, scores: dict[str, float]) -> Candidate:
        """The best of a candidate and those of equal functions; their scores are added to ``scores``."""
        best = start
        for functions in (rebased, partial(easier_to_round, balance_fully=self._compares)):
            base = best
            for function in functions(base.model.original, start.model, self._settings):
                title = ", ".join((*base.changes, function.change))
                if not self._budget.allows(title):
                    continue
                if math.isfinite(left := self._budget.left):
                    self._progress(f"search: {title}, at most {left:.0f} s left", 1 - left / self._budget.seconds)
                methods = [start.static.method]
                model = self._calibrate(function.document, methods, function.balance)
                candidate = self._best_of_methods(model, methods, (*base.changes, function.change))
                scores[candidate.title] = candidate.score.criterion
                if candidate.score.criterion > best.score.criterion:
                    best = candidate
        return best

    def _with_solved_weights(self, best: Candidate) -> Candidate:
        """A candidate with codes of weights that a solver has chosen; where it cannot, they are rounded to nearest."""
        document, settings = best.model.document, self._settings
        dims = {t.name: tuple(t.dims) for t in document.proto.graph.initializer}
        # Where a bias takes up the mean error afterwards, only deviations from the mean count for the weight's codes.
        readers = [
            Reader(n, n.input[1], dims[n.input[1]], settings.correct_biases and n.op_type in ("Conv", "Gemm"))
            for n in (u.node for u in best.model.placement.kernels)
        ]
        solved = {}
        for name, gram, count in grams(
            document, readers, self._feeds, threads=settings.threads, progress=self._progress
        ):
            encoded = self._solved(document, name, Inputs(gram, count))
            if encoded is not None:
                solved[name] = encoded
        candidate = self._candidate(best.model, best.static.method, solved)
        changes = (*best.changes, f"solved by {settings.weight_solver}")
        return replace(candidate, changes=changes, methods=best.methods, solver=settings.weight_solver)

    def _solved(self, document: Document, name: str, inputs: Inputs) -> Encoded | None:
        """A weight whose codes a solver has chosen; None where it cannot solve the format."""
        site = site_of(document, name)
        form, solver = static_format(site, self._rules), solver_named(self._settings.weight_solver)
        if form.permuted or solver.refusal(form):
            return None
        weight = site.view.matrix(document.array(site.tensor))
        return solver.solve(form, weight, inputs, dispatch.rounded_to_nearest(form, weight))

    def _goal_test(self, goal: AccuracyGoal) -> Callable[[Candidate], bool]:
        """A function that tells whether a candidate reaches a goal."""
        ratio = -math.inf if goal.min_sqnr_db is None else goal.min_sqnr_db
        if goal.metric is None:
            return lambda candidate: candidate.score.total >= ratio
        metric = Metric(goal.metric)
        with self._runner.session(ActivationPlan(self._document)) as session:
            least = goal.max_drop.least(metric(session))

        def reaches(candidate: Candidate) -> bool:
            if candidate.score.total < ratio:
                return False
            with self._runner.session(candidate.plan) as session:
                return metric(session) >= least

        return reaches

    def _excluding(self, start: Candidate, names: Collection[str]) -> Candidate:
        """A candidate with some of its kernels in float."""
        placement = self._place(start.model.document, names)
        method, corrections, solved = start.static.method, start.corrections, start.plan.solved
        candidate = self._scored(start.model, placement, method, corrections, solved)
        return replace(candidate, changes=start.changes, methods=start.methods, solver=start.solver)
