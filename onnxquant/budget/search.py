"""The search for the formats of a model's weights under a bound on its size or its quality.

The loss of each weight in each format follows from its inputs (cheap, a Gram matrix). It is scaled by the noise that
encoding this weight alone in one format makes at the outputs (exact). Noises of single weights nearly add up, so the best
choice is a knapsack problem. Where they do not, running the choice shows it: noises are then measured again around that
choice, and formats are chosen anew.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxquant import runtime
from onnxquant.artifact import lowering
from onnxquant.budget.candidates import DEFAULT, changed_parameters, parse, spec_of
from onnxquant.budget.choices import CandidateTable, FormatChoice
from onnxquant.budget.loss_table import CandidateMeter
from onnxquant.budget.result import FormatSearchResult
from onnxquant.budget.sensitivity import FloatModel
from onnxquant.calibration.feeds import Feeds, Split, spread
from onnxquant.errors import ModelError, RecipeError
from onnxquant.formats.base import Format
from onnxquant.graph.sites import Site, find_sites
from onnxquant.json_data import JsonValue
from onnxquant.numerics.decibels import noise_share
from onnxquant.numerics.score import Judge, Score
from onnxquant.plan.context import Context
from onnxquant.plan.planner import first_matching_rule, make_plan
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import Recipe, Rule
from onnxquant.recipe.values import Drop
from onnxquant.solvers import jobs
from onnxquant.validation.metric import Metric

# Number of samples that noises are measured on, by the largest number of weights of the model.
_JUDGED_SAMPLES = ((10_000_000, 8), (100_000_000, 4), (math.inf, 2))
# Noises are measured again around a choice this many times.
_ROUNDS = 2
# The search for the smallest model that keeps a bound: its steps, its first bound where no --min-sqnr is given, and the ratio
# of the noises of a broken and a kept bound that is near enough.
_STEPS, _FIRST_DB, _CLOSE = 12, 25.0, 1.3


@dataclass(frozen=True)
class ChosenFormats:
    """The formats that a search chose.

    Attributes:
        rules: rules that give each weight its format
        result: the choices and their figures, for the report
        solved: weights that were solved on the way
        in_float: names of the weights that the search leaves in float
    """

    rules: Recipe
    result: FormatSearchResult
    solved: jobs.Results
    in_float: frozenset[str]


def search_formats(context: Context) -> ChosenFormats:
    """Rules that give each weight the format that suits the bound best.

    Rules before the last stay as they are. Formats are chosen for the weights that the last one decides.

    Args:
        context: context with the prepared model; some of its samples measure losses, the others judge choices

    Raises:
        RecipeError: there are no samples, or no choice of formats keeps the bound.
        FeedError: the samples do not fit.
    """
    if context.samples is None:
        raise RecipeError("a search for formats weighs them on samples that the model will see: give --data")
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        return _FormatSearcher(context, context.samples.for_calibration(context.document), Path(folder)).run()


class _QualityBound:
    """The bound on the quality of a choice: an SQNR, the user's metric, or both.

    Args:
        options: options of the run
        model: the float model
        judging: samples that judge the run
    """

    def __init__(self, options: Options, model: FloatModel, judging: Feeds) -> None:
        self._min_sqnr = options.min_sqnr
        self._metric = Metric(options.metric) if options.metric is not None else None
        # With a bound on the SQNR, choices are also scored on the proof's samples, so that it means the same figure there.
        self._proof_feeds = list(spread(judging, options.samples)) if options.min_sqnr is not None else []
        self._least = -math.inf
        with model.with_weights(()) as proto:
            session = model.session(proto)
            if self._metric is not None:
                self._least = Drop.parse(options.max_drop).least(self._metric(session))
            outputs = [runtime.run(session, feed) for feed in self._proof_feeds]
            self._judge = Judge(outputs, options.judge if outputs else ())

    def is_kept(self, session: runtime.Session, score: Score) -> bool:
        """Whether a model keeps it.

        Args:
            session: session on the model
            score: score of the model on the samples that judge choices
        """
        if self._min_sqnr is not None:
            if score.total < self._min_sqnr:
                return False
            outputs = [runtime.run(session, feed) for feed in self._proof_feeds]
            if self._judge.score(outputs).total < self._min_sqnr:
                return False
        return self._metric is None or self._metric(session) >= self._least

    def to_dict(self) -> dict[str, JsonValue]:
        """The bound on the metric as JSON data."""
        return {} if self._metric is None else {"metric": self._metric.name, "least": self._least}


class _FormatSearcher:
    """The search for one model.

    Args:
        context: context with the prepared model
        samples: samples that measure losses, and others that judge choices
        folder: folder for temporary files
    """

    def __init__(self, context: Context, samples: Split, folder: Path) -> None:
        self._context, self._options, self._document = context, context.options, context.document
        self._sites, self._skipped = find_sites(self._document)
        self._formats = parse(self._options.formats or DEFAULT)
        self._feeds = samples.calibrating
        judged = list(spread(samples.judging, _judged_samples(self._sites)))
        free = self._free_sites()
        self._model = FloatModel(self._document, judged, folder, self._options)
        self._meter = CandidateMeter(context, free, self._formats, self._rule, self._model, folder)
        self._is_bounded_in_bytes = self._options.budget_bpw is not None or self._options.max_size is not None
        self._quality = _QualityBound(self._options, self._model, samples.judging)

    def _free_sites(self) -> dict[str, Site]:
        """The sites that the last rule decides, by name."""
        rules = self._context.rules
        free = {}
        for site in self._sites:
            match = first_matching_rule(site, rules)
            if match is not None and match[0] == len(rules.rules) - 1 and not match[1].keep:
                free[site.name] = site
        if not free:
            raise ModelError(f"{self._document.name}: nothing to choose formats for: rules decide every weight")
        return free

    @property
    def _rule(self) -> Rule:
        """The rule of the free sites; its format does not count."""
        return self._context.rules.rules[-1]

    def run(self) -> ChosenFormats:
        """Measure, choose, run the choice, and measure again around it."""
        table = self._table()
        tried: list[FormatChoice] = []
        for attempt in range(_ROUNDS + 1):
            earlier = list(tried)
            choice = self._choose(table, tried)
            is_known = any(choice.formats == c.formats for c in earlier)
            if attempt == _ROUNDS or is_known or not choice.formats or not math.isfinite(choice.measured):
                break
            table = self._meter.remeasure_around(table, choice)
        best = self._best(tried)
        result = FormatSearchResult(
            asked=self._bounds(),
            formats=tuple(spec_of(f) for f in self._formats),
            chosen=best.figures(),
            tried=tuple(c.figures() for c in tried),
            front=tuple(c.figures() for c in table.front()),
            sensitivity=table.sensitivity(best),
        )
        in_float = frozenset(best.picked.keys() - best.formats.keys())
        return ChosenFormats(self._recipe(best), result, self._meter.solved(best), in_float)

    def _table(self) -> CandidateTable:
        """The candidates of every free site."""
        free = self._meter.free
        plan = make_plan(self._sites, self._skipped, self._context.rules, self._document.opset)
        fixed = [d for d in plan.decisions if d.name not in free]
        elements = sum(s.elements for s in free.values()) + sum(d.elements for d in fixed)
        return self._meter.table(self._feeds, sum(d.nbytes for d in fixed), elements)

    def _choose(self, table: CandidateTable, tried: list[FormatChoice]) -> FormatChoice:
        """The best choice by the figures known so far. Choices that are run on the way are added to ``tried``."""
        if not self._is_bounded_in_bytes:
            return self._smallest(table, tried)
        tried.append(self._measured(self._within_bytes(table)))
        return tried[-1]

    def _measured(self, choice: FormatChoice) -> FormatChoice:
        """The choice with the figures of a run."""
        with self._model.with_weights(self._meter.decoded_weights(choice)) as proto:
            session = self._model.session(proto)
            score = self._model.score_of(session)
            keeps = self._quality.is_kept(session, score)
        return replace(choice, measured=noise_share(score.criterion), keeps=keeps)

    def _within_bytes(self, table: CandidateTable) -> FormatChoice:
        """The best choice within the bound on bytes.

        Raises:
            RecipeError: every choice is larger.
        """
        if self._options.budget_bpw is not None:
            if choice := table.best(self._options.budget_bpw * table.elements / 8):
                return choice
            least = f"{8 * table.lightest() / table.elements:.3f} bits per weight"
        else:
            # Names, nodes and alignment are added to the weights; the plan knows how much.
            bound, least = self._options.max_bytes(), f"more than {table.lightest()} bytes"
            nbytes = float(bound)
            while choice := table.best(nbytes):
                size = self._file_bytes(choice)
                if size <= bound:
                    return choice
                nbytes = choice.nbytes - max(size - bound, 1)
                least = f"about {table.lightest() + size - choice.nbytes} bytes"
        raise RecipeError(
            f"no choice of {', '.join(map(spec_of, self._formats))} is as small as asked: the smallest has {least}; "
            "name smaller ones with --formats (formats=...), or allow more"
        )

    def _file_bytes(self, choice: FormatChoice) -> int:
        """Predicted file size of a choice."""
        plan = make_plan(self._sites, self._skipped, self._recipe(choice), self._document.opset)
        plan = replace(plan, origin=self._context.origin)
        data = self._options.data_files(self._context.original, Path("model.onnx"), nbytes=choice.nbytes)
        return lowering.predict(self._document, plan, data).nbytes

    def _smallest(self, table: CandidateTable, tried: list[FormatChoice]) -> FormatChoice:
        """The smallest choice that keeps the bound on quality, by bisection of the noise that is allowed."""
        allowed = noise_share(self._options.min_sqnr or _FIRST_DB)
        good, bad = 0.0, math.inf
        first = len(tried)
        for step in range(_STEPS):
            tried.append(self._measured(table.smallest(allowed)))
            if tried[-1].keeps:
                good = allowed
            else:
                bad = allowed
            self._context.progress("searching for the smallest", (step + 1) / _STEPS)
            if good and bad < _CLOSE * good:
                break
            allowed = math.sqrt(good * bad) if good and bad < math.inf else 4 * allowed if good else allowed / 4
        return self._best(tried[first:])

    def _best(self, tried: Sequence[FormatChoice]) -> FormatChoice:
        """The choice with the least noise; where quality is the bound, the smallest one that keeps it."""
        if self._is_bounded_in_bytes:
            return min(tried, key=lambda c: (not c.keeps, c.measured))
        good = [c for c in tried if c.keeps]
        return min(good, key=lambda c: (c.seconds, c.nbytes)) if good else min(tried, key=lambda c: c.measured)

    def _bounds(self) -> dict[str, JsonValue]:
        """The bounds by option, as JSON data."""
        options = self._options
        bounds = {"budget_bpw": options.budget_bpw, "max_size": options.max_size, "min_sqnr": options.min_sqnr}
        return {k: v for k, v in bounds.items() if v is not None} | self._quality.to_dict()

    def _recipe(self, choice: FormatChoice) -> Recipe:
        """Rules for a choice: the ones before the last, one per format, and one that keeps other weights in float."""
        groups: dict[Format | None, list[str]] = {}
        for name, candidate in choice.picked.items():
            groups.setdefault(candidate.decision.format, []).append(name)
        rules = [self._rule_for(form, names) for form, names in groups.items()]
        return Recipe((*self._context.rules.rules[:-1], *rules, replace(self._rule, keep=True)))

    def _rule_for(self, form: Format | None, names: Sequence[str]) -> Rule:
        """The rule that gives some weights a format; None: that keeps them in float."""
        include = (f"^(?:{'|'.join(re.escape(name) for name in names)})$",)
        if form is None:
            return Rule(include=include, keep=True)
        return Rule(
            include=include, format=form.name, parameters=changed_parameters(form),
            target=self._rule.target, solver=self._rule.solver, compute=self._rule.compute,
        )  # fmt: skip


def _judged_samples(sites: Sequence[Site]) -> int:
    """The number of samples that choices are judged on."""
    elements = sum(s.elements for s in sites)
    return next(count for most, count in _JUDGED_SAMPLES if elements <= most)
