"""Conversions in optimized graphs, each with its reason."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from graphs import node, weight
from rounded import static

from onnxquant import runtime
from onnxquant.numerics.difference import Difference
from onnxquant.plan.activations import StaticRecord
from onnxquant.report import rows
from onnxquant.report.data import ReportData
from onnxquant.report.warnings import activation_warnings
from onnxquant.validation.leftover_conversions import conversions
from onnxquant.validation.proof import Proof, RunOps
from onnxquant.validation.saturation import SaturationLoss

FEED = {"x": graphs.rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)}


def graph(*between: onnx.NodeProto) -> onnx.ModelProto:
    """A graph that onnxruntime might have left: Q -> QLinear... -> DQ, with nodes of ours between."""
    constants = {"s": np.float32(0.1), "z": np.uint8(3), "r": np.float32(0.2)}
    return graphs.model(list(between), {"x": ("float32", [1, 4])}, {"y": "float32"}, constants)


@pytest.mark.parametrize(
    ("nodes", "reasons"),
    [
        (
            [node("QuantizeLinear", ["x", "s", "z"], ["c"]), node("DequantizeLinear", ["c", "s", "z"], ["y"])],
            ["the model's input arrives in float", "the model's output is float"],
        ),
        (
            [
                node("Erf", ["x"], ["e"]),
                node("QuantizeLinear", ["e", "s", "z"], ["c"]),
                node("Flatten", ["c"], ["m"]),
                node("DequantizeLinear", ["m", "s", "z"], ["f"]),
                node("Softmax", ["f"], ["y"]),
            ],
            [
                "Erf gives floats, Flatten reads codes",
                "Softmax reads floats: no integer kernel here on the CPU provider",
            ],
        ),
        (
            [node("DequantizeLinear", ["z", "s", "z"], ["w"]), node("Mul", ["x", "w"], ["y"])],
            ["a weight, decoded on every call for Mul"],
        ),
        (
            [
                node("QuantizeLinear", ["x", "s", "z"], ["c"]),
                node("DequantizeLinear", ["c", "s", "z"], ["f"]),
                node("QuantizeLinear", ["f", "r", "z"], ["d"]),
                node("DequantizeLinear", ["d", "r", "z"], ["y"]),
            ],
            [
                "the model's input arrives in float",
                "a reader has codes of another scale",
                "codes of one scale become codes of another for DequantizeLinear",
                "the model's output is float",
            ],
        ),
    ],
    ids=["ends", "float ops", "weight", "two scales"],
)
def test_each_leftover_conversion_has_its_reason(nodes: list[onnx.NodeProto], reasons: list[str]) -> None:
    assert [row.reason for row in conversions(graph(*nodes))] == reasons


def test_every_conversion_of_the_optimized_graph_is_named(tmp_path: Path) -> None:
    proto = graphs.model(
        [node("Conv", ["x", "w"], ["a"]), node("Softmax", ["a"], ["b"]), node("Conv", ["b", "v"], ["y"])],
        {"x": ("float32", [1, 4, 8, 8])},
        {"y": "float32"},
        {"w": weight(4, 4, 3, 3), "v": weight(4, 4, 3, 3)},
    )
    static(proto, FEED).insert(proto)
    path = graphs.save(proto, tmp_path / "m.onnx")
    leftovers = conversions(runtime.optimized_graph(path))
    ops = runtime.optimized_ops(path)
    assert len(leftovers) == ops.get("QuantizeLinear", 0) + ops.get("DequantizeLinear", 0) > 0
    assert all(row.reason and row.node for row in leftovers)


def proof(**decibels: float) -> Proof:
    """A proof with the errors of one output, by pair of runs."""
    exact = Difference().figures()
    outputs = {pair.replace("_", " "): {"y": replace(exact, sqnr_db=db)} for pair, db in decibels.items()}
    return Proof(outputs=outputs, kernels=RunOps(stock={"Relu": 2}))


def test_warnings_about_speed_and_saturation() -> None:
    record = StaticRecord("uint8", symmetric=False, integer_kernels=1)
    assert not activation_warnings(None, proof())
    assert not activation_warnings(record, proof(float_vs_unoptimized=30.0, float_vs_deployed=27.5))
    (fused,) = activation_warnings(record, proof(float_vs_unoptimized=30.0, float_vs_deployed=26.9))
    assert "26.9 dB" in fused and "30.0 dB" in fused
    (wide,) = activation_warnings(replace(record, code_type="int16"), None)
    assert "no integer kernels" in wide and "slower than float" in wide
    signed, clamps = activation_warnings(replace(record, code_type="int8", symmetric=True), proof())
    assert "slower than uint8" in signed and clamps.startswith("2 Relu or Clip")
    (idle,) = activation_warnings(replace(record, integer_kernels=0), proof())
    assert "no op computes on integers" in idle
    lossy = proof()
    lossy.activations.saturation = {
        "bad": SaturationLoss(pairs=10, saturating=3, sqnr_db=20.0),
        "fine": SaturationLoss(pairs=10, saturating=1, sqnr_db=50.0),
        "exact": SaturationLoss(pairs=10, saturating=0, sqnr_db=math.inf),
    }
    (lost,) = activation_warnings(record, lossy)
    assert "1 kernel" in lost and "bad: 20.0 dB" in lost and "x64quantprecision" in lost
    facts = dict(rows.activations(ReportData("model.onnx", activations=record, proof=lossy)))
    assert facts["saturating without VNNI"] == "2 of 3 kernels, the worst keeps 20.0 dB"
    assert dict(rows.activation_details(record, lossy)) == {
        "bad": "without VNNI 30 % of its pairs saturate: 20.0 dB",
        "fine": "without VNNI 10 % of its pairs saturate: 50.0 dB",
    }
