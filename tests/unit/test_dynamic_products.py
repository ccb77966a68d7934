"""Products that round one activation in each call become one operator: what is taken, what it computes, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import onnxquant
from onnxquant.graph.analysis.quantized import integer_weights
from onnxquant.graph.functions import MOST_NAMES
from onnxquant.native import library as native
from onnxquant.targets.dynamic_products import is_dynamic_products

Array = NDArray[Any]
WIDTH = 64


def run(proto: onnx.ModelProto, feed: Mapping[str, Array], *, library: bool = False) -> list[Array]:
    """Outputs of a model, on onnxruntime alone or with our library."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(str(native.library_path()))
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def calls(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if is_dynamic_products(node)]


def activations(proto: onnx.ModelProto) -> list[list[int]]:
    """Numbers of the activation functions of each call's products."""
    words = [next(a.ints for a in call.attribute if a.name == "products") for call in calls(proto)]
    return [list(numbers[4::5]) for numbers in words]


class Net(graphs.Encoder):
    """A float model of products with biases, and without."""

    WIDTH, LENGTH = WIDTH, 5

    def joined(self, *values: str) -> onnx.ModelProto:
        return self.model(self.op("Concat", *values, axis=2))

    def model(self, y: str) -> onnx.ModelProto:
        proto = super().model(y)
        proto.opset_import[0].version = 20  # the first with Gelu
        return proto


def encoder() -> onnx.ModelProto:
    net = Net()
    joined = net.op("Concat", *(net.linear("x", WIDTH, cols) for cols in (48, 47, 57)), axis=2)
    down = net.op("MatMul", net.gelu(net.linear(joined, 152, 80)), net.constant(graphs.weight(80, WIDTH)))
    rectified = net.op("Relu", net.linear(down, WIDTH, 48))
    return net.model(net.op("Gelu", net.linear(rectified, 48, 40)))


def quantized(proto: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    graphs.save(proto, folder / "model.onnx")
    onnxquant.quantize(folder / "model.onnx", folder / "out.onnx", activations="dynamic", proof=False, **options)
    return onnx.load(folder / "out.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder, what becomes of it, and the same without operators of ours."""
    where = tmp_path_factory.mktemp("products")
    graphs.save(encoder(), where / "model.onnx")
    onnxquant.quantize(where / "model.onnx", where / "auto.onnx", activations="dynamic", proof=False)
    onnxquant.quantize(where / "model.onnx", where / "onnx.onnx", activations="dynamic", target="onnx", proof=False)
    return where


def test_files_of_target_auto_have_operators_and_others_do_not(folder: Path) -> None:
    auto, other = onnx.load(folder / "auto.onnx"), onnx.load(folder / "onnx.onnx")
    assert activations(auto) == [[0, 0, 0], [2], [0], [1], [2]]
    assert len({call.op_type for call in calls(auto)}) == len(auto.functions) == 5
    assert not calls(other)
    feed = {"x": graphs.rng(4).standard_normal((1, 5, WIDTH)).astype(np.float32)}
    expected = run(other, feed)[0]
    np.testing.assert_array_equal(run(auto, feed)[0], expected)
    np.testing.assert_allclose(run(auto, feed, library=True)[0], expected, atol=0.02)  # a code at a tie


def test_products_alone_are_equal_within_rounding(tmp_path: Path) -> None:
    net = Net()
    proto = quantized(net.joined(net.linear("x", WIDTH, 47), net.linear("x", WIDTH, 33)), tmp_path)
    assert len(calls(proto)) == 1
    for x in (graphs.rng(5).standard_normal((1, 5, WIDTH)), np.zeros((1, 5, WIDTH)), np.full((1, 5, WIDTH), -3.0)):
        feed = {"x": x.astype(np.float32)}
        np.testing.assert_allclose(run(proto, feed, library=True)[0], run(proto, feed)[0], rtol=2e-7, atol=1e-6)


def test_calls_that_differ_in_constants_alone_share_a_body(tmp_path: Path) -> None:
    net, value = Net(), "x"
    for _ in range(MOST_NAMES + 2):
        value = net.linear(value, WIDTH, WIDTH)
    proto = quantized(net.model(value), tmp_path)
    assert len(calls(proto)) == MOST_NAMES + 2
    assert [function.name for function in proto.functions] == ["DynamicProducts1"]


def test_an_activation_function_of_what_others_read_stays(tmp_path: Path) -> None:
    net = Net()
    y = net.linear("x", WIDTH, WIDTH)
    proto = quantized(net.joined(net.op("Add", net.gelu(y), y), net.op("Relu", y)), tmp_path)
    assert activations(proto) == [[0]]
    feed = {"x": graphs.rng(4).standard_normal((1, 5, WIDTH)).astype(np.float32)}
    np.testing.assert_allclose(run(proto, feed, library=True)[0], run(proto, feed)[0], atol=2e-6)


def test_a_gelu_of_what_is_bounded_keeps_its_bounds(tmp_path: Path) -> None:
    net = Net()
    bounded = net.op("Min", net.linear("x", WIDTH, WIDTH), net.constant(np.float32(30)))
    proto = quantized(net.model(net.gelu(bounded)), tmp_path)
    assert activations(proto) == [[0]]
    feed = {"x": 100 * graphs.rng(4).standard_normal((1, 5, WIDTH)).astype(np.float32)}
    np.testing.assert_allclose(run(proto, feed, library=True)[0], run(proto, feed)[0], atol=1e-4)


def test_constants_of_a_gelu_may_be_in_another_file(folder: Path, tmp_path: Path) -> None:
    data = {"location": "data.bin", "size_threshold": 0}
    onnx.save(encoder(), tmp_path / "model.onnx", save_as_external_data=True, **data)
    onnxquant.quantize(tmp_path / "model.onnx", tmp_path / "out.onnx", activations="dynamic", proof=False)
    assert activations(onnx.load(tmp_path / "out.onnx")) == activations(onnx.load(folder / "auto.onnx"))


def test_a_file_with_products_becomes_floats_again(folder: Path, tmp_path: Path) -> None:
    for name in ("auto.onnx", "onnx.onnx"):
        onnxquant.dequantize(folder / name, tmp_path / name)
    one, other = (onnx.load(tmp_path / name) for name in ("auto.onnx", "onnx.onnx"))
    assert not one.functions
    assert sorted(n.op_type for n in one.graph.node) == sorted(n.op_type for n in other.graph.node)


def test_a_file_with_products_is_known_and_proven(folder: Path) -> None:
    told, beside = onnxquant.info(folder / "auto.onnx"), onnxquant.info(folder / "onnx.onnx")
    assert told.library == "optional: our kernels, faster"
    assert told.tensors == beside.tensors
    assert told.activations == beside.activations
    weights = [integer_weights(onnx.load(folder / name)) for name in ("auto.onnx", "onnx.onnx")]
    assert weights == [weights[1]] * 2
    report = onnxquant.validate(folder / "model.onnx", folder / "auto.onnx")
    assert report.proof is not None
    assert not report.proof.problems
