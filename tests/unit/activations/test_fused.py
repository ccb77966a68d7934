"""Every kernel that a file claims is one in the graph that onnxruntime runs, in the forms that exporters write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from graphs import Encoder, node, weight

import onnxquant
from onnxquant import runtime
from onnxquant.activations.fused import NOT_TAKEN, GraphRemedies, units_in_float
from onnxquant.activations.op_kinds import OpKind
from onnxquant.activations.placement import Unit
from onnxquant.artifact.records import records
from onnxquant.graph.editor import GraphEditor
from onnxquant.plan.activations import StaticRecord

INTEGER_OPS = (
    "QLinearConv", "com.microsoft.QLinearConv", "QLinearMatMul", "com.microsoft.QGemm", "com.microsoft.MatMulIntegerToFloat",
)  # fmt: skip


def vit() -> onnx.ModelProto:
    """Normalization first, Gelu."""
    g = Encoder()
    x = g.op("Add", "x", g.attention(g.norm("x")))
    return g.model(g.op("Add", x, g.linear(g.gelu(g.linear(g.norm(x), Encoder.WIDTH, 64)), 64, Encoder.WIDTH)))


def bert() -> onnx.ModelProto:
    """Normalization last, Relu."""
    g = Encoder()
    x = g.norm(g.op("Add", "x", g.attention("x")))
    return g.model(g.norm(g.op("Add", x, g.linear(g.op("Relu", g.linear(x, Encoder.WIDTH, 64)), 64, Encoder.WIDTH))))


def swin() -> onnx.ModelProto:
    """Products of four axes, in windows."""
    g = Encoder()
    windows = g.op("Reshape", g.norm("x"), g.constant(np.array([1, 2, Encoder.LENGTH // 2, Encoder.WIDTH])))
    y = g.linear(g.gelu(g.linear(windows, Encoder.WIDTH, 32)), 32, Encoder.WIDTH)
    return g.model(g.op("Add", "x", g.op("Reshape", y, g.constant(np.array([1, Encoder.LENGTH, Encoder.WIDTH])))))


def gemms() -> onnx.ModelProto:
    """C of [1, N] and of one value."""
    nodes = [
        node("Gemm", ["x", "w", "b"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Gemm", ["r", "v", "c"], ["s"]),
        node("Relu", ["s"], ["t"]),
        node("Gemm", ["t", "v", "b"], ["y"]),
    ]
    constants = {
        "w": 8 * weight(Encoder.WIDTH, 32),
        "v": 8 * weight(32, 32),
        "b": weight(1, 32),
        "c": np.float32([0.1]),
    }
    return graphs.model(nodes, {"x": ("float32", [1, Encoder.WIDTH])}, {"y": "float32"}, constants)


def hard_tanh() -> onnx.ModelProto:
    """Clips between bounds as far from zero as each other, both reached."""
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Clip", ["a", "low", "high"], ["b"]),
        node("Conv", ["b", "v"], ["c"], pads=[1, 1, 1, 1]),
        node("Clip", ["c", "low", "high"], ["y"]),
    ]
    constants = {"w": 16 * weight(16, 3, 3, 3), "v": 8 * weight(16, 16, 3, 3)}
    bounds = {"low": np.float32(-1), "high": np.float32(1)}
    return graphs.model(nodes, {"x": ("float32", [1, 3, 8, 8])}, {"y": "float32"}, {**constants, **bounds})


@pytest.mark.parametrize(
    ("make", "kernels"),
    [(vit, 6), (bert, 6), (swin, 2), (gemms, 3), (hard_tanh, 2)],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_onnxruntime_takes_every_kernel(make: Any, kernels: int, tmp_path: Path) -> None:
    model = graphs.save(make(), tmp_path / "model.onnx")
    shape = [d.dim_value for d in make().graph.input[0].type.tensor_type.shape.dim]
    np.savez(tmp_path / "data.npz", x=graphs.rng(1).standard_normal((8, *shape[1:])).astype(np.float32))
    plain = {"calibration_method": "minmax", "smooth": False, "equalize": False, "solver": "rtn"}
    output = tmp_path / "out.onnx"
    report = onnxquant.quantize(
        model, output, activations="static", data=str(tmp_path / "data.npz"), proof=False, **plain
    )
    assert isinstance(report.activations, StaticRecord) and report.activations.integer_kernels == kernels
    ops = runtime.optimized_ops(output, library=False)
    assert sum(ops.get(op, 0) for op in INTEGER_OPS) == kernels, ops
    decoded = {n.input[0] for n in runtime.optimized_graph(output).graph.node if n.op_type == "DequantizeLinear"}
    assert not decoded & {name for r in records(onnx.load(output)) for name in r.plane_names}


def unit(made: onnx.NodeProto, kind: OpKind = OpKind.KERNEL) -> Unit:
    return Unit(made, kind)


def test_a_product_that_is_left_in_float_gets_a_sum_first_and_then_stays() -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "b"], ["y"])]
    editor = GraphEditor(graphs.model(nodes, {}, {"y": "float32"}, {}).graph)
    remedies = GraphRemedies()
    remedies.add(editor, [unit(nodes[0])])
    assert remedies.sums == {"y"} and not remedies.in_float
    remedies.add(editor, [unit(nodes[0])])
    assert remedies.in_float == {"a": NOT_TAKEN}


def test_units_between_codes_that_compute_in_float_are_found() -> None:
    """A pooling that stays between DequantizeLinear and QuantizeLinear; an Add that became an integer kernel."""
    scale = ["s", "z"]
    optimized = graphs.model(
        [
            node("DequantizeLinear", ["x", *scale], ["d"]),
            node("MaxPool", ["d"], ["p"], kernel_shape=[2, 2]),
            node("QuantizeLinear", ["p", *scale], ["q"]),
            node("QLinearAdd", ["q", *scale, "q", *scale, *scale], ["sum_codes"], domain="com.microsoft"),
            node("DequantizeLinear", ["sum_codes", *scale], ["y"]),
        ],
        {"x": ("uint8", [1, 1, 4, 4])},
        {"y": "float32"},
        {"s": np.float32(1), "z": np.uint8(0)},
    )
    pool = unit(node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2]), OpKind.MOVE)
    added = unit(node("Add", ["p", "p"], ["y"]), OpKind.VALUE)
    assert units_in_float([pool, added], [], optimized) == [pool]
    function = unit(node("HardSwish", ["x"], ["p"]), OpKind.FUNCTION)
    assert units_in_float([function], [], optimized) == [], "such a one computes in float by nature"
