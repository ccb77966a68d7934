"""The time budget of the search: steps that would not fit are named and not begun."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from onnxquant.activations import time_budget
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.recipe.values import Effort


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Both clocks of the budget, in seconds."""
    now = {"wall": 100.0, "work": 7.0}
    clocks = SimpleNamespace(monotonic=lambda: now["wall"], process_time=lambda: now["work"])
    monkeypatch.setattr(time_budget, "time", clocks)
    return now


def spend(clock: dict[str, float], seconds: float, manager: Any) -> None:
    with manager:
        clock["wall"] += seconds
        clock["work"] += seconds


@pytest.mark.parametrize(
    ("effort", "a_pass", "seconds"),
    [(Effort.LOW, 1, 10), (Effort.LOW, 5, 20), (Effort.MEDIUM, 1, 60), (Effort.MEDIUM, 9, 180)],
)
def test_the_longer_of_seconds_and_passes_counts(
    effort: Effort, a_pass: float, seconds: float, clock: dict[str, float]
) -> None:
    budget = TimeBudget(effort)
    spend(clock, a_pass, budget.first_pass())
    assert budget.seconds == seconds and budget.left == seconds - a_pass


def test_a_step_as_long_as_the_longest_before_has_to_fit(clock: dict[str, float]) -> None:
    budget = TimeBudget(Effort.MEDIUM)
    spend(clock, 25, budget.step())
    assert budget.allows("second")
    spend(clock, 11, budget.step())
    assert not budget.allows("third") and budget.skipped == ["third"]


def test_other_work_on_the_machine_does_not_count(clock: dict[str, float]) -> None:
    budget = TimeBudget(Effort.LOW)
    clock["wall"] += 1000
    assert budget.left == 10


def test_high_effort_has_no_limit(clock: dict[str, float]) -> None:
    budget = TimeBudget(Effort.HIGH)
    spend(clock, 1e6, budget.step())
    assert budget.allows("more") and not budget.skipped
