"""The formats of a model's weights under a bound on its size or its quality.

Each weight's loss in each format is weighed by its inputs (cheap, a Gram matrix), and scaled by what encoding that weight
alone in one format does to the outputs (exact). Noises of single weights nearly add up, so the best choice is a knapsack
problem. Where they do not, that shows when the choice is run: weights are then weighed again in its midst, and chosen anew.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxquant import runtime
from onnxquant.artifact import lowering
from onnxquant.budget.candidates import DEFAULT, parse, spec_of
from onnxquant.budget.choices import Choice, Table
from onnxquant.budget.loss_table import Weighing
from onnxquant.budget.result import FormatSearchResult
from onnxquant.budget.sensitivity import Sensitivity
from onnxquant.calibration.feeds import Chosen, Feeds, held_out
from onnxquant.errors import ModelError, RecipeError
from onnxquant.formats.base import Format
from onnxquant.graph.sites import Site, find
from onnxquant.json_data import JsonValue
from onnxquant.numerics.decibels import noise_share
from onnxquant.numerics.score import closeness
from onnxquant.plan.context import Context
from onnxquant.plan.planner import first_matching_rule, make_plan
from onnxquant.recipe.rules import Recipe, Rule
from onnxquant.recipe.values import Drop
from onnxquant.solvers import jobs
from onnxquant.validation.metric import Metric

# Samples that noises are measured on: of models with at most so many weights, and of larger ones.
_JUDGED = ((10_000_000, 8), (100_000_000, 4), (math.inf, 2))
# How many times a choice is weighed in its midst.
_ROUNDS = 2
# Steps of the search for the smallest model that keeps a bound, where it begins without --min-sqnr, how near it must come.
_STEPS, _FIRST_DB, _CLOSE = 12, 25.0, 1.3


@dataclass(frozen=True)
class FormatSearch:
    """The result of a search.

    Attributes:
        rules: rules that give each weight its format
        result: the choices and their figures, for the report
        solved: weights that were solved on the way
    """

    rules: Recipe
    result: FormatSearchResult
    solved: jobs.Results


def search_formats(context: Context) -> FormatSearch:
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
        return _Search(context, context.samples.for_calibration(context.document), Path(folder)).run()


class _Search:
    def __init__(self, context: Context, feeds: Feeds, folder: Path) -> None:
        self.document, self.rules, self.settings = context.document, context.rules, context.options
        self.progress = context.progress
        document, rules, settings = self.document, self.rules, self.settings
        self.found = sites, _ = find(document)
        count = _judged(sites)
        self.feeds, judged = held_out(feeds, count)
        # Whoever asks for a quality will look at what the proof says: its samples are judged too.
        self.proven = list(Chosen(feeds, range(settings.samples)))
        self.forms = parse(settings.formats or DEFAULT)
        last = len(rules.rules) - 1
        found = {s.name: (s, first_matching_rule(s, rules)) for s in sites}
        free = {n: s for n, (s, rule) in found.items() if rule and rule[0] == last and not rule[1].keep}
        if not free:
            raise ModelError(f"{document.name}: nothing to choose formats for: rules decide every weight")
        self.sensitivity = Sensitivity(document, list(Chosen(judged, range(count))), folder, settings.threads)
        self.weighing = Weighing(document, free, self.forms, self.rule, self.sensitivity, context, folder)
        self._bytes_bound = settings.budget_bpw is not None or settings.max_size is not None
        self._metric = Metric(settings.metric) if settings.metric is not None else None
        self._least, self._expected = -math.inf, list[dict[str, Any]]()
        with self.sensitivity.stored(()) as proto:
            session = self.sensitivity.session(proto)
            if self._metric is not None:
                self._least = Drop.parse(settings.max_drop).least(self._metric(session))
            if settings.min_sqnr is not None:
                self._expected = [runtime.run(session, feed) for feed in self.proven]

    @property
    def rule(self) -> Rule:
        """What holds for every free site but its format."""
        return self.rules.rules[-1]

    def run(self) -> FormatSearch:
        """Weigh, choose, run, weigh again."""
        table = self._table()
        tried: list[Choice] = []
        for attempt in range(_ROUNDS + 1):
            before = len(tried)
            choice = self._choose(table, tried)
            known = any(choice.forms == c.forms for c in tried[:before])
            if attempt == _ROUNDS or known or not choice.forms or not math.isfinite(choice.measured):
                break
            table = self.weighing.amid(table, choice)
        best = self._best(tried)
        result = FormatSearchResult(
            asked=self._asked(),
            formats=tuple(spec_of(f) for f in self.forms),
            chosen=best.figures(),
            tried=tuple(c.figures() for c in tried),
            front=tuple(c.figures() for c in table.front()),
            sensitivity=table.sensitivity(best),
        )
        return FormatSearch(self._recipe(best), result, self.weighing.solved(best))

    def _table(self) -> Table:
        """Every free site's candidates."""
        sites, left = self.found
        fixed = [
            d
            for d in make_plan(sites, left, self.rules, self.document.opset).decisions
            if d.name not in self.weighing.free
        ]
        elements = sum(s.elements for s in self.weighing.free.values()) + sum(d.elements for d in fixed)
        return self.weighing.table(self.feeds, sum(d.nbytes for d in fixed), elements)

    def _measured(self, choice: Choice) -> Choice:
        """The choice with what running it says."""
        bound = self.settings.min_sqnr
        with self.sensitivity.stored(self.weighing.encoded(choice)) as proto:
            session = self.sensitivity.session(proto)
            score = self.sensitivity.score_of(session)
            keeps = bound is None or score.total >= bound
            if keeps and bound is not None:
                keeps = closeness(self._expected, [runtime.run(session, f) for f in self.proven]).total >= bound
            if keeps and self._metric is not None:
                keeps = self._metric(session) >= self._least
        return replace(choice, measured=noise_share(score.judged), keeps=keeps)

    def _choose(self, table: Table, tried: list[Choice]) -> Choice:
        """The best choice by what is known so far; those that were run are added to ``tried``."""
        if not self._bytes_bound:
            return self._smallest(table, tried)
        tried.append(self._measured(self._within(table)))
        return tried[-1]

    def _within(self, table: Table) -> Choice:
        """The best choice within the bound on bytes."""
        if self.settings.budget_bpw is not None:
            if found := table.best(self.settings.budget_bpw * table.elements / 8):
                return found
            least = f"{8 * table.lightest() / table.elements:.3f} bits per weight"
        else:
            # Names, nodes and alignment come on top of the weights: how much, the plan says.
            nbytes, least = float(self.settings.max_bytes()), ""
            while found := table.best(nbytes):
                size = self._file_bytes(found)
                if size <= self.settings.max_bytes():
                    return found
                nbytes = found.nbytes - max(size - self.settings.max_bytes(), 1)
                least = f"about {table.lightest() + size - found.nbytes} bytes"
            least = least or f"more than {table.lightest()} bytes"
        raise RecipeError(
            f"no choice of {', '.join(map(spec_of, self.forms))} is as small as asked: the smallest has {least}"
        )

    def _file_bytes(self, choice: Choice) -> int:
        """Of the file that the choice would become."""
        plan = make_plan(*self.found, self._recipe(choice), self.document.opset)
        external = self.settings.is_external(already=self.document.is_external(), nbytes=choice.nbytes)
        return lowering.predict(self.document, plan, "model.onnx", external=external)

    def _smallest(self, table: Table, tried: list[Choice]) -> Choice:
        """The smallest choice that keeps the bound on quality: by bisection of the noise that is allowed."""
        allowed = noise_share(self.settings.min_sqnr or _FIRST_DB)
        kept, broken = 0.0, math.inf
        begin = len(tried)
        for step in range(_STEPS):
            found = table.smallest(allowed)
            assert found  # staying in float makes no noise
            tried.append(self._measured(found))
            if tried[-1].keeps:
                kept = allowed
            else:
                broken = allowed
            self.progress("searching for the smallest", (step + 1) / _STEPS)
            if kept and broken < _CLOSE * kept:
                break
            allowed = math.sqrt(kept * broken) if kept and broken < math.inf else 4 * allowed if kept else allowed / 4
        return self._best(tried[begin:])

    def _best(self, tried: Sequence[Choice]) -> Choice:
        """The least noise; where quality is the bound the smallest that keeps it."""
        if self._bytes_bound:
            return min(tried, key=lambda c: (not c.keeps, c.measured))
        good = [c for c in tried if c.keeps]
        return min(good, key=lambda c: (c.seconds, c.nbytes)) if good else min(tried, key=lambda c: c.measured)

    def _asked(self) -> dict[str, JsonValue]:
        s = self.settings
        given = {"budget_bpw": s.budget_bpw, "max_size": s.max_size, "min_sqnr": s.min_sqnr}
        if self._metric is not None:
            given |= {"metric": self._metric.name, "least": self._least}
        return {k: v for k, v in given.items() if v is not None}

    def _recipe(self, choice: Choice) -> Recipe:
        """The rules before the last, one per format for the weights that get it, and one that keeps the others in float."""
        groups: dict[Format | None, list[str]] = {}
        for name, candidate in choice.picked.items():
            groups.setdefault(candidate.decision.format, []).append(name)
        made = []
        for form, names in groups.items():
            pattern = "|".join(re.escape(n) for n in names)
            about: dict[str, Any] = {"include": (f"^(?:{pattern})$",), "keep": form is None}
            if form is not None:
                given = {p: v for p in form.parameters() if (v := form.settings().get(p)) is not None}
                about |= {
                    "format": form.name,
                    "parameters": given,
                    "target": self.rule.target,
                    "solver": self.rule.solver,
                    "compute": self.rule.compute,
                }
            made.append(Rule(**about))
        return Recipe((*self.rules.rules[:-1], *made, replace(self.rule, keep=True)))


def _judged(sites: Sequence[Site]) -> int:
    elements = sum(s.elements for s in sites)
    return next(count for most, count in _JUDGED if elements <= most)
