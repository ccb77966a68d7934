"""Layers of experts: their codes are read by onnxruntime's QMoE where that computes the same, or decoded at load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import model, node, rng, weight

import onnxquant
from onnxquant.graph.names import MICROSOFT

EXPERTS, HIDDEN, INNER = 4, 128, 192
X = rng(3).standard_normal((5, HIDDEN)).astype(np.float32)


def layer(activation: str = "swiglu", *, normalize: int = 1, third: bool = False) -> onnx.ModelProto:
    """A router and a layer of experts."""
    fused = activation == "swiglu"
    names = ["x", "scores", "w1", "b1", "w2", "b2", *(["w3"] if third else [])]
    moe = node(
        "MoE", names, ["y"], domain=MICROSOFT, k=2, activation_type=activation, swiglu_fusion=int(fused),
        normalize_routing_weights=normalize,
    )  # fmt: skip
    outputs = INNER * (1 + fused)
    constants = {
        "router": weight(HIDDEN, EXPERTS, seed=1), "w1": weight(EXPERTS, outputs, HIDDEN, seed=2),
        "b1": weight(EXPERTS, outputs, seed=3), "w2": weight(EXPERTS, HIDDEN, INNER, seed=4),
        "b2": weight(EXPERTS, HIDDEN, seed=5), "w3": weight(EXPERTS, INNER, HIDDEN, seed=6),
    }  # fmt: skip
    if not third:
        del constants["w3"]
    nodes = [node("MatMul", ["x", "router"], ["scores"]), moe]
    proto = model(nodes, {"x": ("float32", ["n", HIDDEN])}, {"y": "float32"}, constants)
    proto.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    return proto


def ops(path: Path) -> set[str]:
    return {n.op_type for n in onnx.load(path).graph.node}


def outputs(path: Path) -> Any:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


@pytest.mark.parametrize(
    ("options", "bits", "block"), [({"bits": 4}, 4, 32), ({}, 8, 32), ({"bits": 4, "block_size": 64}, 4, 64)], ids=str
)
def test_experts_run_on_codes(tmp_path: Path, options: dict[str, Any], bits: int, block: int) -> None:
    report = onnxquant.quantize(layer(), tmp_path / "q.onnx", samples=1, threads=1, **options)
    assert report.passed and {site.decision.name for site in report.encoded} >= {"w1", "w2"}
    moe = next(n for n in onnx.load(tmp_path / "q.onnx").graph.node if n.op_type == "QMoE")
    attributes = {a.name: a.i for a in moe.attribute}
    assert (attributes["expert_weight_bits"], attributes["block_size"], attributes["k"]) == (bits, block, 2)
    onnxquant.dequantize(tmp_path / "q.onnx", tmp_path / "float.onnx")
    assert "MoE" in ops(tmp_path / "float.onnx") and "QMoE" not in ops(tmp_path / "float.onnx")
    decoded, close = outputs(tmp_path / "float.onnx"), outputs(tmp_path / "q.onnx")
    assert np.square(decoded - close).mean() < (1e-3 if bits == 8 else 1e-9) * np.square(decoded).mean()
    assert onnxquant.validate(layer(), tmp_path / "q.onnx", threads=1).passed


@pytest.mark.parametrize(
    ("proto", "options"),
    [
        (layer("relu"), {"bits": 4}),
        (layer(normalize=0), {"bits": 4}),
        (layer(), {"bits": 4, "exclude": "w2"}),
        (layer(), {"bits": 4, "compute": "float"}),
        (layer(), {"format": "q4_0", "target": "custom"}),
    ],
    ids=["relu", "weights not normalized", "half a layer", "float", "custom"],
)
def test_other_layers_decode_their_weights_at_load(
    tmp_path: Path, proto: onnx.ModelProto, options: dict[str, Any]
) -> None:
    report = onnxquant.quantize(proto, tmp_path / "q.onnx", proof=False, **options)
    assert "w1" in {site.decision.name for site in report.encoded}
    assert "MoE" in ops(tmp_path / "q.onnx") and np.isfinite(outputs(tmp_path / "q.onnx")).all()


def test_layers_that_are_quantized_already_are_refused() -> None:
    qmoe = node("QMoE", ["x", "r", "c1", "s1", "", "c2", "s2"], ["y"], domain=MICROSOFT, k=1, activation_type="relu")
    codes = {name: np.full((EXPERTS, 32, 16), 7, np.uint8) for name in ("c1", "c2")}
    scales = {name: np.ones((EXPERTS, 32), np.float32) for name in ("s1", "s2")}
    shapes = {"x": ("float32", ["n", 32]), "r": ("float32", ["n", EXPERTS])}
    proto = model([qmoe], shapes, {"y": "float32"}, {**codes, **scales})
    proto.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    with pytest.raises(onnxquant.ModelError, match=r"quantized already \(1 QMoE\)"):
        onnxquant.quantize(proto, "q.onnx", proof=False)
