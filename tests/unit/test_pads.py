"""Pads folded into what reads them, only where that is the same function."""

from __future__ import annotations

from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import model, node, rng, weight

from onnxquant.passes.simplify.pads import FoldPads

PADS = [0, 0, 1, 2, 0, 0, 0, 1]
X = {"x": rng(3).standard_normal((1, 4, 8, 8)).astype(np.float32)}
IN_PADDING = "a window of the AveragePool that reads it could lie in the padding alone"


def padded(
    *readers: onnx.NodeProto,
    opset: int = 17,
    value: Any = None,
    mode: str = "constant",
    pads: list[int] = PADS,
    source: str = "x",
) -> onnx.ModelProto:
    constants: dict[str, Any] = {"w": weight(5, 4, 3, 3)}
    if opset < 11:
        pad = node("Pad", [source], ["p"], pads=pads, mode=mode, **({} if value is None else {"value": value}))
    else:
        constants["pads"] = np.int64(pads)
        if value is not None:
            constants["value"] = np.float32(value)
        pad = node("Pad", [source, "pads"] + ([] if value is None else ["value"]), ["p"], mode=mode)
    before = [node("Relu", ["x"], [source])] if source != "x" else []
    outputs = {r.output[0]: "float32" for r in readers}
    return model([*before, pad, *readers], {"x": ("float32", [1, 4, 8, 8])}, outputs, constants, opset)


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 17, 19])
@pytest.mark.parametrize("value", [None, 0.0])
@pytest.mark.parametrize("own", [None, [1, 0, 2, 1]])
@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
def test_into_conv(opset: int, value: float | None, own: list[int] | None, strides: list[int]) -> None:
    conv = node("Conv", ["p", "w"], ["y"], strides=strides, **({} if own is None else {"pads": own}))
    document, note = agreement.check(padded(conv, opset=opset, value=value), FoldPads(), X)
    assert note and agreement.ops(document) == {"Conv": 1}


def test_into_a_conv_that_asks_for_no_padding() -> None:
    document, _ = agreement.check(padded(node("Conv", ["p", "w"], ["y"], auto_pad="VALID")), FoldPads(), X)
    assert agreement.ops(document) == {"Conv": 1}


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("own", [None, [1, 1, 1, 0]])
def test_into_average_pool(counted: int, own: list[int] | None) -> None:
    attributes: dict[str, Any] = {"kernel_shape": [4, 4], "count_include_pad": counted, "strides": [2, 2]}
    pool = node("AveragePool", ["p"], ["y"], **attributes, **({} if own is None else {"pads": own}))
    document, note = agreement.check(padded(pool), FoldPads(), X)
    # Own padding that is not counted beside zeros that are: no attribute says that.
    assert (note is None) == (not counted and own is not None)
    assert agreement.ops(document)["Pad"] == (note is None)


@pytest.mark.parametrize("positive", [True, False])
def test_into_max_pool_only_of_what_is_not_negative(positive: bool) -> None:
    proto = padded(node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3]), source="r" if positive else "x")
    feed = {"x": X["x"] - 3}  # whole windows are negative
    # ONNX's reference gives MaxPool with pads that differ by side another shape than its rules do.
    document, note = agreement.check(proto, FoldPads(), feed, within=0, reference=False)
    assert agreement.ops(document)["Pad"] == (not positive) and (note is None) == (not positive)


@pytest.mark.parametrize("kernel", [[3, 3], [2, 3], [1, 3]])
def test_edges_into_max_pool(kernel: list[int]) -> None:
    """A window that sees copies of the edge sees the edge, unless it is no larger than the padding."""
    proto = padded(node("MaxPool", ["p"], ["y"], kernel_shape=kernel, strides=[2, 1]), mode="edge")
    document, note = agreement.check(proto, FoldPads(), {"x": X["x"] - 3}, within=0, reference=False)
    assert (note is None) == (kernel[0] == 1) and agreement.ops(document)["Pad"] == (kernel[0] == 1)


def test_all_readers_or_none() -> None:
    conv = node("Conv", ["p", "w"], ["y"])
    document, _ = agreement.check(padded(conv, node("Conv", ["p", "w"], ["z"], pads=[1, 1, 1, 1])), FoldPads(), X)
    assert agreement.ops(document) == {"Conv": 2}
    document, note = agreement.check(padded(conv, node("Sigmoid", ["p"], ["z"])), FoldPads(), X)
    assert note is None and agreement.ops(document)["Pad"] == 1


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"value": 1.0}, "it does not pad by zeros"),
        ({"mode": "reflect"}, "it is of mode reflect"),
        ({"mode": "edge"}, "Conv has no padding by copies of the edge"),
        ({"pads": [0, 0, -1, 0, 0, 0, 0, 0]}, "it cuts the input"),
        ({"pads": [1, 0, 0, 0, 0, 0, 0, 0]}, "it pads more than spatial axes"),
        ({"pads": [0, 0, 1, 0, 0, -0, -2, 0]}, "it cuts the input"),
    ],
)
def test_other_pads_stay_with_the_reason(case: dict[str, Any], reason: str) -> None:
    cropped = min(case.get("pads", PADS)) < 0  # which ONNX's reference does not do
    proto = padded(node("Conv", ["p", "w"], ["y"]), **case)
    document, note = agreement.check(proto, FoldPads(), X, reference=not cropped)
    assert note is None and agreement.ops(document)["Pad"] == 1
    assert FoldPads()(agreement.load(proto)).refusals == {reason: 1}


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (node("Conv", ["p", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2]), "the Conv that reads it pads by itself"),
        (node("AveragePool", ["p"], ["y"], kernel_shape=[2, 2]), IN_PADDING),
        (node("AveragePool", ["p"], ["y"], kernel_shape=[4, 4], strides=[3, 3], ceil_mode=1), IN_PADDING),
        (node("GlobalAveragePool", ["p"], ["y"]), "GlobalAveragePool reads it, which is no Conv, AveragePool or MaxPool"),
        (node("LpPool", ["p"], ["y"], kernel_shape=[4, 4]), "LpPool reads it, which is no Conv, AveragePool or MaxPool"),
    ],
    ids=["same", "small windows", "ceil", "global", "lp"],
)
def test_readers_that_cannot_take_pads_give_the_reason(reader: onnx.NodeProto, reason: str) -> None:
    proto = padded(reader)
    document, note = agreement.check(proto, FoldPads(), X, reference=reader.op_type != "LpPool")
    assert note is None and agreement.ops(document)["Pad"] == 1
    assert FoldPads()(agreement.load(proto)).refusals == {reason: 1}


def test_more_channels_than_the_weight_are_not_spatial() -> None:
    proto = model(
        [node("Pad", ["x", "pads"], ["p"]), node("Conv", ["p", "w"], ["y"])],
        {"x": ("float32", [1, 4, 8, 8])},
        {"y": "float32"},
        {"w": weight(5, 6, 3, 3), "pads": np.int64([0, 1, 0, 0, 0, 1, 0, 0])},
    )
    assert agreement.check(proto, FoldPads(), X)[1] is None


def test_pads_that_a_caller_gives_stay() -> None:
    proto = model(
        [node("Pad", ["x", "pads"], ["p"]), node("Conv", ["p", "w"], ["y"])],
        {"x": ("float32", [1, 4, 8, 8]), "pads": ("int64", [8])},
        {"y": "float32"},
        {"w": weight(5, 4, 3, 3)},
    )
    assert agreement.check(proto, FoldPads(), X | {"pads": np.int64(PADS)}, reference=False)[1] is None


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3]])
def test_axes(axes: list[int]) -> None:
    proto = model(
        [node("Pad", ["x", "pads", "", "axes"], ["p"]), node("Conv", ["p", "w"], ["y"])],
        {"x": ("float32", [1, 4, 8, 8])},
        {"y": "float32"},
        {"w": weight(5, 4, 3, 3), "pads": np.int64([1, 2, 0, 3][: 2 * len(axes)]), "axes": np.int64(axes)},
        18,
    )
    document, _ = agreement.check(proto, FoldPads(), X)
    assert agreement.ops(document) == {"Conv": 1}


def test_behind_a_transpose() -> None:
    proto = model(
        [
            node("Pad", ["x", "pads"], ["p"]),
            node("Transpose", ["p"], ["t"], perm=[0, 3, 1, 2]),
            node("Conv", ["t", "w"], ["y"]),
        ],
        {"x": ("float32", [1, 8, 9, 4])},
        {"y": "float32"},
        {"w": weight(5, 4, 3, 3), "pads": np.int64([0, 1, 2, 0, 0, 3, 0, 0])},
    )
    document, _ = agreement.check(proto, FoldPads(), {"x": rng().standard_normal((1, 8, 9, 4)).astype(np.float32)})
    assert agreement.ops(document) == {"Transpose": 1, "Conv": 1}
