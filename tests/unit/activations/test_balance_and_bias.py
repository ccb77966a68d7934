"""Channel balance and bias correction, each against float outputs and float64 arithmetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from agreement import complete, difference, outputs
from graphs import node, weight
from rounded import sqnr_db, static, values

import onnxquant
from onnxquant.activations import balance as balance_
from onnxquant.activations import bias as bias_
from onnxquant.activations.calibrated import CalibratedModel
from onnxquant.activations.placement import place
from onnxquant.activations.settings import StaticSettings
from onnxquant.calibration.feeds import Input, open_feeds
from onnxquant.calibration.folds import undivided
from onnxquant.calibration.statistics import Statistics
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document, load

SAMPLES = [{"x": graphs.rng(s).standard_normal((1, 6, 9, 9)).astype(np.float32)} for s in range(12)]


def depthwise(clamp: str = "Clip", **overrides: Any) -> onnx.ModelProto:
    """Conv -> clamp -> depthwise Conv -> Conv, the first with channels of very unequal size."""
    first = weight(8, 6, 3, 3) * np.geomspace(0.1, 8, 8, dtype=np.float32)[:, None, None, None]
    constants = {
        "w": first.astype(np.float32),
        "b": 0.1 * weight(8, seed=4),
        "d": 4 * weight(8, 1, 3, 3, seed=2),
        "p": weight(5, 8, 1, 1, seed=3),
        "low": np.float32(0),
        "high": np.float32(6),
    }
    after = {
        "Clip": [node("Clip", ["a", "low", "high"], ["r"])],
        "Relu": [node("Relu", ["a"], ["r"])],
        "none": [node("Identity", ["a"], ["r"])],
        "low": [node("Clip", ["a", "b0", "high"], ["r"])],
        "direct": [],
    }[clamp]
    constants["b0"] = np.float32(-1)
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1]),
        *after,
        node("Conv", ["r" if after else "a", "d"], ["e"], group=8, pads=[1, 1, 1, 1]),
        node("Conv", ["e", "p"], ["y"]),
    ]
    used = {k: v for k, v in constants.items() if any(k in n.input for n in nodes)}
    names = {"y": "float32", **overrides}
    return graphs.model(nodes, {"x": ("float32", ["n", 6, "h", "w"])}, names, used)


def largest(proto: onnx.ModelProto, name: str) -> np.ndarray[Any, Any]:
    seen = [values(proto, [name], feed)[name] for feed in SAMPLES]
    return np.max([np.abs(v).max((0, 2, 3)) for v in seen], 0)


def balanced(proto: onnx.ModelProto) -> tuple[Document, dict[str, float]]:
    document = load(proto)
    placement = place(GraphEditor(document.proto.graph))
    found = balance_.candidates(GraphEditor(document.proto.graph), placement)
    done = balance_.balance(document, placement, {n: largest(proto, n) for n in found})
    return document, done.bounds


@pytest.mark.parametrize(("clamp", "bound"), [("Clip", 6.0), ("Relu", None)])
def test_balancing_widens_narrow_channels_and_does_not_change_outputs(clamp: str, bound: float | None) -> None:
    proto = depthwise(clamp)
    before = largest(proto, "r")
    assert before.max() > 5 * before.min()
    document, done = balanced(proto)
    assert done == {"r": pytest.approx(bound or before.max())}
    after = largest(complete(document), "r")
    # Seven tenths of the way, in decibels, to the widest.
    np.testing.assert_allclose(after, done["r"] * (before / done["r"]) ** 0.3, rtol=1e-5)
    for feed in SAMPLES:
        assert difference(outputs(proto, feed), outputs(complete(document), feed)) < 2e-6


@pytest.mark.parametrize(("clamp", "name", "lowest"), [("Clip", "r", 0.0), ("Relu", "r", 0.0), ("direct", "a", -1.0)])
def test_the_range_of_balanced_channels_has_negative_values_where_no_clamp_cuts_them(
    clamp: str, name: str, lowest: float
) -> None:
    document, done = balanced(depthwise(clamp))
    placement = place(GraphEditor(document.proto.graph))
    model = CalibratedModel(document, document, placement, Statistics(""), balance_.Balance(done))
    only = replace(placement, tensors={name: placement.tensors[name]})
    assert model.ranges(only, "minmax", StaticSettings()) == {name: (lowest * done[name], done[name])}


@pytest.mark.parametrize("case", ["no clamp", "negative bound", "output", "second reader", "not depthwise"])
def test_channels_that_cannot_be_balanced_do_not_change(case: str) -> None:
    proto = depthwise({"no clamp": "none", "negative bound": "low"}.get(case, "Clip"))
    if case == "output":
        proto = depthwise("Clip", r="float32")
    if case == "second reader":
        proto.graph.node.append(node("Erf", ["r"], ["z"]))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    if case == "not depthwise":
        next(n for n in proto.graph.node if n.output[0] == "e").attribute[0].i = 1
        tensor = next(t for t in proto.graph.initializer if t.name == "d")
        tensor.CopyFrom(onnx.numpy_helper.from_array(weight(8, 8, 3, 3), "d"))
    document, done = balanced(proto)
    assert not done
    assert complete(document).SerializeToString(deterministic=True) == complete(load(proto)).SerializeToString(
        deterministic=True
    )


def test_the_factor_of_a_channel_that_is_always_zero_is_bounded() -> None:
    proto = depthwise()
    tensors = {t.name: t for t in proto.graph.initializer}
    for name in ("w", "b"):
        array = onnx.numpy_helper.to_array(tensors[name]).copy()
        array[2] = 0
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    document, done = balanced(proto)
    assert done
    after = {t.name: onnx.numpy_helper.to_array(t) for t in complete(document).graph.initializer}
    assert all(np.isfinite(v).all() for v in after.values())
    for feed in SAMPLES:
        assert difference(outputs(proto, feed), outputs(complete(document), feed)) < 2e-6


def rounded(values_: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A coarse weight: four bits, so that there is something to correct."""
    step = np.abs(values_).max() / 7
    return (np.rint(values_ / step) * step).astype(np.float32)


def test_corrected_biases_remove_the_mean_error() -> None:
    proto = depthwise("Relu")
    document = load(proto)
    placement = place(GraphEditor(document.proto.graph))
    made = static(complete(document), {"x": np.concatenate([f["x"] for f in SAMPLES])})
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    feeds = open_feeds(SAMPLES, [Input("x", "tensor(float)", ("n", 6, "h", "w"))])
    changes = bias_.corrections(
        document,
        bias_.RoundedKernels(placement, made.codes, made.ranges, lambda n: rounded(weights[n])),
        undivided(feeds),
    ).whole
    assert list(changes) == ["a", "e", "y"]
    bias_.correct(document, changes)
    after = {n.output[0]: n for n in document.proto.graph.node if n.op_type == "Conv"}
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in complete(document).graph.initializer}
    moved = 0.0
    for kernel in (n for n in proto.graph.node if n.op_type == "Conv"):
        # The oracle: this kernel alone, float input rounded by hand, coarse weight, new bias; means in float64.
        name, x = kernel.output[0], kernel.input[0]
        scale, zero = made.codes.parameters(*made.ranges[placement.tensors[x].source])
        bias = constants[after[name].input[2]]
        alone = onnx.NodeProto()
        alone.CopyFrom(kernel)
        alone.input[:] = ["q", "k", "c"]
        error, old = [], []
        for feed in SAMPLES:
            seen = values(proto, [x, name], feed)
            codes = np.clip(np.rint(seen[x].astype(np.float64) / float(scale)) + int(zero), 0, 255)
            q = ((codes - int(zero)) * float(scale)).astype(np.float32)
            constant = {"k": rounded(weights[kernel.input[1]]), "c": bias}
            small = graphs.model([alone], {"q": ("float32", q.shape)}, {name: "float32"}, constant)
            got = outputs(small, {"q": q})[name].astype(np.float64)
            error.append((got - seen[name]).mean((0, 2, 3)))
            before = weights[kernel.input[2]] if len(kernel.input) > 2 else np.zeros_like(bias)
            old.append(error[-1] - (bias.astype(np.float64) - before))
        size = np.abs(values(proto, [name], SAMPLES[0])[name]).mean()
        assert np.abs(np.mean(error, 0)).max() < 1e-4 * size
        moved = max(moved, np.abs(np.mean(old, 0)).max() / size)
    assert moved > 1e-2  # there was an error to take up


def test_bias_correction_adds_a_bias_to_a_gemm_without_one(tmp_path: Path) -> None:
    proto = graphs.model(
        [node("Gemm", ["x", "w"], ["y"], transB=1)], {"x": ("float32", ["n", 6])}, {"y": "float32"}, {"w": weight(3, 6)}
    )
    samples = [{"x": graphs.rng(s).uniform(0, 2, (4, 6)).astype(np.float32)} for s in range(5)]
    document = load(proto)
    placement = place(GraphEditor(document.proto.graph))
    made = static(proto, {"x": np.concatenate([f["x"] for f in samples])})
    w = weight(3, 6)
    feeds = open_feeds(samples, [Input("x", "tensor(float)", ("n", 6))])
    changes = bias_.corrections(
        document, bias_.RoundedKernels(placement, made.codes, made.ranges, lambda _: rounded(w)), undivided(feeds)
    ).whole
    assert list(changes) == ["y"]
    bias_.correct(document, changes)
    bias = onnx.numpy_helper.to_array(document.proto.graph.initializer[-1])
    expected = np.mean(
        [(f["x"] @ w.T.astype(np.float64) - f["x"] @ rounded(w).T.astype(np.float64)).mean(0) for f in samples], 0
    )
    np.testing.assert_allclose(bias, expected, atol=0.02 * np.abs(expected).max() + 2e-3)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("factor", [0.0, 1e-8, 1e-40])
@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_biases_of_zero_and_tiny_channels_fit(op: str, factor: float, tmp_path: Path) -> None:
    """Steps of such a channel would be so small that its bias does not fit an int32."""
    w, v, b = 16 * weight(16, 27), 8 * weight(24, 16, seed=2), 20 * weight(16, seed=4)
    w[3], b[3] = w[3] * np.float32(factor), 15
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"]) if op == "Conv" else node("Gemm", ["x", "w", "b"], ["a"], transB=1),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "v"], ["y"]) if op == "Conv" else node("Gemm", ["r", "v"], ["y"], transB=1),
    ]
    if op == "Conv":
        w, v = w.reshape(16, 27, 1, 1), v.reshape(24, 16, 1, 1)
    x = graphs.rng(2).standard_normal((8, 27, 2, 2) if op == "Conv" else (8, 27)).astype(np.float32)
    proto = graphs.model(nodes, {"x": ("float32", ["n", *x.shape[1:]])}, {"y": "float32"}, {"w": w, "v": v, "b": b})
    model, output = graphs.save(proto, tmp_path / "model.onnx"), tmp_path / "out.onnx"
    np.savez(tmp_path / "data.npz", x=x)
    plain = {"calibration_method": "minmax", "smooth": False, "equalize": False, "solver": "rtn"}
    report = onnxquant.quantize(model, output, activations="static", data=str(tmp_path / "data.npz"), **plain)
    assert report.proof and not report.proof.problems
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    expected, got = (ort.InferenceSession(path, options).run(None, {"x": x})[0] for path in (model, output))
    assert sqnr_db(expected, got) > 30
