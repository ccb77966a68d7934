"""Kernels that are slower on integers go back to float, a kind at a time, where the file would be slower than the model."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
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


def slow(counts: dict[str, int], noise: float = 1.0, with_library: float = 1.0) -> tuple[str, ...]:
    """The kernels that are left in float.

    Args:
        counts: number of kernels on each weight.
        noise: factor that timings are known within.
        with_library: speed of the file with kernels in float beside that without, with our library.
    """

    def speedup(plan: Any, base: Any) -> Interval:
        ratio = (base.after if base else plan.before) / plan.after
        return Interval(ratio / noise, ratio * noise)

    kernels = [node("MatMul", ["x", w], [y]) for w, n in counts.items() for y in outputs(w, n)]
    beside = Interval(with_library, with_library)
    return slow_kernels(
        kernels, WEIGHTS, lambda names: planned(counts, names), speedup, TimeBudget(Effort.HIGH), lambda plan, base: beside
    )


def test_steps_of_a_recurrence_go_back_to_float() -> None:
    assert slow({"step": 20, "large": 1, "odd": 2}) == tuple(f"step{i}" for i in range(20))


def test_a_file_that_is_faster_in_all_stays_as_it_is() -> None:
    assert slow({"step": 5, "large": 1}) == ()


@pytest.mark.parametrize("with_library", [1.0, 0.9])
def test_where_the_file_gains_little_kernels_that_our_library_is_fast_at_stay(with_library: float) -> None:
    little = slow({"step": 8, "large": 1}, with_library=with_library)  # 1.09 times as fast
    assert little == (() if with_library < 1 else tuple(f"step{i}" for i in range(8)))
    slower = slow({"step": 20, "large": 1}, with_library=with_library)
    assert slower == tuple(f"step{i}" for i in range(20))


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

    def half(plan: Any, base: Any) -> Interval:
        return Interval(0.5, 0.5)

    slow_kernels(kernels, weights, in_float, half, TimeBudget(Effort.HIGH), half)
    assert trials == [set(), {"ya", "yb"}, {"yc"}, {"yd"}]
