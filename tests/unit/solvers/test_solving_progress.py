"""Progress of solving: one stage, the time that is left, and the folder that keeps what is solved."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from graphs import matmul, rng, save

import onnxquant
from onnxquant.convert import solve_weights
from onnxquant.convert.solve_weights import _SolvingProgress


class Display:
    """Stages with their parts, and lines."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, float]] = []
        self.lines: list[str] = []

    def __call__(self, stage: str, done: float, /) -> None:
        self.stages.append((stage, done))

    def announce(self, line: str, /) -> None:
        self.lines.append(line)


def solved(name: str) -> Any:
    return SimpleNamespace(name=name)


@pytest.mark.parametrize(("seconds", "is_kept", "told"), [(600.0, False, True), (60.0, False, False), (600.0, True, False)])
def test_the_folder_that_keeps_work_is_named_where_solving_is_long(
    monkeypatch: pytest.MonkeyPatch, seconds: float, is_kept: bool, told: bool
) -> None:
    """Of three weights of one size, a third of the inputs takes a twelfth of the time, and so does solving a weight."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(solve_weights, "time", SimpleNamespace(monotonic=lambda: clock.now))
    display = Display()
    telling = _SolvingProgress(display, {"a": 4, "b": 4, "c": 4}, is_kept=is_kept)
    for name, part in (("a", 1 / 3), ("b", 2 / 3), ("c", 1.0)):
        clock.now += seconds / 6
        telling.observed("weighing inputs", part)
        clock.now += seconds / 6
        telling.solved(solved(name))
    assert {stage for stage, _ in display.stages} == {"solving weights"}
    assert [round(6 * done) for _, done in display.stages] == [1, 2, 3, 4, 5, 6]
    assert [("solving takes about 8 min more; --work DIR" in line) for line in display.lines] == [True] * told


def test_without_samples_solving_is_all() -> None:
    display = Display()
    telling = _SolvingProgress(display, {"a": 1, "b": 3}, is_kept=False)
    telling.kept("a")
    telling.solved(solved("b"))
    assert display.stages == [("solving weights", 1.0)]


def test_gptq_is_one_stage_that_only_grows(tmp_path: Any) -> None:
    model = save(matmul(64, 48), tmp_path / "m.onnx")
    feeds = [{"x": rng(i).standard_normal((1, 3, 64)).astype(np.float32)} for i in range(4)]
    display = Display()
    onnxquant.quantize(model, tmp_path / "q.onnx", format="int4", solver="gptq", data=feeds, proof=False, progress=display)
    parts = [done for stage, done in display.stages if stage == "solving weights"]
    assert parts == sorted(parts) and parts[-1] == 1 and len(parts) >= 4
    assert not any(stage == "weighing inputs" for stage, _ in display.stages)
