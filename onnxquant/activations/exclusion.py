"""Exclusion: the kernels that have to stay in float for a goal."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial

from onnxquant.activations.candidate import Candidate
from onnxquant.activations.candidates import CandidateRunner
from onnxquant.activations.plan import ActivationPlan
from onnxquant.activations.settings import AccuracyGoal
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.graph.io import Document
from onnxquant.validation.metric import Metric

# The gain in decibels that leaving one more kernel in float must bring.
_WORTHWHILE_DB = 0.1
# The part of the time after which kernels are no longer ranked.
_RANKING = 0.75
# Kernels that are left in float together to see where the gains are.
_BLOCK = 8
_TITLE = "more kernels in float"


LeaveOut = Callable[[Candidate, Collection[str]], Candidate]


def exclude(
    start: Candidate,
    leave_out: LeaveOut,
    is_enough: Callable[[Candidate], bool],
    budget: TimeBudget,
    leave_out_quickly: LeaveOut | None = None,
) -> Candidate:
    """Leave as few kernels in float as the goal needs, as far as there is time.

    Each kernel is first left in float alone. Those that gain most are then tried first; each stays in float if it
    gains something in addition to those before. In the end, kernels that later ones made superfluous are taken back.

    Args:
        start: the candidate to begin with.
        leave_out: a function that leaves kernels of a candidate in float.
        is_enough: a function that tells whether a candidate reaches the goal.
        budget: time budget.
        leave_out_quickly: the same with scores that only compare with each other; None: that function.
    """
    if is_enough(start):
        return start

    def trial(names: Collection[str]) -> Candidate | None:
        return budget.attempt(_TITLE, partial(leave_out, start, names))

    def ranking(names: Collection[str]) -> Candidate | None:
        return budget.attempt(_TITLE, partial(leave_out_quickly or leave_out, start, names))

    best, excluded, enough = start, list[str](), False
    for name in _ranked(start, ranking, budget):
        candidate = trial([*excluded, name])
        if candidate is None:
            return best
        if candidate.score.typical >= best.score.typical + _WORTHWHILE_DB:
            best, excluded = candidate, [*excluded, name]
            if enough := is_enough(best):
                break
    for name in list(excluded[:-1]) if enough else []:
        fewer = [n for n in excluded if n != name]
        candidate = trial(fewer)
        if candidate is not None and is_enough(candidate):
            best, excluded = candidate, fewer
    return best


def _ranked(start: Candidate, trial: Callable[[Collection[str]], Candidate | None], budget: TimeBudget) -> list[str]:
    """First outputs of all kernels, those first that gain most. Blocks of kernels tell where to begin."""
    kernels = [u.node.output[0] for u in start.model.placement.kernels]
    blocks = [kernels[i : i + _BLOCK] for i in range(0, len(kernels), _BLOCK)]
    with budget.limited_to(_RANKING):
        if len(blocks) > 2:
            blocks = _by_gain(blocks, trial, budget)
        singles = _by_gain([[name] for block in blocks for name in block], trial, budget)
    return [name for (name,) in singles]


def _by_gain(
    groups: list[list[str]], trial: Callable[[Collection[str]], Candidate | None], budget: TimeBudget
) -> list[list[str]]:
    """Groups of kernels, those first that gain most in float, and those at the end that there was no time for."""
    gains: list[float] = []
    for group in groups:
        candidate = trial(group)
        if candidate is None:
            break
        gains.append(candidate.score.typical)
        budget.progress("ranking kernels", len(gains) / len(groups))
    order = sorted(range(len(gains)), key=lambda i: gains[i], reverse=True)
    return [groups[i] for i in order] + groups[len(gains) :]


def goal_test(goal: AccuracyGoal, document: Document, runner: CandidateRunner) -> Callable[[Candidate], bool]:
    """A function that tells whether a candidate reaches a goal.

    Args:
        goal: the goal.
        document: the float model, which the metric's loss refers to.
        runner: runner of the candidates.
    """
    ratio = -math.inf if goal.min_sqnr_db is None else goal.min_sqnr_db
    if goal.metric is None:
        return lambda candidate: candidate.score.total >= ratio
    metric = Metric(goal.metric)
    with runner.session(ActivationPlan(document)) as session:
        least = goal.max_drop.least(metric(session))

    def reaches(candidate: Candidate) -> bool:
        if candidate.score.total < ratio:
            return False
        with runner.session(candidate.plan) as session:
            return metric(session) >= least

    return reaches
