"""Kernels that are slower on integers go back to float, a kind at a time, where the file would be slower than the model."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import onnx
from graphs import node

from onnxquant.activations.slow_kernels import slow_kernels
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.recipe.values import Effort
from onnxquant.validation.latency import Interval

# Milliseconds of each kernel, in float and on integers, by its weight.
COSTS = {"step": (1.0, 3.0), "large": (40.0, 20.0), "odd": (2.0, 2.0)}
WEIGHTS = [
    onnx.TensorProto(name="step", dims=[8, 8]), onnx.TensorProto(name="large", dims=[512, 512]),
    onnx.TensorProto(name="odd", dims=[8, 64]),
]  # fmt: skip


def planned(counts: dict[str, int], in_float: Sequence[str] = ()) -> Any:
    """Milliseconds of the float model and of a plan with so many kernels on each weight."""
    names = [(w, y) for w, count in counts.items() for y in outputs(w, count)]
    before = sum(COSTS[w][0] for w, _ in names)
    after = sum(COSTS[w][0 if y in in_float else 1] for w, y in names)
    return SimpleNamespace(before=before, after=after)


def outputs(weight: str, count: int) -> list[str]:
    return [f"{weight}{i}" for i in range(count)]


def slow(counts: dict[str, int], noise: float = 1.0) -> tuple[str, ...]:
    """The kernels that are left in float where timings are only known within a factor."""

    def speedup(plan: Any, base: Any) -> Interval:
        ratio = (base.after if base else plan.before) / plan.after
        return Interval(ratio / noise, ratio * noise)

    kernels = [node("MatMul", ["x", w], [y]) for w, n in counts.items() for y in outputs(w, n)]
    return slow_kernels(kernels, WEIGHTS, lambda names: planned(counts, names), speedup, TimeBudget(Effort.HIGH))


def test_steps_of_a_recurrence_go_back_to_float() -> None:
    assert slow({"step": 20, "large": 1, "odd": 2}) == tuple(f"step{i}" for i in range(20))


def test_a_file_that_is_faster_in_all_stays_as_it_is() -> None:
    assert slow({"step": 5, "large": 1}) == ()


def test_kernels_that_would_not_gain_stay() -> None:
    assert slow({"odd": 3, "step": 2}) == ("step0", "step1")


def test_timings_that_are_not_certain_change_nothing() -> None:
    assert slow({"step": 2, "large": 1, "odd": 30}, noise=1.1) == ()
    assert slow({"step": 20, "large": 1, "odd": 2}, noise=2.0) == ()


def test_convolutions_are_of_one_kind_where_their_windows_are_alike() -> None:
    shapes = {"a": [8, 4, 3, 3], "b": [16, 8, 3, 3], "c": [16, 1, 3, 3], "d": [8, 16, 1, 1]}
    weights = [onnx.TensorProto(name=name, dims=dims) for name, dims in shapes.items()]
    kernels = [node("Conv", ["x", name], [f"y{name}"]) for name in shapes]
    trials: list[set[str]] = []

    def in_float(names: Sequence[str]) -> Any:
        trials.append(set(names))
        return names

    slow_kernels(kernels, weights, in_float, lambda plan, base: Interval(0.5, 0.5), TimeBudget(Effort.HIGH))
    assert trials == [set(), {"ya", "yb"}, {"yc"}, {"yd"}]
