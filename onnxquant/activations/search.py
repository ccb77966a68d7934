"""The search for ranges of static activations, scored on the whole model.

It first finds the kernels that are faster on integers. Then it tries calibration methods, functions equal to the model that
may be easier to round (another basis, smoothed, balanced or equalized channels), codes of weights that a solver has chosen,
larger scales where sums of products would not fit into 16 bits, and at the end kernels in float. All but the first candidate
is only tried while there is time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace
from functools import partial

from onnxquant.activations.calibrated import CalibratedModel
from onnxquant.activations.candidate import Candidate
from onnxquant.activations.candidate_builder import CandidateBuilder
from onnxquant.activations.candidates import CandidateRunner
from onnxquant.activations.equal_functions import (
    EqualFunction,
    balanced,
    change_observers,
    easier_to_round,
    rebased,
    smoothed,
)
from onnxquant.activations.exclusion import exclude, goal_test
from onnxquant.activations.pair_room import FOR_CERTAINTY_DB
from onnxquant.activations.placement import AGAINST_LOSS, FOR_ACCURACY, FloatKernel
from onnxquant.activations.plan import ActivationPlan, SearchRecord, StaticActivations
from onnxquant.activations.settings import AccuracyGoal, StaticSettings
from onnxquant.activations.slow_kernels import LEAST_SECONDS, slow_kernels
from onnxquant.activations.solved_weights import solved_weights
from onnxquant.activations.start import SearchStart, UnsmoothedFunctions
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.calibration.feeds import Feeds
from onnxquant.calibration.folds import SearchSamples
from onnxquant.calibration.statistics import Statistics
from onnxquant.formats.base import Encoded
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.numerics.score import GOOD_DB, LOW_DB
from onnxquant.passes.equivalent.rebase import stream_tensors
from onnxquant.recipe.progress import Progress
from onnxquant.recipe.rules import Recipe
from onnxquant.recipe.values import Effort
from onnxquant.targets import AUTO

# The part of the time after which no more kernels are measured in float.
_FOR_SPEED = 1 / 3
# The part of the time that is kept for kernels in float, where a goal may need them.
_BEFORE_EXCLUSION = 0.5
# The name of the step that gives weights room, in reports.
_ROOM = "weights for CPUs without VNNI"
# Of more samples than these the others would make nearly the same function, in a pass of their own for each fold.
_MOST_REFITTED = 128
# The noise is a hundredth of the outputs: to try more would take time and show nothing.
_ENOUGH_DB = 40.0

Functions = Callable[[Document, CalibratedModel, StaticSettings], Iterator[EqualFunction]]


class StaticSearch:
    """The search for one model.

    Args:
        document: the float model, prepared and simplified.
        rules: the rules of the recipe.
        settings: the ways to try.
        samples: samples to calibrate on, and to compare candidates on.
        progress: display of the part that is done.

    Attributes:
        start: start of later searches; None before this one has run.
        is_alone: whether no later search goes on from this one; else no kernel is ranked where outputs are lost.
    """

    def __init__(
        self, document: Document, rules: Recipe, settings: StaticSettings, samples: SearchSamples, progress: Progress
    ) -> None:
        self._document, self._rules, self._settings, self._samples = document, rules, settings, samples
        self._streams = stream_tensors(GraphEditor(document.proto.graph)) if settings.rebase else []
        # A goal is to be reached on this CPU; else its saturation must not decide about a file for others.
        is_free = settings.goal is None
        threads, judge = settings.threads, settings.judge
        self._budget = TimeBudget(settings.effort, progress, settings.seconds)
        self._runner = CandidateRunner(document, rules, samples.judging, threads, exact=is_free, judge=judge)
        self._builder = CandidateBuilder(self._runner, rules, settings, samples.calibrating, self._budget)
        self._scores: dict[str, float] = {}
        self._unsmoothed: UnsmoothedFunctions | None = None
        self.start: SearchStart | None = None
        self.is_alone = True

    def run(self, statistics: Statistics | None = None) -> ActivationPlan:
        """Find the best plan.

        Args:
            statistics: statistics of the model; None: collect them, and try equal functions too.
        """
        settings = self._settings
        more = partial(change_observers, streams=self._streams, smooth=settings.smooth)
        function = EqualFunction("", self._document)
        model = self._builder.calibrated(function, settings.methods, statistics, more)
        model = self._without_slow_kernels(self._builder.taken_model(model))
        best = self._best_of_methods(model)
        self._scores[best.title] = best.score.typical
        with self._before_exclusion(best):
            if statistics is None and not self._is_enough(best):
                best = self._try_equal_functions(best)
            best = self._with_better_codes(best)
        return self._good_enough(self._with_room_for_pairs(best))

    def run_from(self, start: SearchStart) -> ActivationPlan:
        """Find the best plan without what an earlier search has tried: only what is in float is another.

        Products are smoothed by Muls where that search was not to have any, and this one is.

        Args:
            start: the end of the earlier search.
        """
        self._builder.remedies = deepcopy(start.remedies)
        if start.unsmoothed is not None and self._settings.smoothing_muls:
            return self._run_with_muls(start, start.unsmoothed)
        best = self._builder.in_float(start.under(self._rules), {}, in_folds=False)
        return self._good_enough(self._builder.taken(best))

    def _run_with_muls(self, start: SearchStart, before: UnsmoothedFunctions) -> ActivationPlan:
        """Find the best plan with products smoothed by Muls, or that of the earlier search."""
        self._scores.update(before.scores)
        with self._before_exclusion(before.best):
            best = self._best_of(smoothed, before.base, before.best, before.first)
            if best is before.best:
                return self._good_enough(start.best)
            best = self._with_better_codes(best)
        return self._good_enough(self._with_room_for_pairs(best))

    def _before_exclusion(self, best: Candidate) -> AbstractContextManager[None]:
        """Keep time for kernels in float, where a goal or the outputs of a candidate may need them."""
        return self._budget.limited_to(_BEFORE_EXCLUSION if self._settings.goal or _is_lost(best) else 1.0)

    def _with_better_codes(self, best: Candidate) -> Candidate:
        """A candidate with solved weights, where that gains something or the user named the solver."""
        is_tried = self._settings.solver != AUTO or not self._is_enough(best)
        return self._try_solved_weights(best) if self._settings.may_solve and is_tried else best

    def _good_enough(self, best: Candidate) -> ActivationPlan:
        """The plan of a candidate, with the kernels in float that a goal needs, or without loss of the outputs."""
        self.start = SearchStart(self._document, best, self._builder.remedies, self._unsmoothed)
        goal = self._settings.goal
        best = self._for_goal(best, goal, FOR_ACCURACY) if goal else self._without_loss(best)
        return self._with_record(self._builder.taken(best))

    def with_ranges(self, statistics: Statistics) -> ActivationPlan:
        """The plan with the ranges of statistics and of the first method, unjudged.

        Args:
            statistics: statistics of the model.
        """
        settings = self._settings
        function = EqualFunction("", self._document)
        more = partial(change_observers, streams=self._streams, smooth=settings.smooth)
        model = self._builder.taken_model(self._builder.calibrated(function, settings.methods, statistics, more))
        best = self._builder.candidate(model, settings.methods[0])
        plan = self._with_record(self._builder.taken(best))
        if not isinstance(plan.activations, StaticActivations) or plan.activations.search is None:
            return plan
        record = replace(plan.activations.search, methods={}, calibrated=statistics.samples, judged=0, apart=True)
        return replace(plan, activations=replace(plan.activations, search=record))

    def _without_loss(self, best: Candidate) -> Candidate:
        """A candidate that does not lose its outputs; where there is none, weights alone become smaller."""
        if not _is_lost(best):
            return best
        if self.is_alone:
            best = self._for_goal(best, AccuracyGoal(min_sqnr_db=GOOD_DB), AGAINST_LOSS)
        if not _is_lost(best):
            return best
        return self._in_float(AGAINST_LOSS, best, [u.node.output[0] for u in best.model.placement.kernels])

    def _for_goal(self, best: Candidate, goal: AccuracyGoal, reason: FloatKernel) -> Candidate:
        """A candidate with as few kernels in float as a goal needs, for one reason."""
        reaches = goal_test(goal, self._document, self._runner)
        quickly = partial(self._in_float, reason, in_folds=False)
        return exclude(best, partial(self._in_float, reason), reaches, self._budget, quickly)

    def _is_enough(self, best: Candidate) -> bool:
        """Whether what else could be tried would gain nothing that anyone notices."""
        is_asked_for_more = self._settings.goal is not None or self._settings.effort is Effort.HIGH
        return best.score.typical >= _ENOUGH_DB and not is_asked_for_more

    def _without_slow_kernels(self, model: CalibratedModel) -> CalibratedModel:
        """A calibrated model without the kernels that make it slower than the float model."""
        if self._settings.codes.bits > 8 or self._runner.seconds < LEAST_SECONDS:
            return model
        weights = model.document.proto.graph.initializer
        with_slow, speedup = self._builder.with_slow, self._runner.speedup
        with_library = partial(speedup, integer_operators=True)
        kernels = [unit.node for unit in model.placement.kernels]
        with self._budget.limited_to(_FOR_SPEED):
            slow = slow_kernels(
                kernels, weights, lambda names: with_slow(model, names)[1], speedup, self._budget, with_library
            )
        return with_slow(model, slow)[0]

    def _best_of_methods(self, model: CalibratedModel) -> Candidate:
        """The best of the candidates with ranges by each of the methods.

        Of several methods the first clips nothing: another one has to win on most of the sources that judge, too. What one of
        them gains by finer steps is no reason to clip the others.
        """
        first, *others = self._settings.methods
        candidates = [self._builder.candidate(model, first)]
        for method in others:
            candidate = self._budget.attempt(method, partial(self._builder.candidate, model, method))
            if candidate is not None:
                candidates.append(candidate)
        whole, *clipped = candidates
        agreed = [c for c in clipped if c.score.wins_on_most(whole.score, self._runner.sources)]
        best = max([whole, *agreed], key=lambda c: c.score.typical)
        return replace(best, methods={c.static.method: c.score.typical for c in candidates})

    def _try_equal_functions(self, start: Candidate) -> Candidate:
        """The best of a candidate and those of equal functions."""
        best = start
        for functions in (balanced, rebased):
            best = self._best_of(functions, best, best, start)
        base = best
        best = self._best_of(easier_to_round, base, base, start)
        if not self._settings.smoothing_muls:
            self._unsmoothed = UnsmoothedFunctions(start, base, best, dict(self._scores))
        return best

    def _best_of(self, functions: Functions, base: Candidate, best: Candidate, start: Candidate) -> Candidate:
        """The best of a candidate and those of some functions, as far as there is time.

        Args:
            functions: the functions.
            base: candidate of the function that they are made of.
            best: the candidate.
            start: candidate of the model itself, whose statistics they are made from.
        """
        gains = True
        for function in functions(base.model.original, start.model, self._settings):
            if function.is_stronger and not gains:
                continue
            title = ", ".join((*base.changes, function.change))
            if function.balance is None:
                function = replace(function, balance=base.model.balance.strength)
            refitted = replace(function, folds=self._refitted(functions, function, base.model, start.model))
            candidate = self._budget.attempt(title, partial(self._changed, base, refitted))
            if candidate is None:
                return best
            self._scores[title] = candidate.score.typical
            gains = candidate.score.typical > base.score.typical
            if candidate.score.typical > best.score.typical:
                best = candidate
        return best

    def _refitted(
        self, functions: Functions, function: EqualFunction, base: CalibratedModel, start: CalibratedModel
    ) -> tuple[Document, ...]:
        """For each fold the function that the other folds make; none where it would be the same, or takes long.

        Args:
            functions: the functions that there are.
            function: one of them.
            base: the model that it was made of.
            start: the model whose statistics it was made from.
        """
        is_same = not function.fitted and all(fold.original is base.original for fold in base.folds)
        if is_same or len(self._samples.calibrating.feeds) > _MOST_REFITTED:
            return ()
        return tuple(
            next(
                (f.document for f in functions(own.original, fitted, self._settings) if f.change == function.change),
                function.document,
            )
            for own, fitted in zip(base.folds, start.folds, strict=True)
        )

    def _changed(self, base: Candidate, function: EqualFunction) -> Candidate:
        """A candidate of an equal function, with ranges by the method of the one that it was made from."""
        method = base.static.method
        candidate = self._builder.candidate(self._builder.calibrated(function, [method]), method)
        scores = {method: candidate.score.typical}
        return replace(candidate, changes=(*base.changes, function.change), methods=scores)

    def _try_solved_weights(self, best: Candidate) -> Candidate:
        """The better of a candidate and the same with solved weights; the latter where the user named the solver."""
        solve = partial(self._with_solved_weights, best)
        solved = self._budget.attempt("solved weights", solve) if self._settings.solver == AUTO else solve()
        if solved is None:
            return best
        self._scores[solved.title] = solved.score.typical
        return solved if self._settings.solver != AUTO or solved.score.typical > best.score.typical else best

    def _with_solved_weights(self, best: Candidate) -> Candidate:
        """A candidate with codes of weights that a solver has chosen; where it cannot, they are rounded to nearest."""
        feeds, progress, solver = self._solving, self._budget.progress, self._settings.weight_solver
        weights = solved_weights(best.model, self._rules, self._settings, feeds, progress)
        return replace(
            self._builder.solved(best, weights), changes=(*best.changes, f"solved by {solver}"), solver=solver
        )

    @property
    def _solving(self) -> Feeds:
        """The samples that solve weights: all but those of the fold that judges the codes."""
        samples = self._samples.calibrating
        return samples.others(samples.count - 1) if samples.count else samples.feeds

    def _with_room_for_pairs(self, best: Candidate) -> Candidate:
        """A candidate that loses little on CPUs without VNNI; the same one where it does not lose much."""
        pairs = self._builder.saturating(best)
        if not pairs:
            return best
        room = partial(self._builder.with_room_for_pairs, best)
        roomy = room({name: p.observed for name, p in pairs.items()})
        possible = self._budget.attempt(_ROOM, partial(room, {name: p.possible for name, p in pairs.items()}))
        if possible is not None and possible.score.typical > roomy.score.typical - FOR_CERTAINTY_DB:
            roomy = possible
        if self._settings.may_solve:
            starts = {name: roomy.plan.solved[name] for name in pairs if name in roomy.plan.solved}
            solved = self._budget.attempt(_ROOM, partial(self._solved_again, roomy, starts))
            is_named = self._settings.solver != AUTO
            if solved is not None and (is_named or solved.score.typical > roomy.score.typical):
                roomy = solved
        return roomy

    def _solved_again(self, candidate: Candidate, starts: Mapping[str, Encoded]) -> Candidate:
        """A candidate with solved codes of some weights, whose scales stay as they are."""
        feeds, progress = self._solving, self._budget.progress
        weights = solved_weights(candidate.model, self._rules, self._settings, feeds, progress, starts)
        return self._builder.solved(candidate, {**candidate.plan.solved, **weights})

    def _in_float(
        self, reason: FloatKernel, candidate: Candidate, names: Collection[str], *, in_folds: bool = True
    ) -> Candidate:
        """A candidate with some of its kernels in float, for one reason."""
        return self._builder.in_float(candidate, dict.fromkeys(names, reason), in_folds=in_folds)

    def _with_record(self, best: Candidate) -> ActivationPlan:
        """The plan of the best candidate, with the scores of the search for reports."""
        weights = dict.fromkeys(u.node.input[1] for u in best.model.placement.kernels)
        record = SearchRecord(
            methods=best.methods,
            functions=self._scores,
            calibrated=len(self._samples.calibrating.feeds),
            judged=len(self._runner.samples),
            folds=self._samples.calibrating.count,
            apart=self._samples.apart,
            unseen=self._builder.unseen(best),
            solver=best.solver,
            skipped=tuple(self._budget.skipped),
            not_solved=tuple(name for name in weights if name not in best.plan.solved) if best.solver else (),
        )
        activations = replace(best.static, search=record, histograms=best.model.histograms())
        return replace(best.plan, activations=activations)


def _is_lost(candidate: Candidate) -> bool:
    """Whether the outputs are lost; not where only some samples lose theirs, which other sources have not prepared."""
    return max(candidate.score.total, candidate.score.typical) < LOW_DB
