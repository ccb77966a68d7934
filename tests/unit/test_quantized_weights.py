"""Weights that a graph quantizes itself, as training frameworks export them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxquant

_WEIGHT = (np.random.default_rng(0).standard_normal((128, 64)) * 0.05).astype(np.float32)
_SCALES = (np.abs(_WEIGHT).max(axis=0) / 100).astype(np.float32)


def _model(path: Path, *, reads_float: bool = False, more: bool = False) -> Path:
    """A product with activations and weights behind QuantizeLinear and DequantizeLinear.

    Args:
        path: file to write.
        reads_float: another node reads the float weight too.
        more: a second product has a plain float weight.
    """
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "step", "zero"], ["xq"]), node("DequantizeLinear", ["xq", "step", "zero"], ["xd"]),
        node("QuantizeLinear", ["w", "s", "z"], ["wq"], axis=1), node("DequantizeLinear", ["wq", "s", "z"], ["wd"], axis=1),
        node("MatMul", ["xd", "wd"], ["h" if more else "y"]),
    ]  # fmt: skip
    constants = {"w": _WEIGHT, "s": _SCALES, "z": np.zeros(64, np.int8), "step": np.float32(0.05), "zero": np.int8(0)}
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])]
    if more:
        nodes.append(node("MatMul", ["h", "v"], ["y"]))
        constants["v"] = _WEIGHT[:64].copy()
    if reads_float:
        nodes.append(node("ReduceSum", ["w"], ["total"]))
        outputs.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, None))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 128])], outputs,
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _run(path: Path) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((5, 128)).astype(np.float32)
    (y,) = ort.InferenceSession(path).run(["y"], {"x": x})
    return y


def test_codes_are_stored_with_the_graphs_own_scales(tmp_path: Path) -> None:
    model = _model(tmp_path / "m.onnx")
    report = onnxquant.quantize(model, tmp_path / "o.onnx")
    assert report.passed
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "o.onnx").graph.initializer}
    np.testing.assert_array_equal(constants["wq"], np.clip(np.rint(_WEIGHT / _SCALES), -128, 127).astype(np.int8))
    np.testing.assert_array_equal(constants["s"], _SCALES)
    assert "w" not in constants
    np.testing.assert_array_equal(_run(tmp_path / "o.onnx"), _run(model))
    assert (tmp_path / "o.onnx").stat().st_size < 0.4 * model.stat().st_size


def test_other_weights_are_quantized_beside_them(tmp_path: Path) -> None:
    model = _model(tmp_path / "m.onnx", more=True)
    report = onnxquant.quantize(model, tmp_path / "o.onnx", format="int8")
    assert [site.decision.name for site in report.encoded] == ["v"]
    assert report.passed
    assert "wq" in {t.name for t in onnx.load(tmp_path / "o.onnx").graph.initializer}


def test_a_float_weight_that_others_read_is_not_stored_twice(tmp_path: Path) -> None:
    model = _model(tmp_path / "m.onnx", reads_float=True, more=True)
    onnxquant.quantize(model, tmp_path / "o.onnx", format="int8")
    constants = {t.name for t in onnx.load(tmp_path / "o.onnx").graph.initializer}
    assert "w" in constants
    assert "wq" not in constants


def test_a_file_that_holds_codes_alone_is_refused_as_before(tmp_path: Path) -> None:
    onnxquant.quantize(_model(tmp_path / "m.onnx"), tmp_path / "o.onnx")
    with pytest.raises(onnxquant.ModelError, match="already quantized"):
        onnxquant.quantize(tmp_path / "o.onnx", tmp_path / "p.onnx")


def test_codes_that_are_floats_of_8_bits_stay_computed(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["w", "s", "z"], ["wq"]),
            helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"]), helper.make_node("MatMul", ["x", "wd"], ["h"]),
            helper.make_node("MatMul", ["h", "v"], ["y"]),
        ],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [
            numpy_helper.from_array(_WEIGHT, "w"), numpy_helper.from_array(np.float32(0.01), "s"),
            helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0]), numpy_helper.from_array(_WEIGHT[:64].copy(), "v"),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    assert onnxquant.quantize(tmp_path / "m.onnx", tmp_path / "o.onnx", format="int8").passed
    np.testing.assert_allclose(_run(tmp_path / "o.onnx"), _run(tmp_path / "m.onnx"), atol=0.05)
