"""Dynamic activations: the nodes that products become, and that they compute the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import Encoder, node, weight
from rounded import sqnr_db

import onnxquant
from onnxquant.activations import dynamic as dynamic_
from onnxquant.activations.candidates import CandidateRunner
from onnxquant.graph.functions import expand_kernels, with_kernels
from onnxquant.graph.io import load
from onnxquant.validation.latency import Interval
from onnxquant.validation.saturation import kernels

X = graphs.rng(1).standard_normal((1, Encoder.LENGTH, Encoder.WIDTH)).astype(np.float32)


def attention() -> onnx.ModelProto:
    g = Encoder()
    return g.model(g.op("Add", "x", g.attention(g.norm("x"))))


def dynamic(proto: onnx.ModelProto, tmp_path: Path, **options: Any) -> Path:
    model = graphs.save(proto, tmp_path / "model.onnx")
    onnxquant.quantize(model, tmp_path / "out.onnx", activations="dynamic", **{"proof": False, **options})
    return tmp_path / "out.onnx"


def run(path: Path) -> np.ndarray[Any, Any]:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


def ops(path: Path) -> Counter[str]:
    return Counter(n.op_type for n in with_kernels(onnx.load(path)).graph.node)


def test_products_of_one_activation_share_its_codes_and_add_their_biases(tmp_path: Path) -> None:
    path = dynamic(attention(), tmp_path)
    counts = ops(path)
    assert counts["DynamicQuantizeLinear"] == 1 and counts["MatMulIntegerToFloat"] == 3
    assert counts["DynamicQuantizeMatMul"] == 1
    assert counts["Add"] == 1, "the residual alone"
    assert sqnr_db(run(tmp_path / "model.onnx"), run(path)) > 25


def test_such_a_file_becomes_a_float_model_again(tmp_path: Path) -> None:
    path = dynamic(attention(), tmp_path)
    onnxquant.dequantize(path, tmp_path / "float.onnx")
    assert (
        not {"DynamicQuantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
        & ops(tmp_path / "float.onnx").keys()
    )
    assert sqnr_db(run(tmp_path / "model.onnx"), run(tmp_path / "float.onnx")) > 30


def test_saturation_is_emulated_for_products_that_share_codes(tmp_path: Path) -> None:
    document = load(dynamic(attention(), tmp_path))
    expand_kernels(document.proto)
    found = kernels(document)
    assert len(found) == 4 and all(k.zero_point is None for k in found)
    assert Counter(k.x for k in found).most_common(1)[0][1] == 3


@pytest.mark.parametrize(
    ("bias", "joined"),
    [(weight(32), True), (weight(8, 32), False), (np.float32(2), False)],
    ids=["vector", "per row", "scalar"],
)
def test_a_bias_that_is_no_constant_per_channel_stays_an_add(bias: Any, joined: bool, tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Add", ["b", "a"], ["y"])]
    constants = {"w": weight(Encoder.WIDTH, 32), "b": bias}
    proto = graphs.model(nodes, {"x": ("float32", [1, Encoder.LENGTH, Encoder.WIDTH])}, {"y": "float32"}, constants)
    path = dynamic(proto, tmp_path)
    assert ops(path) == Counter(["DynamicQuantizeMatMul"] + ["Add"] * (not joined))
    assert sqnr_db(run(tmp_path / "model.onnx"), run(path)) > 25


def test_a_product_that_is_read_beside_its_sum_keeps_both(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "b"], ["c"]), node("Mul", ["a", "c"], ["y"])]
    constants = {"w": weight(Encoder.WIDTH, 32), "b": weight(32)}
    proto = graphs.model(nodes, {"x": ("float32", [1, Encoder.LENGTH, Encoder.WIDTH])}, {"y": "float32"}, constants)
    assert ops(dynamic(proto, tmp_path)) == Counter(["DynamicQuantizeMatMul", "Add", "Mul"])


def test_smoothing_adds_no_node(tmp_path: Path) -> None:
    g = Encoder()
    proto = g.model(g.linear(g.op("Softmax", g.linear("x", g.WIDTH, 32), axis=-1), 32, g.WIDTH))
    outlying = np.concatenate([X * np.where(np.arange(g.WIDTH) == 3, 100, 1).astype(np.float32)] * 4)
    np.savez(tmp_path / "data.npz", x=outlying)
    assert ops(dynamic(proto, tmp_path, data=str(tmp_path / "data.npz")))["Mul"] == 0


@pytest.mark.parametrize(
    ("whole", "step", "products"),
    [((0.5, 0.6), (1.2, 1.3), 0), ((0.5, 0.6), (0.9, 1.5), 4), ((0.9, 1.1), (1.2, 1.3), 4)],
)
def test_products_go_back_only_where_the_file_is_certainly_slower_and_certainly_gains(
    whole: tuple[float, float],
    step: tuple[float, float],
    products: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Intervals of the file's speed beside the float model's, and of what a kind of product in float gains."""
    monkeypatch.setattr(dynamic_, "LEAST_SECONDS", 0.0)
    speeds = {True: Interval(*whole), False: Interval(*step)}
    monkeypatch.setattr(CandidateRunner, "speedup", lambda self, plan, base=None: speeds[base is None])
    samples = {"x": np.concatenate([X] * 8)[:, None]}
    counts = ops(dynamic(attention(), tmp_path, data=samples, smooth=False))
    assert counts["MatMulIntegerToFloat"] + counts["DynamicQuantizeMatMul"] == products


def test_sums_fit_in_a_loop_where_none_can_be_observed(tmp_path: Path) -> None:
    random = graphs.rng(2)
    # Signs alone would lie on a grid of one step, and keep it.
    signs = np.sign(random.standard_normal((Encoder.WIDTH, Encoder.WIDTH))) * random.uniform(
        0.99, 1, (Encoder.WIDTH, 1)
    )
    tensor, info = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [node("MatMul", ["state", "w"], ["sums"]), node("Tanh", ["sums"], ["next"]), node("Identity", ["on"], ["go"])],
        "body",
        [info("i", onnx.TensorProto.INT64, []), info("on", onnx.TensorProto.BOOL, []), info("state", tensor, X.shape)],
        [info("go", onnx.TensorProto.BOOL, []), info("next", tensor, X.shape)],
        [onnx.numpy_helper.from_array(signs.astype(np.float32), "w")],
    )
    g = Encoder()
    count, start = g.constant(np.array(2)), g.constant(np.array(True))
    proto = g.model(g.op("Loop", count, start, g.linear("x", g.WIDTH, g.WIDTH), body=body))
    np.savez(tmp_path / "data.npz", x=np.concatenate([X] * 4))
    path = dynamic(proto, tmp_path, data=str(tmp_path / "data.npz"))
    inner = next(
        a.g for n in onnx.load(path).graph.node if n.op_type == "Loop" for a in n.attribute if a.name == "body"
    )
    assert any(n.op_type == "DynamicQuantizeMatMul" for n in inner.node)
    codes = next(onnx.numpy_helper.to_array(i) for i in inner.initializer if i.name.endswith("codes")).astype(np.int16)
    sizes = np.abs(codes - (128 if codes.min() >= 0 else 0))
    assert 100 < (sizes[0::2] + sizes[1::2]).max() <= 128


@pytest.mark.parametrize(("decibels", "is_certain"), [(100.0, True), (-100.0, False)])
def test_sums_get_room_on_samples_where_room_for_any_costs_too_much(
    decibels: float, is_certain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a sum of any activations has room, a weight has the scales that its largest codes need."""
    random = np.random.default_rng(6)
    weight = random.uniform(0.5, 1.0, (64, 32)).astype(np.float32)  # of one sign: neighbours add up
    rows = random.uniform(0.15, 0.2, (8, 64)).astype(np.float32)
    rows[:, :2] = 1, -1  # the codes of the others lie in the middle
    data = [{"x": row[None]} for row in rows]
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])], {"x": ("float32", ["n", 64])}, {"y": "float32"}, {"w": weight}
    )
    monkeypatch.setattr(dynamic_, "FOR_CERTAINTY_DB", decibels)
    onnxquant.quantize(proto, tmp_path / "q.onnx", activations="dynamic", smooth=False, data=data)
    codes = next(
        onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "q.onnx").graph.initializer if "codes" in t.name
    )
    largest = (codes.astype(np.int32)[0::2] + codes.astype(np.int32)[1::2]).max() * 255
    assert (largest <= 32767) == is_certain
