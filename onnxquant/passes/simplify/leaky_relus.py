"""Leaky rectifiers that are written with other operators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op, set_attribute
from onnxquant.passes.base import Pass, PassResult

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


@dataclass(frozen=True)
class JoinLeakyRelus(Pass):
    """Makes one LeakyRelu of what computes the same, because onnxruntime has an integer kernel for that alone.

    1. A Max of an activation and the same times one constant from 0 to 1; nothing else reads the product.

           Max(x, Mul(x, 0.2))   ->   LeakyRelu(x, alpha = 0.2)

    2. A PRelu whose constant slopes are all the same.

           PRelu(x, [0.2, 0.2])  ->   LeakyRelu(x, alpha = 0.2)
    """

    name = "join-leaky-relus"
    summary = "makes one LeakyRelu of a Max of x and a x, and of a PRelu of one slope"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        editor = GraphEditor(document.proto.graph)
        count = 0
        for node in list(editor.nodes):
            if is_op(node, "PRelu"):
                slope = _single_value(document, editor, node.input[1])
                count += slope is not None and _become(editor, node, node.input[0], slope)
            elif is_op(node, "Max") and len(node.input) == 2:
                count += _join_max(document, editor, node)
        editor.apply()
        note = f"{count} leaky rectifiers written as LeakyRelu"
        return PassResult(True, (note,)) if count else PassResult()


def _join_max(document: Document, editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Make a LeakyRelu of a Max of an activation and its product with one constant."""
    for x, scaled in (tuple(node.input), tuple(reversed(node.input))):
        product = editor.producer(scaled)
        if product is None or not is_op(product, "Mul") or x not in product.input:
            continue
        factor = next((name for name in product.input if name != x), "")
        slope = _single_value(document, editor, factor, axes=0)
        if slope is not None and 0 <= slope <= 1 and editor.single_consumer(scaled) is node:
            editor.remove(product)
            return _become(editor, node, x, slope)
    return False


def _become(editor: GraphEditor, node: onnx.NodeProto, x: str, slope: float) -> bool:
    """Make a node the LeakyRelu of an activation, in place."""
    place = list(node.input).index(x)
    if place:
        editor.connect(node, 0, x)
    editor.connect(node, 1, "")
    del node.input[1:]
    node.op_type = "LeakyRelu"
    set_attribute(node, "alpha", slope)
    return True


def _single_value(document: Document, editor: GraphEditor, name: str, axes: int | None = None) -> float | None:
    """The one value that a constant consists of; None where it has several, or more axes of length 1 than ``axes``."""
    tensor = editor.constant(name)
    if tensor is None or tensor.data_type not in _FLOATS or (axes is not None and len(tensor.dims) > axes + 1):
        return None
    values = document.array(tensor).reshape(-1)
    if values.size == 0 or not np.isfinite(values).all() or (values != values[0]).any():
        return None
    return float(values[0]) if axes is None or values.size == 1 else None
