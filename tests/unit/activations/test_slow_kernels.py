"""Kernels that are slower on integers go back to float, a kind at a time, where the file would be slower than the model."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import onnx
from graphs import node

from onnxquant.activations.op_kinds import OpKind
from onnxquant.activations.placement import Unit
from onnxquant.activations.slow_kernels import slow_kernels
from onnxquant.validation.latency import ORIGINAL, QUANTIZED, Latency

# Milliseconds of each kernel, in float and on integers, by its weight.
COSTS = {"step": (1.0, 3.0), "large": (40.0, 20.0), "odd": (2.0, 2.0)}
WEIGHTS = [
    onnx.TensorProto(name="step", dims=[8, 8]), onnx.TensorProto(name="large", dims=[512, 512]),
    onnx.TensorProto(name="odd", dims=[8, 64]),
]  # fmt: skip


def candidate(counts: dict[str, int], in_float: Sequence[str] = ()) -> Any:
    """A candidate with so many kernels on each weight."""
    names = [(w, f"{w}{i}") for w, count in counts.items() for i in range(count)]
    units = [Unit(node("MatMul", ["x", w], [y]), OpKind.KERNEL) for w, y in names]
    before = sum(COSTS[w][0] for w, _ in names)
    after = sum(COSTS[w][0 if y in in_float else 1] for w, y in names)
    return SimpleNamespace(placement=SimpleNamespace(kernels=units), ratio=before / after)


def slow(counts: dict[str, int]) -> tuple[str, ...]:
    def measured(trial: Any) -> Latency:
        ratio = {ORIGINAL: 1.0, QUANTIZED: trial.ratio}
        return Latency({ORIGINAL: 1.0, QUANTIZED: 1.0 / trial.ratio}, ratio, 11, 1)

    return slow_kernels(candidate(counts), WEIGHTS, measured, lambda names: candidate(counts, names))


def test_steps_of_a_recurrence_go_back_to_float() -> None:
    assert slow({"step": 20, "large": 1, "odd": 2}) == tuple(f"step{i}" for i in range(20))


def test_a_file_that_is_faster_in_all_stays_as_it_is() -> None:
    assert slow({"step": 5, "large": 1}) == ()


def test_kernels_that_would_not_gain_stay() -> None:
    assert slow({"odd": 3, "step": 2}) == ("step0", "step1")
