"""Models whose weights are not float32: float16 and float64, which compute in float32, and integers of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from agreement import check, ops
from graphs import node, weight
from rounded import sqnr_db

import onnxquant
from onnxquant.graph.io import Document
from onnxquant.passes.prepare.half import NarrowFloat64, WidenFloat16

HALF = onnx.TensorProto.FLOAT16
X = graphs.rng(1).standard_normal((8, 3, 12, 12)).astype(np.float16)


def conv() -> onnx.ModelProto:
    """Two convolutions; a Cast and a nested graph state float16 themselves."""
    then, other = graphs.captures("b", "Relu", "Neg")
    for graph in (then, other):
        graph.output[0].type.tensor_type.elem_type = HALF
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Cast", ["a"], ["b"], to=HALF),
        node("If", ["yes"], ["c"], then_branch=then, else_branch=other),
        node("Conv", ["c", "v"], ["y"], pads=[1, 1, 1, 1]),
    ]
    constants = {"w": 4 * weight(16, 3, 3, 3), "v": 4 * weight(16, 16, 3, 3, seed=2)}
    halves = {name: values.astype(np.float16) for name, values in constants.items()}
    proto = graphs.model(
        nodes, {"x": ("float16", ["n", 3, 12, 12])}, {"y": "float16"}, {**halves, "yes": np.array(True)}
    )
    return proto


def test_a_float16_model_computes_in_float32_between_casts() -> None:
    document, note = check(conv(), WidenFloat16(), {"x": X[:2]}, within=2e-3)
    assert note == "float16 became float32; inputs and outputs keep their types"
    assert ops(document)["Cast"] == 3
    assert not any(t.data_type == HALF for t in document.proto.graph.initializer)
    ends = (document.proto.graph.input[0], document.proto.graph.output[0])
    assert [e.type.tensor_type.elem_type for e in ends] == [HALF, HALF]


def test_a_float32_model_does_not_change() -> None:
    document = Document(graphs.matmul(), memoryview(b""), None)
    assert not WidenFloat16()(document).changed


def test_a_constant_output_keeps_the_model_as_it_is() -> None:
    proto = graphs.model(
        [node("Relu", ["x"], ["y"])],
        {"x": ("float16", [2])},
        {"y": "float16", "c": "float16"},
        {"c": np.float16([1, 2])},
    )
    document = Document(proto, memoryview(b""), None)
    result = WidenFloat16()(document)
    assert not result.changed and "inputs or outputs, too" in result.notes[0]


@pytest.mark.parametrize(
    ("values", "changed"), [(np.ones((16, 16)), True), (np.ones(16), False), (np.full((16, 16), 1e39), False)]
)
def test_weights_of_float64_decide_whether_a_model_becomes_float32(values: graphs.Array, changed: bool) -> None:
    proto = graphs.model([node("MatMul", ["x", "w"], ["y"])], {"x": ("float64", [2, 16])}, {"y": "float64"}, {"w": values})
    assert NarrowFloat64()(Document(proto, memoryview(b""), None)).changed == changed


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_integer_activations_of_a_model_that_is_not_float32(kind: str, dtype: str, tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "v"], ["y"])]
    constants = {"w": weight(24, 32).astype(dtype), "v": weight(32, 16).astype(dtype)}
    proto = graphs.model(nodes, {"x": (dtype, [1, 6, 24])}, {"y": dtype}, constants)
    model, output = graphs.save(proto, tmp_path / "model.onnx"), tmp_path / "out.onnx"
    x = graphs.rng(2).standard_normal((8, 6, 24)).astype(dtype)
    np.savez(tmp_path / "data.npz", x=x)
    plain = {"calibration_method": "minmax", "smooth": False} if kind == "static" else {"smooth": False}
    report = onnxquant.quantize(model, output, activations=kind, data=str(tmp_path / "data.npz"), **plain)
    assert report.proof and not report.proof.problems
    assert report.activations and report.activations.integer_kernels == 2
    assert onnxquant.validate(model, output, str(tmp_path / "data.npz")).proof.weights["w"].error.sqnr_db > 35
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    expected, got = (ort.InferenceSession(p, options).run(None, {"x": x[:1]})[0] for p in (model, output))
    assert got.dtype == dtype and sqnr_db(expected.astype(np.float32), got.astype(np.float32)) > 30


@pytest.mark.parametrize("options", [{}, {"activations": "static"}, {"activations": "dynamic"}], ids=str)
@pytest.mark.parametrize("form", ["QDQ", "MatMulInteger"])
def test_a_model_that_is_quantized_already_is_told_so(form: str, options: dict[str, Any], tmp_path: Path) -> None:
    constants = {"w": graphs.rng().integers(-99, 99, (24, 32)).astype(np.int8), "s": np.float32(0.01), "z": np.int8(0)}
    nodes = {
        "QDQ": [node("DequantizeLinear", ["w", "s", "z"], ["d"]), node("MatMul", ["x", "d"], ["y"])],
        "MatMulInteger": [
            node("DynamicQuantizeLinear", ["x"], ["q", "t", "u"]),
            node("MatMulInteger", ["q", "w", "u", "z"], ["i"]),
            node("Cast", ["i"], ["f"], to=1),
            node("Mul", ["f", "t"], ["y"]),
        ],
    }[form]
    proto = graphs.model(nodes, {"x": ("float32", [1, 24])}, {"y": "float32"}, constants)
    model = graphs.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((4, 24), np.float32))
    with pytest.raises(onnxquant.ModelError, match=r"quantized already \(1 .*quantize the original"):
        onnxquant.quantize(model, tmp_path / "out.onnx", data=str(tmp_path / "data.npz"), **options)


def test_the_float_rest_of_a_quantized_model_is_quantized_with_a_note(tmp_path: Path) -> None:
    constants = {
        "w": graphs.rng().integers(-99, 99, (24, 32)).astype(np.int8),
        "s": np.float32(0.01),
        "v": weight(32, 16),
    }
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["d"]), node("MatMul", ["x", "d"], ["a"]), node("MatMul", ["a", "v"], ["y"]),
    ]  # fmt: skip
    model = graphs.save(
        graphs.model(nodes, {"x": ("float32", [1, 24])}, {"y": "float32"}, constants), tmp_path / "m.onnx"
    )
    report = onnxquant.quantize(model, tmp_path / "out.onnx", proof=False)
    assert [s.decision.name for s in report.encoded] == ["v"]
    assert any("quantized already (1 DequantizeLinear of weights)" in note for note in report.notes)
