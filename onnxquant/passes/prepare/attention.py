"""Attention of onnxruntime's optimizer as a product and attention on what it projects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import attribute
from onnxquant.graph.shapes import UNKNOWN, Known, infer
from onnxquant.graph.traverse import graphs
from onnxquant.passes.base import Pass, PassResult

# Smaller weights gain nothing from a kernel of their own on floats: they are decoded at load in any case.
_ELEMENTS = 1 << 16
# Inputs of Attention, and the opset in which Split got its lengths as an input.
_X, _WEIGHT, _BIAS, _MASK, _PAST, _ADDED, _PAST_LENGTH = range(7)
_SPLIT_INPUTS = 13
# Attributes that both operators have and understand alike.
_SHARED = ("num_heads", "unidirectional", "scale", "mask_filter_value")


@dataclass(frozen=True)
class SplitAttention(Pass):
    """Takes the product with the weight of queries, keys and values out of Attention, so that a kernel can decode it.

    1. com.microsoft.Attention with a constant float32 weight that is not small becomes a MatMul, a Split and
       com.microsoft.MultiHeadAttention.

           Attention(x, W, b, mask)   ->   MultiHeadAttention(Split(MatMul(x, W)), b, mask)

    2. The mask has two axes, or gives the lengths that EmbedLayerNormalization counts.
    3. Attention with past keys and values, rotary embedding or further outputs stays.

    Attributes:
        least: elements of the smallest weight.
    """

    name = "split-attention"
    summary = "takes the product with the weight of queries, keys and values out of Attention"

    least: int = _ELEMENTS

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        if not any(_is_attention(node) for graph in graphs(document.proto.graph) for node in graph.node):
            return PassResult()
        known, count = infer(document), 0
        for editor in graph_editors(document):
            splits = [
                n
                for n in editor.nodes
                if _is_attention(n) and self._is_large(editor, n) and _can_be_split(editor, n, known)
            ]
            for node in splits:
                _split(editor, node, document.opset)
            if splits:
                editor.apply()
            count += len(splits)
        return PassResult(True, (f"{count} Attention split into a product and the rest",)) if count else PassResult()

    def _is_large(self, editor: GraphEditor, node: onnx.NodeProto) -> bool:
        weight = editor.constant(_input(node, _WEIGHT))
        return weight is not None and weight.data_type == onnx.TensorProto.FLOAT and prod(weight.dims) >= self.least


def _is_attention(node: onnx.NodeProto) -> bool:
    return node.op_type == "Attention" and node.domain == MICROSOFT


def _input(node: onnx.NodeProto, position: int) -> str:
    return str(node.input[position]) if len(node.input) > position else ""


def _can_be_split(editor: GraphEditor, node: onnx.NodeProto, known: Mapping[str, Known]) -> bool:
    has_past = any(_input(node, position) for position in (_PAST, _PAST_LENGTH)) or any(node.output[1:])
    if has_past or any(attribute(node, name, 0) for name in ("do_rotary", "past_present_share_buffer")):
        return False
    mask = _input(node, _MASK)
    maker = editor.producer(mask) if mask else None
    # The number of tokens in each row, as the fused embeddings count it and as they do once they are taken apart.
    counted = maker is not None and maker.op_type in ("EmbedLayerNormalization", "ReduceSum")
    rank = known.get(mask, UNKNOWN).rank
    return not mask or (counted and rank in (1, None)) or rank == 2


def _split(editor: GraphEditor, node: onnx.NodeProto, opset: int) -> None:
    weight, output = editor.constant(node.input[_WEIGHT]), node.output[0]
    if weight is None:
        return
    lengths = list(attribute(node, "qkv_hidden_sizes", [])) or [weight.dims[1] // 3] * 3
    projected = editor.names.fresh(f"{output}/projected")
    parts = [editor.names.fresh(f"{output}/{part}") for part in ("query", "key", "value")]
    split = onnx.helper.make_node("Split", [projected], parts, name=editor.names.fresh(f"{output}/Split"), axis=-1)
    if opset < _SPLIT_INPUTS:
        split.attribute.append(onnx.helper.make_attribute("split", lengths))
    else:
        split.input.append(editor.add_constant(f"{output}/sizes", np.array(lengths, np.int64)))
    rest = [*parts, *(_input(node, position) for position in (_BIAS, _MASK, _ADDED))]
    while not rest[-1]:
        rest.pop()
    heads = onnx.helper.make_node("MultiHeadAttention", rest, [output], name=node.name, domain=MICROSOFT)
    heads.attribute.extend(a for a in node.attribute if a.name in _SHARED)
    product = [node.input[_X], node.input[_WEIGHT]]
    nodes = [
        onnx.helper.make_node("MatMul", product, [projected], name=editor.names.fresh(f"{output}/MatMul")),
        split,
        heads,
    ]
    editor.remove(node)
    editor.insert_before(node, nodes)
