"""Channels-last models: the Transposes that a converter put around every Conv sink through elementwise ops and cancel.

``f(T(a), T(b)) = T(f(a, b))`` for an elementwise f, and two Transposes one after the other are one or none. Conv and
activation then lie beside each other, so that their integer forms fuse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op

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
    for editor in graph_editors(document):
        before = _count(editor.graph)
        if before < 2:
            continue
        backup = [onnx.NodeProto.FromString(n.SerializeToString()) for n in editor.graph.node]
        for node in list(editor.graph.node):
            if _is_layout(node):
                _merge(editor, node)
            elif is_op(node, *_UNARY, *_SEVERAL):
                _sink(document, editor, node)
        for node in reversed(editor.nodes):
            if is_op(node, "Transpose") and not editor.is_removed(node) and not editor.is_read(node.output[0]):
                editor.remove(node)
        if editor.count("Transpose") < before:
            editor.apply()
            gone += before - _count(editor.graph)
        else:
            editor.discard(backup)
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


def _merge(editor: GraphEditor, node: onnx.NodeProto) -> None:
    """Drop a Transpose that undoes the one before it."""
    before = editor.producer(node.input[0])
    if before is None or not _is_layout(before):
        return
    first, second = attribute(before, "perm"), attribute(node, "perm")
    if len(first) == len(second) and [first[i] for i in second] == list(range(len(first))):
        editor.bypass(node, before.input[0])


def _sink(document: Document, editor: GraphEditor, node: onnx.NodeProto) -> None:
    """Let an elementwise node read what lies before the Transposes of its inputs, and transpose what it makes."""
    positions = [0] if is_op(node, *_UNARY) else list(range(len(node.input)))
    makers = {p: editor.producer(node.input[p]) for p in positions if editor.constant(node.input[p]) is None}
    perms = [attribute(m, "perm") if m is not None and _is_layout(m) else None for m in makers.values()]
    if not perms or perms[0] is None or any(p != perms[0] for p in perms):
        return
    perm: Sequence[int] = perms[0]
    operands = {}
    for position in set(positions) - set(makers):
        tensor = editor.constant(node.input[position])
        assert tensor is not None
        values = document.array(tensor)
        if values.ndim > len(perm):
            return
        if values.size > 1:
            complete = values.reshape((1,) * (len(perm) - values.ndim) + values.shape)
            operands[position] = complete.transpose(np.argsort(perm))
    for position, values in operands.items():
        editor.connect(node, position, editor.add_constant(f"{node.input[position]}_turned", values))
    for position, maker in makers.items():
        assert maker is not None
        editor.connect(node, position, maker.input[0])
    output = node.output[0]
    made = editor.names.fresh(f"{output}_turned")
    editor.rename_output(node, output, made)
    name = editor.names.fresh(f"{output}_turned/node")
    editor.insert_after(node, [onnx.helper.make_node("Transpose", [made], [output], name=name, perm=list(perm))])
