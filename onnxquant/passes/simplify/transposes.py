"""Cancelling of the Transposes that a converter put around every Conv of a channels-last model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.passes.base import Pass, PassResult

# Operands up to this size may be stored once per reader.
_SMALL = 4096
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


@dataclass(frozen=True)
class SinkTransposes(Pass):
    """Moves Transposes between channels-first and channels-last down, where that leaves fewer of them.

    Conv and activation then lie beside each other, so that their integer forms fuse.

    1. An elementwise op whose inputs are transposed alike reads what lies before the Transposes, and is transposed itself.
       Its constants are transposed back.

           Add(Transpose(a), Transpose(b))    ->   Transpose(Add(a, b))

    2. A Transpose that undoes the one before it is bypassed.

           Conv(Transpose(Transpose(a)))      ->   Conv(a)

    3. A graph that has no fewer Transposes then stays as it was.
    """

    name = "sink-transposes"
    summary = "cancels the Transposes around every Conv of a channels-last model"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        cancelled = 0
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
                cancelled += before - _count(editor.graph)
            else:
                editor.discard(backup)
        note = f"{cancelled} Transposes of channels-last layouts cancelled"
        return PassResult(True, (note,)) if cancelled else PassResult()


def _count(graph: onnx.GraphProto) -> int:
    return sum(is_op(n, "Transpose") for n in graph.node)


def _is_layout(node: onnx.NodeProto | None) -> bool:
    """Whether a node moves the channels of an image behind its axes, or back. Transposes of attention heads do not."""
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
    """Let an elementwise node read the inputs of the Transposes before it, and transpose its output."""
    positions = [0] if is_op(node, *_UNARY) else list(range(len(node.input)))
    constants = {p: tensor for p in positions if (tensor := editor.constant(node.input[p])) is not None}
    makers = {
        p: maker for p in positions if p not in constants and (maker := editor.producer(node.input[p])) is not None
    }
    perms = [attribute(m, "perm") if _is_layout(m) else None for m in makers.values()]
    if (
        not perms
        or perms[0] is None
        or any(p != perms[0] for p in perms)
        or len(makers) + len(constants) < len(positions)
    ):
        return
    perm: Sequence[int] = perms[0]
    operands = {}
    for position, tensor in constants.items():
        values = document.array(tensor)
        if values.ndim > len(perm):
            return
        if values.size > _SMALL and not editor.owns_constant(node, position):
            return  # it would be stored twice
        if values.size > 1:
            complete = values.reshape((1,) * (len(perm) - values.ndim) + values.shape)
            operands[position] = complete.transpose(np.argsort(perm))
    for position, values in operands.items():
        editor.connect(node, position, editor.add_constant(f"{node.input[position]}_turned", values))
    for position, maker in makers.items():
        editor.connect(node, position, maker.input[0])
    output = node.output[0]
    turned = editor.names.fresh(f"{output}_turned")
    editor.rename_output(node, output, turned)
    name = editor.names.fresh(f"{output}_turned/node")
    editor.insert_after(node, [onnx.helper.make_node("Transpose", [turned], [output], name=name, perm=list(perm))])
