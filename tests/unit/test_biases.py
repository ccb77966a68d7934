"""MatMul and Add become one Gemm where both are matrices, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from agreement import check, ops
from graphs import node, weight

import onnxquant
from onnxquant.passes.simplify.biases import JoinBiases

X = graphs.rng(1).standard_normal((6, 24)).astype(np.float32)


def product(bias: Any, shape: tuple[int | str, ...] = ("batch", 24), *, swapped: bool = False) -> onnx.ModelProto:
    made = [
        node("MatMul", ["x", "w"], ["a"], name="product"),
        node("Add", ["c", "a"] if swapped else ["a", "c"], ["b"]),
        node("Erf", ["b"], ["y"]),
    ]
    return graphs.model(made, {"x": ("float32", shape)}, {"y": "float32"}, {"w": weight(24, 16), "c": bias})


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("shape", [(16,), (1, 16)], ids=str)
def test_a_bias_is_joined(shape: tuple[int, ...], swapped: bool) -> None:
    document, note = check(product(weight(*shape), swapped=swapped), JoinBiases(), {"x": X})
    assert ops(document) == {"Gemm": 1, "Erf": 1}
    assert note and note.startswith("biases: 1 added to a MatMul became part of a Gemm")


def test_the_model_s_output_keeps_its_name() -> None:
    made = [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "c"], ["y"])]
    proto = graphs.model(made, {"x": ("float32", [6, 24])}, {"y": "float32"}, {"w": weight(24, 16), "c": weight(16)})
    document, _ = check(proto, JoinBiases(), {"x": X})
    assert ops(document) == {"Gemm": 1}


@pytest.mark.parametrize(
    ("proto", "x"),
    [
        (product(weight(16), (2, "n", 24)), np.stack([X, X])),
        (product(weight(6, 16), (6, 24)), X),
        (product(np.float32(2)), X),
        (product(weight(1, 1, 16)), X),
    ],
    ids=["three axes", "one per element", "scalar", "one axis more"],
)
def test_other_sums_stay(proto: onnx.ModelProto, x: np.ndarray[Any, Any]) -> None:
    document, note = check(proto, JoinBiases(), {"x": x})
    assert note is None and "Gemm" not in ops(document)


@pytest.mark.parametrize("shape", [(2, 6, 24), ("n", 6, 24), (2, "n", 24)], ids=str)
def test_rows_become_one_axis_where_another_product_follows(shape: tuple[int | str, ...]) -> None:
    made = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "c"], ["b"]),
        node("Relu", ["b"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    constants = {"w": weight(24, 16), "c": weight(16), "v": weight(16, 8)}
    proto = graphs.model(made, {"x": ("float32", shape)}, {"y": "float32"}, constants)
    document, _ = check(proto, JoinBiases(), {"x": np.stack([X, X])})
    assert ops(document) == {"Reshape": 2, "Gemm": 1, "Relu": 1, "MatMul": 1}


@pytest.mark.parametrize("c", [weight(1, 16), np.float32(0.5), weight(1), weight(1, 1)], ids=lambda c: str(np.shape(c)))
def test_a_gemm_has_one_constant_per_column(c: Any) -> None:
    proto = graphs.model(
        [node("Gemm", ["x", "w", "c"], ["y"])],
        {"x": ("float32", [6, 24])},
        {"y": "float32"},
        {"w": weight(24, 16), "c": c},
    )
    document, note = check(proto, JoinBiases(), {"x": X})
    assert note == "biases: 1 of a Gemm written as one constant per column"
    assert [list(t.dims) for t in document.proto.graph.initializer if t.name == "c"] == [[16]]


def test_a_product_that_is_read_again_stays() -> None:
    proto = product(weight(16))
    proto.graph.node.append(node("Neg", ["a"], ["z"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    document, note = check(proto, JoinBiases(), {"x": X})
    assert note is None and ops(document)["MatMul"] == 1


def test_then_it_computes_on_integers(tmp_path: Path) -> None:
    """Left to onnxruntime, its own fusion would keep the product in float."""
    model = graphs.save(product(weight(16)), tmp_path / "model.onnx")
    given = {"activations": "static", "calibration_method": "minmax", "data": {"x": X}, "smooth": False}
    np.savez(tmp_path / "data.npz", x=X)
    report = onnxquant.quantize(model, tmp_path / "out.onnx", **{**given, "data": str(tmp_path / "data.npz")})
    assert report.proof and not report.proof.problems
    kernels = report.proof.kernels.stock
    assert kernels and kernels["com.microsoft.QGemm"] == 1
    assert "DequantizeLinear" not in kernels
