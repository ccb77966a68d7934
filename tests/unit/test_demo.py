"""The demonstration: a search gives the best file for each goal, and the figures of a row agree with each other."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from rich.console import Console

import onnxquant
from onnxquant.report.data import Attempt, Choice, Verdict
from onnxquant.report.state import State

MODEL = ROOT / "models" / "default.onnx"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.delitem(sys.modules, "demo", raising=False)
    import demo

    return demo


def attempt(way: str, smaller: float, faster: float, *, pareto: bool) -> Attempt:
    verdict = Verdict(State.PASSED, smaller, faster, 30.0, "y", 1, 1, "")
    return Attempt(way, {"format": way}, 1.0, 100, verdict, pareto=pareto)


def test_each_goal_has_the_file_of_the_search_that_is_best_for_it(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    attempts = (
        attempt("int4", 6.0, 1.1, pareto=True), attempt("dynamic", 3.8, 2.5, pareto=True),
        attempt("static", 2.9, 3.0, pareto=True), attempt("int2", 9.0, 9.0, pareto=False),
    )  # fmt: skip
    calls: list[dict[str, Any]] = []

    def quantize(model: Path, output: Path, **options: Any) -> SimpleNamespace:
        calls.append({"output": output.name, **options})
        return SimpleNamespace(choice=Choice("fast", "", True, "static", attempts))

    monkeypatch.setattr(onnxquant, "quantize", quantize)
    files = demo.best_files(MODEL, tmp_path, [], "low")
    assert {f.way: f.goals for f in files} == {"static": ("fast",), "int4": ("small",), "dynamic": ("balanced",)}
    assert [(c["output"], c.get("format")) for c in calls] == [
        ("default.fast.onnx", None), ("default.small.onnx", "int4"), ("default.balanced.onnx", "dynamic"),
    ]  # fmt: skip


def test_the_figures_of_a_row_agree(demo: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "int4.onnx"
    onnxquant.quantize(MODEL, output, format="int4", proof=False)
    images = np.random.default_rng(0).random((40, 1, 28, 28), np.float32)
    stream = io.StringIO()
    Console(file=stream, width=80).print(demo.table_of(MODEL, [demo.File(("fast", "small"), "int4", output)], images))
    head, original, row, again = stream.getvalue().splitlines()
    assert len(head) <= 80 and head.split()[-1] == "same" and row.split()[2:] == again.split()[2:]
    before, after = (float(re.search(r"([\d.]+) ms", line)[1]) for line in (original, row))
    ratio = float(re.findall(r"([\d.]+)x", row)[1])
    assert ratio == pytest.approx(before / after, abs=0.02)
    same = float((demo.answers(MODEL, images) == demo.answers(output, images)).mean())
    assert row.endswith(f" {same:.2%}")
