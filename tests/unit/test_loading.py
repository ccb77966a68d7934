"""What is said of files that are slow to load without our library: before they are written, and by ``info``."""

from __future__ import annotations

from pathlib import Path

import graphs
import pytest

from onnxquant import info, quantize
from onnxquant.artifact import loading

ROWS, COLS = 256, 96
CASES = [("nf4", "custom", True), ("q6_k", "custom", True), ("nf4", "ort", False), ("int4", "custom", False)]


class Display:
    """A display of progress that keeps the lines that are told before there is a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, list[str]()

    def __call__(self, stage: str, done: float, /) -> None:
        pass

    def announce(self, line: str, /) -> None:
        self.lines += [] if self.path.exists() else [line]


@pytest.mark.parametrize(("form", "target", "is_slow"), CASES)
def test_weights_that_bodies_decode_at_load_are_told_before_writing(
    form: str, target: str, is_slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_MANY_WEIGHTS", ROWS * COLS)
    source = graphs.save(graphs.matmul(ROWS, COLS), tmp_path / "float.onnx")
    display = Display(tmp_path / "q.onnx")
    report = quantize(source, display.path, format=form, target=target, proof=False, progress=display)
    sentence = f"{ROWS * COLS:,} weights are decoded whenever a session is created"
    told = [line for line in display.lines if sentence in line]
    assert len(told) == is_slow and set(told) <= set(report.notes)
    assert told == (info(display.path).notes or [])
    assert any("MatMulBnb4" in line for line in told) == (is_slow and form == "nf4")


@pytest.mark.parametrize(("form", "is_slow"), [("nf4", True), ("q4_1", True), ("int4", False)])
def test_tables_that_are_decoded_whole_at_load_are_told(
    form: str, is_slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_MANY_WEIGHTS", ROWS * ROWS)
    source = graphs.save(graphs.gather(ROWS, ROWS), tmp_path / "float.onnx")
    report = quantize(source, tmp_path / "q.onnx", format=form, target="custom", proof=False)
    assert any(f"{ROWS * ROWS:,} weights are decoded whenever" in note for note in report.notes) == is_slow


def test_few_weights_are_not_told(tmp_path: Path) -> None:
    source = graphs.save(graphs.matmul(ROWS, COLS), tmp_path / "float.onnx")
    assert quantize(source, tmp_path / "q.onnx", format="nf4", target="custom", proof=False).notes == []
