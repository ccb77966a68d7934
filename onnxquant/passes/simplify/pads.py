"""Pad nodes become the pads of the Conv or pooling that reads them, where that is the same function."""

from __future__ import annotations

import numpy as np
import onnx

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op, set_attribute
from onnxquant.graph.shapes import UNKNOWN, infer

# A window of MaxPool over padding of its own sees minus infinity there, not zero: the same for these inputs only. Padding
# by copies of the edge is always the same: smaller than the window, it never comes without the edge itself.
_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softplus", "Exp", "Abs", "Softmax")


def fold_pads(document: Document) -> str | None:
    """Fold each Pad of zeros, or of edges before MaxPool, into its readers, if each is a Conv or pooling that takes it."""
    folded = 0
    known = infer(document)
    for editor in graph_editors(document):
        for node in list(editor.graph.node):
            if is_op(node, "Pad") and _fold(document, editor, node, known.get(node.input[0], UNKNOWN).rank):
                folded += 1
        editor.apply()
    return f"{folded} Pad nodes folded into the ops that read them" if folded else None


def _fold(document: Document, editor: GraphEditor, node: onnx.NodeProto, rank: int | None) -> bool:
    pads = _pads(document, editor, node, rank)
    name = node.output[0]
    while pads and is_op(transpose := editor.single_consumer(name), "Transpose"):
        assert transpose is not None
        perm = attribute(transpose, "perm") or list(range(len(pads) // 2))[::-1]
        name, pads = transpose.output[0], [pads[p + start] for start in (0, len(perm)) for p in perm]
    spatial = _spatial(pads)
    readers = editor.consumers(name)
    if spatial is None or not readers or not editor.is_private(name):
        return False
    edge = attribute(node, "mode", "constant") == "edge"
    as_maximum = edge or _is_not_negative(editor, node.input[0])
    made = [_taken(reader, name, spatial, as_maximum) for reader in readers]
    if any(m is None for m in made) or (edge and not all(is_op(r, "MaxPool") for r in readers)):
        return False
    for reader, total in zip(readers, made, strict=True):
        set_attribute(reader, "auto_pad", None)
        set_attribute(reader, "pads", total)
        if is_op(reader, "AveragePool"):
            set_attribute(reader, "count_include_pad", 1)
    return editor.bypass(node, node.input[0])


def _pads(document: Document, editor: GraphEditor, node: onnx.NodeProto, rank: int | None) -> list[int] | None:
    """Pads of all axes, begins then ends; None when the node adds neither zeros nor edges."""
    if attribute(node, "mode", "constant") not in ("constant", "edge"):
        return None
    if len(node.input) == 1:  # before opset 11
        pads, value = attribute(node, "pads"), attribute(node, "value", 0.0)
    else:
        tensor = editor.constant(node.input[1])
        pads = None if tensor is None else document.array(tensor).tolist()
        value = 0.0
        if len(node.input) > 2 and node.input[2] and attribute(node, "mode", "constant") == "constant":
            constant = editor.constant(node.input[2])
            value = np.nan if constant is None else float(document.array(constant).reshape(-1)[0])
    if pads is not None and len(node.input) > 3 and node.input[3]:
        pads = _of_all_axes(document, editor, node, pads, rank)
    if pads is None or value != 0:
        return None
    return None if any(p < 0 for p in pads) else [int(p) for p in pads]


def _of_all_axes(
    document: Document, editor: GraphEditor, node: onnx.NodeProto, pads: list[int], rank: int | None
) -> list[int] | None:
    """Pads of all axes from those of some (opset 18)."""
    tensor = editor.constant(node.input[3])
    if tensor is None or rank is None:
        return None
    axes, complete = document.array(tensor).tolist(), [0] * (2 * rank)
    for i, axis in enumerate(axes):
        complete[axis % rank], complete[axis % rank + rank] = pads[i], pads[i + len(axes)]
    return complete


def _spatial(pads: list[int] | None) -> list[int] | None:
    """Pads of the spatial axes; None when others are padded."""
    rank = len(pads or []) // 2
    if pads is None or rank < 3 or any(pads[:2] + pads[rank : rank + 2]):
        return None
    return [*pads[2:rank], *pads[rank + 2 :]]


def _taken(reader: onnx.NodeProto, name: str, pads: list[int], as_maximum: bool) -> list[int] | None:
    """The pads that a reader has with a Pad folded into it; None when it cannot take them."""
    if not is_op(reader, "Conv", "AveragePool", "MaxPool") or list(reader.input).count(name) != 1:
        return None
    if reader.input[0] != name or attribute(reader, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    own = attribute(reader, "pads", [0] * len(pads)) if attribute(reader, "auto_pad", "NOTSET") == "NOTSET" else None
    own = own or [0] * len(pads)
    if len(own) != len(pads):
        return None
    total = [a + b for a, b in zip(own, pads, strict=True)]
    if is_op(reader, "Conv"):
        return total
    kernel = attribute(reader, "kernel_shape")
    # A window wholly inside padding is refused by onnxruntime; one that ceil_mode adds is counted differently.
    if attribute(reader, "ceil_mode", 0) or any(p >= k for p, k in zip(total, [*kernel, *kernel], strict=True)):
        return None
    if is_op(reader, "AveragePool"):
        # Zeros of a Pad are counted; padding of the pooling's own is counted only if it says so.
        return total if attribute(reader, "count_include_pad", 0) or not any(own) else None
    plain = not any(own) and len(reader.output) == 1 and max(attribute(reader, "dilations", [1])) == 1
    return total if plain and as_maximum else None


def _is_not_negative(editor: GraphEditor, name: str) -> bool:
    node = editor.producer(name)
    while is_op(node, "Transpose"):
        assert node is not None
        node = editor.producer(node.input[0])
    return is_op(node, *_NOT_NEGATIVE)
