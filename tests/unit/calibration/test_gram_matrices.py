"""Gram matrices of what kernels read, against columns that onnxruntime gathers with one-hot kernels."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from agreement import outputs
from graphs import node, weight
from numpy.typing import NDArray
from rounded import values

from onnxquant.activations.placement import place
from onnxquant.calibration import gram_matrices as grams_
from onnxquant.calibration.feeds import Feeds, Input, open_feeds
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import load
from onnxquant.graph.node import attribute

Array = NDArray[Any]


def ready(
    proto: onnx.ModelProto, samples: list[dict[str, Array]], *, centred: bool = True
) -> tuple[Any, list[grams_.Reader], Feeds]:
    document = load(proto)
    dims = {t.name: tuple(t.dims) for t in document.proto.graph.initializer}
    x = samples[0]["x"]
    feeds = open_feeds(samples, [Input("x", "tensor(float)", ("n", *x.shape[1:]))])
    nodes = [u.node for u in place(GraphEditor(document.proto.graph)).kernels]
    readers = [grams_.Reader(n, n.input[1], dims[n.input[1]], centred and n.op_type in ("Conv", "Gemm")) for n in nodes]
    return document, readers, feeds


def found(proto: onnx.ModelProto, samples: list[dict[str, Array]], **options: Any) -> dict[str, Array]:
    centred = options.pop("centred", True)
    return {n: g for n, g, _ in grams_.grams(*ready(proto, samples, centred=centred), **options)}


def expected(columns: Array, *, centred: bool = True) -> Array:
    """Of columns [positions, cols]."""
    columns = columns.astype(np.float64)
    return (columns - columns.mean(0) * centred).T @ (columns - columns.mean(0) * centred)


def gathered(conv: onnx.NodeProto, x: Array, shape: tuple[int, ...]) -> list[Array]:
    """Columns [positions, cols] of each group: outputs of a Conv with one kernel per column, one weight of it 1."""
    cols, groups = int(np.prod(shape[1:])), attribute(conv, "group", 1)
    alone = onnx.NodeProto()
    alone.CopyFrom(conv)
    alone.input[:], alone.output[:] = ["x", "one"], ["y"]
    for entry in alone.attribute:
        if entry.name == "group":
            entry.i = 1
    constant = {"one": np.eye(cols, dtype=np.float32).reshape(cols, *shape[1:])}
    got = []
    for part in np.split(x, groups, axis=1):
        proto = graphs.model([alone], {"x": ("float32", part.shape)}, {"y": "float32"}, constant)
        got.append(np.moveaxis(outputs(proto, {"x": part})["y"], 1, -1).reshape(-1, cols))
    return got


GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    # weight, input without samples, attributes
    "plain": ((5, 4, 3, 3), (4, 9, 8), {}),
    "pointwise": ((5, 4, 1, 1), (4, 9, 8), {}),
    "pads": ((5, 4, 3, 2), (4, 7, 8), {"pads": [1, 0, 2, 3]}),
    "strides": ((5, 4, 3, 3), (4, 11, 14), {"strides": [2, 3], "pads": [1, 1, 1, 1]}),
    "dilations": ((5, 4, 3, 2), (4, 11, 12), {"dilations": [2, 3], "pads": [2, 1, 0, 1]}),
    "same upper": ((5, 4, 3, 4), (4, 10, 9), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((5, 4, 3, 4), (4, 10, 9), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "valid": ((5, 4, 3, 4), (4, 10, 9), {"auto_pad": "VALID", "strides": [1, 2]}),
    "groups": ((6, 2, 3, 3), (6, 9, 8), {"group": 3, "pads": [1, 1, 1, 1]}),
    "depthwise": ((6, 1, 3, 3), (6, 9, 8), {"group": 6, "strides": [2, 2]}),
    "two per channel": ((12, 1, 3, 3), (6, 9, 8), {"group": 6}),
    "one axis": ((5, 4, 3), (4, 30), {"strides": [2], "pads": [2, 1]}),
    "three axes": ((3, 2, 2, 3, 2), (2, 5, 6, 5), {"strides": [2, 1, 2], "pads": [1, 0, 0, 0, 2, 1]}),
}


@pytest.mark.parametrize("case", GEOMETRIES)
def test_windows_of_convolutions_equal_those_of_onnxruntime(case: str) -> None:
    shape, space, attributes = GEOMETRIES[case]
    conv = node("Conv", ["r", "w"], ["y"], **attributes)
    made = [node("Relu", ["x"], ["r"]), conv]
    proto = graphs.model(made, {"x": ("float32", ["n", *space])}, {"y": "float32"}, {"w": weight(*shape)})
    samples = [{"x": graphs.rng(s).standard_normal((1, *space)).astype(np.float32)} for s in range(6)]
    got = found(proto, samples)["w"]
    parts = [gathered(conv, values(proto, ["r"], feed)["r"], shape) for feed in samples]
    assert len(parts[0][0]) <= grams_.POSITIONS
    want = [expected(np.concatenate(columns)) for columns in zip(*parts, strict=True)]
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gemm transposed"])
@pytest.mark.parametrize("centred", [True, False])
def test_the_mean_is_subtracted_only_where_a_bias_can_correct_it(op: str, centred: bool) -> None:
    w = weight(9, 40) if op == "Gemm transposed" else weight(40, 9)
    product = node(op.split()[0], ["x", "w"], ["y"], **({"transB": 1} if op == "Gemm transposed" else {}))
    proto = graphs.model([product], {"x": ("float32", ["n", 40])}, {"y": "float32"}, {"w": w})
    # A mean that would leave nothing of the differences in float32.
    samples = [{"x": (1e4 + graphs.rng(s).standard_normal((3, 40))).astype(np.float32)} for s in range(30)]
    got = found(proto, samples, centred=centred)["w"]
    x = np.concatenate([s["x"] for s in samples])
    np.testing.assert_allclose(got[0], expected(x, centred=centred and op != "MatMul"), rtol=1e-9, atol=1e-6)


def shared() -> onnx.ModelProto:
    """Products that share a weight, one whose input is an output too, and one more."""
    made = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w"], ["c"]),
        node("MatMul", ["c", "v"], ["y"]),
    ]
    constants = {"w": weight(24, 24), "v": weight(24, 7)}
    names = {"y": "float32", "c": "float32"}
    return graphs.model(made, {"x": ("float32", ["n", 5, 24])}, names, constants)


SAMPLES = [{"x": graphs.rng(s).standard_normal((2, 5, 24)).astype(np.float32)} for s in range(9)]


def test_kernels_that_share_a_weight_are_summed() -> None:
    proto = shared()
    got = found(proto, SAMPLES)
    seen = [values(proto, ["x", "b", "c"], feed) for feed in SAMPLES]
    both = np.concatenate([s[n].reshape(-1, 24) for s in seen for n in ("x", "b")])
    assert list(got) == ["w", "v"]
    np.testing.assert_allclose(got["w"][0], expected(both, centred=False), rtol=1e-5, atol=1e-5)
    last = np.concatenate([s["c"].reshape(-1, 24) for s in seen])
    np.testing.assert_allclose(got["v"][0], expected(last, centred=False), rtol=1e-4, atol=1e-4)


def test_less_memory_takes_more_runs_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    observe = grams_._observe
    monkeypatch.setattr(grams_, "_observe", lambda m, n, sums, *rest: runs.append(len(sums)) or observe(m, n, sums, *rest))
    whole, parts = found(shared(), SAMPLES), found(shared(), SAMPLES, memory=24 * 24 * 8 * 2)
    assert runs == [3, 2, 1]
    for name, gram in whole.items():
        np.testing.assert_array_equal(parts[name], gram)


def test_weights_with_too_large_matrices_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "v"], ["y"])]
    constants = {"w": weight(24, 30), "v": weight(30, 7)}
    proto = graphs.model(made, {"x": ("float32", ["n", 5, 24])}, {"y": "float32"}, constants)
    assert list(found(proto, SAMPLES)) == ["w", "v"]
    monkeypatch.setattr(grams_, "LARGEST", 8 * 29 * 29)
    assert list(found(proto, SAMPLES)) == ["w"]


def test_sampled_positions_are_the_same_each_time() -> None:
    conv = node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    proto = graphs.model([conv], {"x": ("float32", ["n", 2, 40, 40])}, {"y": "float32"}, {"w": weight(3, 2, 3, 3)})
    smooth = [graphs.rng(s).standard_normal((1, 2, 44, 44)).astype(np.float32) for s in range(30)]
    samples = [{"x": x[..., 4:, 4:] + x[..., :-4, :-4] + x[..., 3:-1, 4:]} for x in smooth]
    got = found(proto, samples)["w"]
    np.testing.assert_array_equal(got, found(proto, samples)["w"])
    want = expected(np.concatenate([gathered(conv, s["x"], (3, 2, 3, 3))[0] for s in samples]))
    share = grams_.POSITIONS / 1600
    np.testing.assert_allclose(got[0] / share, want, atol=0.05 * want.max())
