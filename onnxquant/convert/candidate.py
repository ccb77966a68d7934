"""Files that were made in one of the ways, and the measures that decide among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxquant.convert.ways import Way
from onnxquant.recipe.values import Goal
from onnxquant.report.data import Attempt, Verdict
from onnxquant.report.report import Report
from onnxquant.report.state import State
from onnxquant.report.units import size, smaller

# Files are equal in what a goal asks for if they differ by less.
EQUAL = 1.03


@dataclass
class Candidate:
    """A file that was made in one of the ways.

    Attributes:
        way: the way.
        report: the report on the file.
        recipe: the recipe that makes it again.
        seconds: time that it took.
        keeps: whether it keeps the bound on quality, on other samples, too.
        is_near: whether it keeps it on these samples alone.
        missed: the part of the bound that it misses, in few words; empty where it keeps it on these samples.
    """

    way: Way
    report: Report
    recipe: Path
    seconds: float
    keeps: bool
    is_near: bool = False
    missed: str = ""

    @property
    def speed(self) -> float:
        """Time of the original over its own."""
        return self.verdict.faster or 1.0

    @property
    def verdict(self) -> Verdict:
        """The verdict on the file."""
        return self.report.verdict

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.report.final_bytes or 0

    def attempt(self, objection: str, *, pareto: bool) -> Attempt:
        """The row of the table of attempts."""
        record = self.report.activations
        kernels = sum(1 for site in self.report.sites if site.decision.role)
        return Attempt(
            self.way.name, self.way.keywords, self.seconds, self.nbytes, self.verdict, objection, pareto,
            record.integer_kernels if record else 0, kernels,
        )  # fmt: skip


def _speed(candidate: Candidate) -> float:
    return candidate.speed


def _smallness(candidate: Candidate) -> float:
    return 1.0 / max(candidate.nbytes, 1)


def _balance(candidate: Candidate) -> float:
    return _speed(candidate) * _smallness(candidate)


SCORES: dict[Goal, tuple[Callable[[Candidate], float], Callable[[Candidate], float]]] = {
    Goal.FAST: (_speed, _smallness),
    Goal.SMALL: (_smallness, _speed),
    Goal.BALANCED: (_balance, _speed),
}
# What is worse about a candidate that loses by the first measure of a goal, and by the second.
WORSE = {
    Goal.FAST: ("slower", "as fast, but larger"),
    Goal.SMALL: ("larger", "as small, but slower"),
    Goal.BALANCED: ("gains less in speed and size together", "gains as much, but is slower"),
}
# What is worse about one that the winner equals but for what measurements scatter by.
HARDLY = {
    Goal.FAST: "hardly faster, but larger",
    Goal.SMALL: "hardly smaller, but slower",
    Goal.BALANCED: "gains hardly more, but is slower",
}
WORSE_OUTPUTS = {
    Goal.FAST: "smaller, but its outputs are worse",
    Goal.SMALL: "faster, but its outputs are worse",
    Goal.BALANCED: "faster, but its outputs are worse",
}
NO_BETTER = "no better than the chosen one"
# Which of two that are equal by the first measure wins.
SECOND = {Goal.FAST: "the smaller", Goal.SMALL: "the faster", Goal.BALANCED: "the faster"}
BEST = {Goal.FAST: "the fastest", Goal.SMALL: "the smallest", Goal.BALANCED: "the best in speed and size together"}


def first_of(candidates: Sequence[Candidate], goal: Goal) -> Candidate:
    """The best of some candidates for a goal.

    Figures that differ by less than ``EQUAL`` are equal: among those that equal the best by the first measure the second one
    decides, then the outputs, then the order. Whoever equals the best but for the last percent gives way to one that equals
    it, is better by the second measure, and has no worse outputs: no such file is called worse than the winner.
    """
    first, second = SCORES[goal]
    left = list(candidates)
    for score in (first, second):
        best = max(map(score, left))
        left = [c for c in left if score(c) * EQUAL >= best]
    winner = max(left, key=quality)
    while better := [c for c in candidates if _beats(c, winner, goal)]:
        winner = max(better, key=second)
    return winner


def _beats(candidate: Candidate, winner: Candidate, goal: Goal) -> bool:
    """Whether a candidate equals another by a goal's first measure, is better by the second, and has no worse outputs."""
    first, second = SCORES[goal]
    is_equal = first(candidate) * EQUAL >= first(winner)
    return is_equal and second(candidate) > EQUAL * second(winner) and quality(candidate) >= quality(winner)


def objection(candidate: Candidate, winner: Candidate, goal: Goal) -> str:
    """The reason why a candidate that keeps the bound is not the best."""
    first, second = SCORES[goal]
    if first(candidate) * EQUAL < first(winner):
        return WORSE[goal][0]
    if second(candidate) * EQUAL < second(winner):
        return HARDLY[goal] if first(candidate) > EQUAL * first(winner) else WORSE[goal][1]
    return WORSE_OUTPUTS[goal] if second(candidate) > EQUAL * second(winner) else NO_BETTER


def is_on_front(candidate: Candidate, keeping: Sequence[Candidate]) -> bool:
    """Whether no other file that keeps the bound is better in one measure, and no worse in the other."""
    return not any(
        (other.nbytes < candidate.nbytes and other.speed >= candidate.speed)
        or (other.nbytes <= candidate.nbytes and other.speed > candidate.speed)
        for other in keeping
    )


def quality(candidate: Candidate) -> tuple[bool, float]:
    """The measure of a file where none keeps the bound."""
    ratio = candidate.verdict.worst_sqnr_db
    return candidate.verdict.state is not State.FAILED, -1e9 if ratio is None else ratio


def is_all_in_float(report: Report) -> bool:
    """Whether a way with integer activations has left every kernel in float."""
    return report.activations is not None and report.activations.integer_kernels == 0


def loss(candidate: Candidate) -> str:
    """The reason why a candidate does not keep the bound."""
    if is_all_in_float(candidate.report):
        return "no kernel computes on integers"
    return "too near the bound" if candidate.is_near else candidate.missed or "loses too much"


def prospect(candidate: Candidate, goal: Goal) -> str:
    """The figures that a file would have, in words."""
    verdict = candidate.verdict
    parts = [f"{candidate.speed:.2f}x as fast"] if goal is not Goal.SMALL else []
    parts += [smaller(verdict.smaller)] if goal is not Goal.FAST and verdict.smaller else []
    figures = [] if verdict.worst_sqnr_db is None else [f"{verdict.worst_sqnr_db:.1f} dB"]
    figures += [verdict.answers_in_words] if verdict.judged_answers else []
    return f"{candidate.way.name} would be {' and '.join(parts)} with {', '.join(figures) or 'a lower metric'}"


def line(candidate: Candidate) -> str:
    """A finished candidate in one line."""
    verdict = candidate.verdict
    parts = [candidate.way.name, size(candidate.nbytes)]
    parts += [] if verdict.faster is None else [f"{verdict.faster:.2f}x as fast"]
    parts += [] if verdict.worst_sqnr_db is None else [f"{verdict.worst_sqnr_db:.1f} dB"]
    parts += [verdict.answers_in_words] if verdict.judged_answers else []
    return ", ".join([*parts, f"{candidate.seconds:.0f} s", "" if candidate.keeps else loss(candidate)]).removesuffix(", ")
