"""Transposes of channels-last models sink and cancel; others stay where fusions look for them."""

from __future__ import annotations

from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import captures, model, node, rng, weight

from onnxquant.passes.simplify.transposes import SinkTransposes

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
X = {"x": rng(3).standard_normal((1, 4, 6, 5)).astype(np.float32)}


def turn(source: str, target: str, perm: list[int]) -> onnx.NodeProto:
    return node("Transpose", [source], [target], name=f"to {target}", perm=perm)


def build(nodes: list[onnx.NodeProto], *outputs: str, **constants: Any) -> onnx.ModelProto:
    convs = {"w": weight(4, 4, 3, 3)}
    return model(nodes, {"x": ("float32", [1, 4, 6, 5])}, dict.fromkeys(outputs, "float32"), convs | constants)


@pytest.mark.parametrize("shape", [(), (4,), (5, 4), (1, 1, 1, 4), (6, 1, 1)])
def test_conv_activation_conv(shape: tuple[int, ...]) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        turn("a", "t", LAST),
        node("Mul", ["k", "t"], ["m"], name="mul"),
        node("Relu", ["m"], ["r"], name="relu"),
        turn("r", "u", FIRST),
        node("Conv", ["u", "w"], ["y"]),
    ]
    document, note = agreement.check(
        build(nodes, "y", k=weight(*shape) if shape else np.float32(2)), SinkTransposes(), X
    )
    assert note == "2 Transposes of channels-last layouts cancelled"
    assert agreement.ops(document) == {"Conv": 2, "Mul": 1, "Relu": 1}


def test_a_residual_with_several_readers() -> None:
    nodes = [
        turn("x", "h", LAST),
        turn("h", "hf", FIRST),
        node("Conv", ["hf", "w"], ["a"], pads=[1, 1, 1, 1]),
        turn("a", "t", LAST),
        node("Add", ["t", "h"], ["s"]),
        node("Clip", ["s", "low"], ["c"]),
        turn("c", "cf", FIRST),
        node("Conv", ["cf", "w"], ["b"], pads=[1, 1, 1, 1]),
        turn("b", "bl", LAST),
        node("Add", ["bl", "c"], ["y"]),
    ]
    document, _ = agreement.check(build(nodes, "y", low=np.float32(-0.5)), SinkTransposes(), X)
    assert agreement.ops(document) == {"Transpose": 1, "Conv": 2, "Add": 2, "Clip": 1}


def test_outputs_and_captured_names_keep_theirs() -> None:
    inner = captures("r", "Neg", "Abs")
    nodes = [
        turn("x", "t", LAST),
        node("Relu", ["t"], ["r"], name="relu"),
        turn("r", "u", FIRST),
        node("Sigmoid", ["u"], ["v"]),
        turn("v", "p", LAST),
        node("Tanh", ["p"], ["q"]),
        turn("q", "y", FIRST),
        node("If", ["which"], ["z"], then_branch=inner[0], else_branch=inner[1]),
    ]
    document, note = agreement.check(build(nodes, "y", "z", which=np.array(True)), SinkTransposes(), X, within=0)
    assert note == "3 Transposes of channels-last layouts cancelled"
    assert agreement.ops(document)["Transpose"] == 1


@pytest.mark.parametrize(
    "nodes",
    [
        [turn("x", "t", [0, 2, 1, 3]), node("Mul", ["t", "t"], ["m"]), turn("m", "y", [0, 2, 1, 3])],
        [turn("x", "t", LAST), node("Relu", ["t"], ["r"]), turn("r", "y", LAST)],
        [turn("x", "t", LAST), node("Softmax", ["t"], ["r"], axis=1), turn("r", "y", FIRST)],
        [turn("x", "t", LAST), turn("x", "u", FIRST), node("ReduceMax", ["u"], ["m"]), node("Add", ["t", "m"], ["y"])],
    ],
    ids=["heads", "turned twice", "not elementwise", "only one turned"],
)
def test_left_as_it_was(nodes: list[onnx.NodeProto]) -> None:
    proto = build(nodes, "y")
    document, note = agreement.check(proto, SinkTransposes(), X)
    assert note is None and [n.op_type for n in document.proto.graph.node] == [n.op_type for n in nodes]
    assert len(document.proto.graph.initializer) == len(proto.graph.initializer)
