"""Means over images that are written as means over axes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.shapes import UNKNOWN, infer
from onnxquant.passes.base import Pass, PassResult


@dataclass(frozen=True)
class JoinMeans(Pass):
    """Makes a GlobalAveragePool of a ReduceMean over images, because onnxruntime has an integer kernel for that alone.

    1. The tensor is float32 and has four axes, the last two are averaged, and the mean keeps them.

        ReduceMean(x, axes = [2, 3])   ->   GlobalAveragePool(x)
    """

    name = "join-means"
    summary = "makes a GlobalAveragePool of a ReduceMean over images"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        editor = GraphEditor(document.proto.graph)
        means = [node for node in editor.nodes if is_op(node, "ReduceMean") and attribute(node, "keepdims", 1)]
        known = infer(document) if means else {}
        count = 0
        for node in means:
            source = known.get(node.input[0], UNKNOWN)
            if source.rank == 4 and source.elem_type == onnx.TensorProto.FLOAT and _axes(document, editor, node) == {2, 3}:
                _become_pool(editor, node)
                count += 1
        editor.apply()
        note = f"{count} means over images written as GlobalAveragePool"
        return PassResult(True, (note,)) if count else PassResult()


def _axes(document: Document, editor: GraphEditor, node: onnx.NodeProto) -> set[int]:
    """The axes of a ReduceMean: an input since opset 18, an attribute before; empty where they are not stated."""
    axes = list(attribute(node, "axes", []))
    if len(node.input) > 1 and node.input[1]:
        tensor = editor.constant(node.input[1])
        axes = [] if tensor is None else document.array(tensor).reshape(-1).tolist()
    return {axis % 4 for axis in axes}


def _become_pool(editor: GraphEditor, node: onnx.NodeProto) -> None:
    """Make a node the GlobalAveragePool of what it reads, in place."""
    if len(node.input) > 1:
        editor.connect(node, 1, "")
        del node.input[1:]
    node.op_type = "GlobalAveragePool"
    del node.attribute[:]
