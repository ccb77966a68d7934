"""Exclusion leaves few kernels in float, and ends when the time is used up."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

import pytest
from graphs import node

from onnxquant.activations import time_budget
from onnxquant.activations.exclusion import exclude
from onnxquant.activations.op_kinds import OpKind
from onnxquant.activations.placement import Unit
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.numerics.score import Score
from onnxquant.recipe.values import Effort

# Decibels that each of twenty kernels in float gains; those that are not named gain nothing.
GAINS = {"y3": 4.0, "y7": 2.0, "y18": 1.0}
START_DB = 15.0


def candidate(names: Collection[str]) -> Any:
    units = [Unit(node("Conv", ["x", "w"], [f"y{i}"]), OpKind.KERNEL) for i in range(20)]
    ratio = START_DB + sum(GAINS.get(name, 0.0) for name in names)
    model = SimpleNamespace(placement=SimpleNamespace(kernels=units))
    return SimpleNamespace(model=model, names=set(names), score=Score(ratio, ratio))


@pytest.fixture
def excluded(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], tuple[set[str], float, list[str]]]:
    """A function of a goal and of the seconds of a candidate: the kernels in float, all seconds, and what was skipped."""
    now = {"seconds": 0.0}
    clock = SimpleNamespace(monotonic=lambda: now["seconds"], process_time=lambda: now["seconds"])
    monkeypatch.setattr(time_budget, "time", clock)

    def run(goal: float, seconds: float) -> tuple[set[str], float, list[str]]:
        budget = TimeBudget(Effort.MEDIUM)

        def leave_out(start: Any, names: Collection[str]) -> Any:
            now["seconds"] += seconds
            return candidate(names)

        best: Any = exclude(candidate(()), leave_out, lambda c: c.score.total >= goal, budget)
        return best.names, now["seconds"], budget.skipped

    return run


def test_only_the_kernels_that_the_goal_needs_are_left_in_float(excluded: Any) -> None:
    assert excluded(21.0, 0.1)[0] == {"y3", "y7"}
    assert excluded(15.0, 0.1)[0] == set()


def test_a_goal_that_is_out_of_reach_keeps_what_gains(excluded: Any) -> None:
    assert excluded(99.0, 0.1)[0] == set(GAINS)


@pytest.mark.parametrize(("seconds", "names"), [(2.5, {"y3", "y7", "y18"}), (5.0, {"y3", "y7"}), (200.0, set())])
def test_exclusion_ends_with_the_budget(seconds: float, names: set[str], excluded: Any) -> None:
    """In a minute three blocks and fifteen kernels are ranked and six tried; or three, six and three; or none."""
    left_in_float, spent, skipped = excluded(99.0, seconds)
    assert left_in_float <= names and ("y3" in left_in_float) == bool(names)
    assert spent <= max(60.0, seconds) + seconds and skipped == ["more kernels in float"]
