"""Channels-last models: the Transposes that a converter put around every Conv sink through elementwise ops and cancel.

``f(T(a), T(b)) = T(f(a, b))`` for an elementwise f, and two Transposes one after the other are one or none. Conv and
activation then lie beside each other, so that their integer forms fuse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnxquant.graph.flow import Flow, attribute, flows, is_op
from onnxquant.graph.io import Document

_UNARY: tuple[str, ...] = (
    "Relu",
    "LeakyRelu",
    "Clip",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Elu",
    "Selu",
    "Softplus",
    "Erf",
)
_UNARY += ("Abs", "Neg", "Exp", "Log", "Sqrt", "Gelu", "Swish", "Mish", "Cast")
_SEVERAL = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Sum")


def sink_transposes(document: Document) -> str | None:
    """Move Transposes between channels-first and channels-last down, in each graph that has fewer of them then."""
    gone = 0
    for flow in flows(document):
        before = _count(flow.graph)
        if before < 2:
            continue
        backup = [onnx.NodeProto.FromString(n.SerializeToString()) for n in flow.graph.node]
        for node in list(flow.graph.node):
            if _is_layout(node):
                _merge(flow, node)
            elif is_op(node, *_UNARY, *_SEVERAL):
                _sink(document, flow, node)
        for node in reversed(flow.nodes):
            if is_op(node, "Transpose") and not flow.is_removed(node) and not flow.is_read(node.output[0]):
                flow.remove(node)
        if flow.count("Transpose") < before:
            flow.apply()
            gone += before - _count(flow.graph)
        else:
            flow.discard(backup)
    return f"{gone} Transposes of channels-last layouts cancelled" if gone else None


def _count(graph: onnx.GraphProto) -> int:
    return sum(is_op(n, "Transpose") for n in graph.node)


def _is_layout(node: onnx.NodeProto | None) -> bool:
    """Whether a node moves the channels of an image behind its axes, or back: not what attention does to its heads."""
    if node is None or not is_op(node, "Transpose"):
        return False
    perm = attribute(node, "perm") or []
    rank = len(perm)
    return rank >= 4 and perm in ([0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)])


def _merge(flow: Flow, node: onnx.NodeProto) -> None:
    """Drop a Transpose that undoes the one before it."""
    before = flow.producer(node.input[0])
    if before is None or not _is_layout(before):
        return
    first, second = attribute(before, "perm"), attribute(node, "perm")
    if len(first) == len(second) and [first[i] for i in second] == list(range(len(first))):
        flow.bypass(node, before.input[0])


def _sink(document: Document, flow: Flow, node: onnx.NodeProto) -> None:
    """Let an elementwise node read what lies before the Transposes of its inputs, and transpose what it makes."""
    positions = [0] if is_op(node, *_UNARY) else list(range(len(node.input)))
    makers = {p: flow.producer(node.input[p]) for p in positions if flow.constant(node.input[p]) is None}
    perms = [attribute(m, "perm") if m is not None and _is_layout(m) else None for m in makers.values()]
    if not perms or perms[0] is None or any(p != perms[0] for p in perms):
        return
    perm: Sequence[int] = perms[0]
    operands = {}
    for position in set(positions) - set(makers):
        tensor = flow.constant(node.input[position])
        assert tensor is not None
        values = document.array(tensor)
        if values.ndim > len(perm):
            return
        if values.size > 1:
            complete = values.reshape((1,) * (len(perm) - values.ndim) + values.shape)
            operands[position] = complete.transpose(np.argsort(perm))
    for position, values in operands.items():
        flow.connect(node, position, flow.add_constant(f"{node.input[position]}_turned", values))
    for position, maker in makers.items():
        assert maker is not None
        flow.connect(node, position, maker.input[0])
    output = node.output[0]
    made = flow.fresh(f"{output}_turned")
    flow.rename_output(node, output, made)
    name = flow.fresh(f"{output}_turned/node")
    flow.insert_after(node, [onnx.helper.make_node("Transpose", [made], [output], name=name, perm=list(perm))])
