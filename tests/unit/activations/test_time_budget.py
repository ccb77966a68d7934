"""The time budget of the search: steps end when it is used up, and are named."""

from __future__ import annotations

from types import SimpleNamespace

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


def spend(clock: dict[str, float], seconds: float) -> float:
    clock["wall"] += seconds
    clock["work"] += seconds
    return seconds


@pytest.mark.parametrize(
    ("effort", "a_pass", "seconds"),
    [(Effort.LOW, 1, 10), (Effort.LOW, 5, 20), (Effort.MEDIUM, 1, 60), (Effort.MEDIUM, 9, 180)],
)
def test_the_longer_of_seconds_and_passes_counts(
    effort: Effort, a_pass: float, seconds: float, clock: dict[str, float]
) -> None:
    budget = TimeBudget(effort)
    with budget.first_pass():
        spend(clock, a_pass)
    assert budget.seconds == seconds and budget.left == seconds - a_pass


def test_a_step_is_not_begun_once_the_time_is_used_up(clock: dict[str, float]) -> None:
    budget = TimeBudget(Effort.MEDIUM)
    assert budget.attempt("first", lambda: spend(clock, 61)) == 61
    assert budget.attempt("second", lambda: spend(clock, 1)) is None
    assert clock["wall"] == 161 and budget.skipped == ["second"]


def test_a_long_step_is_broken_off_at_its_next_sample(clock: dict[str, float]) -> None:
    budget = TimeBudget(Effort.LOW)

    def step() -> None:
        for i in range(1000):
            budget.progress("calibrating", i / 1000)
            spend(clock, 1)

    assert budget.attempt("long", step) is None
    assert clock["wall"] == 110 and budget.skipped == ["long"]


def test_what_the_result_needs_is_never_broken_off(clock: dict[str, float]) -> None:
    stages: list[str] = []
    budget = TimeBudget(Effort.LOW, lambda stage, done: stages.append(stage))
    with budget.first_pass():
        spend(clock, 1)
        budget.progress("calibrating", 0.5)
    spend(clock, 3)
    budget.progress("scoring", 0.5)
    spend(clock, 40)
    budget.progress("scoring", 1.0)
    assert stages == ["calibrating", "scoring, at most 6 s left", "scoring, the last step: the time is over"]


def test_the_time_left_is_that_of_passes_over_slow_samples_on_a_busy_machine(clock: dict[str, float]) -> None:
    stages: list[str] = []
    budget = TimeBudget(Effort.MEDIUM, lambda stage, done: stages.append(stage))
    with budget.first_pass():
        clock["wall"] += 40
        clock["work"] += 20
    with budget.limited_to(0.5):
        budget.progress("scoring", 0.5)
    assert stages == ["scoring, at most 13 min left"]


def test_time_is_kept_for_later_steps(clock: dict[str, float]) -> None:
    budget = TimeBudget(Effort.MEDIUM)
    with budget.limited_to(0.5):
        spend(clock, 31)
        assert budget.attempt("early", lambda: True) is None
    assert budget.attempt("late", lambda: True) and budget.left == 29


def test_other_work_on_the_machine_counts_only_beyond_twice_the_time(clock: dict[str, float]) -> None:
    budget = TimeBudget(Effort.LOW)
    clock["wall"] += 8
    clock["work"] += 4
    assert budget.left == 6
    clock["wall"] += 12
    assert budget.left == 0


def test_high_effort_has_no_limit(clock: dict[str, float]) -> None:
    stages: list[str] = []
    budget = TimeBudget(Effort.HIGH, lambda stage, done: stages.append(stage))
    assert budget.attempt("first", lambda: spend(clock, 1e6)) and budget.attempt("more", lambda: True)
    budget.progress("calibrating", 1.0)
    assert stages == ["calibrating"]
