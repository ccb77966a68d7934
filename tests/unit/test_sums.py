"""Residual Adds before a LayerNormalization become Sum; nothing else does."""

from __future__ import annotations

from pathlib import Path

import agreement
import numpy as np
import onnx
import pytest
from graphs import model, node, rng, weight

from onnxquant import runtime
from onnxquant.graph.io import load
from onnxquant.passes.simplify.sums import KeepSums

X = {name: rng(i).standard_normal((2, 5, 8)).astype(np.float32) for i, name in enumerate("ab")}


def build(nodes: list[onnx.NodeProto], *outputs: str, opset: int = 21) -> onnx.ModelProto:
    constants = {"w": weight(8, 8), "gain": weight(8), "shift": weight(8)}
    inputs = {name: ("float32", [2, 5, 8]) for name in X}
    return model(nodes, inputs, dict.fromkeys(outputs, "float32"), constants, opset=opset)


def residual(source: str) -> list[onnx.NodeProto]:
    return [
        node("MatMul", ["a", "w"], ["m"], name="product"),
        node("Add", ["m", source], ["s"], name="sum"),
        node("LayerNormalization", ["s", "gain", "shift"], ["y"], name="norm"),
    ]


def test_a_residual() -> None:
    document, note = agreement.check(build(residual("b"), "y"), KeepSums(), X)
    assert note == "1 Adds before a LayerNormalization written as Sum"
    assert agreement.ops(document) == {"MatMul": 1, "Sum": 1, "LayerNormalization": 1}


def test_onnxruntime_leaves_it_alone(tmp_path: Path) -> None:
    document = load(build(residual("b"), "y"))
    assert picked(document.proto, tmp_path)["com.microsoft.SkipLayerNormalization"] == 1
    KeepSums()(document)
    found = picked(document.proto, tmp_path)
    assert (found["Sum"], found["LayerNormalization"]) == (1, 1)


def picked(proto: onnx.ModelProto, folder: Path) -> dict[str, int]:
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return runtime.optimized_ops(path)


@pytest.mark.parametrize("nodes", {
    "a bias": residual("shift"),
    "read twice": [*residual("b"), node("Relu", ["s"], ["z"], name="again")],
    "not what is normalized": [
        node("Add", ["gain", "shift"], ["g"], name="sum"),
        node("LayerNormalization", ["a", "g", "shift"], ["y"], name="norm"),
    ],
}.values(), ids=str)  # fmt: skip
def test_adds_that_no_layer_normalization_follows_alone_stay_adds(nodes: list[onnx.NodeProto]) -> None:
    document, note = agreement.check(build(nodes, "y", *(["z"] if len(nodes) > 3 else [])), KeepSums(), X)
    assert note is None
    assert "Sum" not in agreement.ops(document)
