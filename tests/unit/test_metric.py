"""The user's own metric: how it is found, what is asked of it, and what it decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import run as command
from graphs import node, weight

import onnxquant
from onnxquant.activations.placement import FOR_ACCURACY
from onnxquant.errors import RecipeError
from onnxquant.plan.activations import StaticRecord
from onnxquant.recipe.values import Drop
from onnxquant.validation.metric import Metric

X = graphs.rng(5).standard_normal((64, 1, 32)).astype(np.float32)


def classifier() -> onnx.ModelProto:
    constants = {"a": weight(32, 64), "b": weight(64, 8, seed=2)}
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["y"])]
    return graphs.model(nodes, {"x": ("float32", [1, 32])}, {"y": "float32"}, constants, 17)


def outputs(session: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([session.run(None, {"x": x})[0] for x in X])


EXPECTED = outputs(ort.InferenceSession(classifier().SerializeToString(), providers=["CPUExecutionProvider"]))


def accuracy(session: Any) -> float:
    return float((outputs(session).argmax(1) == EXPECTED.argmax(1)).mean())


@pytest.mark.parametrize(
    ("text", "value", "least"), [("0.5%", 0.8, 0.796), ("0", 0.8, 0.8), (0.01, 0.8, 0.79), ("10%", -2.0, -2.2)]
)
def test_the_least_value_that_a_drop_allows(text: str | float, value: float, least: float) -> None:
    assert Drop.parse(text).least(value) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "", "%", "a%", "1%%"])
def test_drops_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="max_drop is"):
        Drop.parse(text)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda session: 1 / 0, "fails with ZeroDivisionError"),
        (lambda session: "good", "fails with ValueError"),
        (lambda session: float("nan"), "gives nan, expected a finite number"),
        (lambda: 1.0, "fails with TypeError"),
    ],
)
def test_metrics_that_give_no_number_are_refused(function: Any, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Metric(function)(None)


@pytest.mark.parametrize(
    ("name", "says"), [("nowhere", "expected module:function"), ("math:nothing", "has no"), ("math:pi", "is ")]
)
def test_names_of_metrics_that_lead_nowhere_are_refused(name: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Metric(name)


def test_a_metric_that_drops_too_far_fails_the_proof(tmp_path: Path) -> None:
    source = graphs.save(classifier(), tmp_path / "m.onnx")
    options: dict[str, Any] = {"data": {"x": X}, "metric": accuracy, "format": "int2", "block_size": 16, "target": "onnx"}
    report = onnxquant.quantize(source, tmp_path / "q.onnx", max_drop="1%", **options)
    assert report.proof
    metric = report.proof.metric
    assert metric and metric.original == 1.0
    assert metric.least == pytest.approx(0.99)
    assert metric.quantized == pytest.approx(accuracy(onnxquant.load(tmp_path / "q.onnx")))
    assert metric.quantized < 0.99 and not report.passed
    assert "metric accuracy is" in report.problems[0]
    again = onnxquant.validate(source, tmp_path / "q.onnx", {"x": X}, metric=accuracy, max_drop=1.0)
    assert again.passed


def test_a_metric_decides_what_stays_in_float(tmp_path: Path) -> None:
    source = graphs.save(classifier(), tmp_path / "m.onnx")
    options: dict[str, Any] = {"data": {"x": X[:, 0]}, "activations": "static", "calibration_method": "minmax"}
    options |= {"auto_exclude": True, "min_sqnr": 0.0}

    def error(session: Any) -> float:
        return float(-np.abs(outputs(session) - EXPECTED).max())

    plain = onnxquant.quantize(source, tmp_path / "q.onnx", metric=error, max_drop=1e9, **options)
    assert plain.proof and not plain.proof.problems
    assert isinstance(plain.activations, StaticRecord)
    assert FOR_ACCURACY.reason not in plain.activations.left_in_float.values()
    assert plain.proof.metric
    allowed = -0.8 * plain.proof.metric.quantized
    better = onnxquant.quantize(source, tmp_path / "p.onnx", metric=error, max_drop=allowed, **options)
    assert better.proof and not better.proof.problems  # so small a file may be no faster, and larger
    assert isinstance(better.activations, StaticRecord)
    assert list(better.activations.left_in_float.values()) == [FOR_ACCURACY.reason]
    assert better.activations.excluded == tuple(better.activations.left_in_float)
    infos = [onnxquant.info(tmp_path / name).activations for name in ("q.onnx", "p.onnx")]
    assert [i.excluded for i in infos if i] == [0, 1]
    assert -error(onnxquant.load(tmp_path / "p.onnx")) <= allowed < -error(onnxquant.load(tmp_path / "q.onnx"))


def test_a_metric_that_fails_does_so_before_any_work(tmp_path: Path) -> None:
    stages: list[str] = []
    with pytest.raises(RecipeError, match="fails with ZeroDivisionError"):
        onnxquant.quantize(
            classifier(), tmp_path / "q.onnx", metric=lambda session: 1 / 0, progress=lambda stage, part: stages.append(stage)
        )
    assert stages == [] and not list(tmp_path.iterdir())


def test_the_command_line_takes_a_metric_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = graphs.save(classifier(), tmp_path / "m.onnx")
    (tmp_path / "judge.py").write_text("def good(session):\n    return len(session.get_inputs())\n")
    monkeypatch.chdir(tmp_path)
    done = command("quantize", str(source), "-o", "q.onnx", "--metric", "judge:good")
    assert done.exit_code == 0, done.output
    assert "judge:good" in done.output
    done = command("quantize", str(source), "-o", "q2.onnx", "--metric", "judge:bad")
    assert done.exit_code == 2 and "good" in done.output
