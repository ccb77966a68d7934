"""Contributions of sites to the error: against models in which that site alone was put back by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import node, weight
from rounded import sqnr_db

import onnxquant

X = graphs.rng(3).standard_normal((8, 24)).astype(np.float32)


def chain() -> onnx.ModelProto:
    """Two products of very different sensitivity."""
    constants = {"a": weight(24, 64), "b": weight(64, 16, seed=2)}
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "b"], ["y"])]
    return graphs.model(nodes, {"x": ("float32", ["n", 24])}, {"y": "float32"}, constants, 17)


def run(proto: onnx.ModelProto) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": x[None]})[0] for x in X]).astype(np.float64)


def test_weights_are_ranked_by_the_error_without_them(tmp_path: Path) -> None:
    source = graphs.save(chain(), tmp_path / "m.onnx")
    recipe = {"rules": [{"include": "^a$", "format": "int2", "block_size": 16, "solver": "rtn"}], "format": "int8"}
    onnxquant.quantize(source, tmp_path / "q.onnx", recipe=recipe, data={"x": X}, target="onnx")
    report = onnxquant.validate(source, tmp_path / "q.onnx", {"x": X}, samples=8, detailed=True)
    assert report.proof
    contributions = report.proof.contributions
    assert [c.name for c in contributions] == ["a", "b"]
    onnxquant.dequantize(tmp_path / "q.onnx", tmp_path / "d.onnx")
    decoded = onnx.load(tmp_path / "d.onnx")
    expected = run(chain())
    for entry in contributions:
        mixed = onnx.ModelProto()
        mixed.CopyFrom(decoded)
        float_one = next(t for t in chain().graph.initializer if t.name == entry.name)
        next(t for t in mixed.graph.initializer if t.name == entry.name).CopyFrom(float_one)
        assert entry.sqnr_db == pytest.approx(sqnr_db(expected, run(mixed)), abs=0.01)
        assert entry.gain_db == pytest.approx(entry.sqnr_db - sqnr_db(expected, run(decoded)), abs=0.01)
    assert contributions[0].share > 0.9 > 0.1 > contributions[1].share


def test_activations_are_ranked_by_the_error_without_them(tmp_path: Path) -> None:
    source = graphs.save(chain(), tmp_path / "m.onnx")
    data = {"x": graphs.rng(4).standard_normal((64, 24)).astype(np.float32)}
    onnxquant.quantize(source, tmp_path / "q.onnx", activations="static", data=data, calibration_method="minmax")
    report = onnxquant.validate(source, tmp_path / "q.onnx", data, samples=64, detailed=True)
    assert report.proof
    kinds = {(c.kind, c.name) for c in report.proof.contributions}
    assert {("weight", "a"), ("weight", "b"), ("activation", "x")} <= kinds
    shares = [c.share for c in report.proof.contributions]
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < sum(shares) < 1.5  # of errors that hardly depend on each other


def test_files_that_are_not_ours_have_no_contributions(tmp_path: Path) -> None:
    source = graphs.save(chain(), tmp_path / "m.onnx")
    report = onnxquant.validate(source, source, {"x": X}, detailed=True)
    assert report.proof and report.proof.contributions == []
