"""Embeddings of onnxruntime's optimizer as lookups, a sum and a normalization."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import attribute
from onnxquant.graph.traverse import graphs
from onnxquant.passes.base import Pass, PassResult

# Smaller tables are decoded at load in any case.
_ELEMENTS = 1 << 16
# Opset of Range, and the one in which the axes of ReduceSum became an input.
_OPSET, _AXES_AS_INPUT = 11, 13
_EPSILON = 1e-12
# Inputs of EmbedLayerNormalization.
_IDS, _SEGMENT_IDS, _WORDS, _POSITIONS, _SEGMENTS, _GAMMA, _BETA, _MASK, _POSITION_IDS = range(9)
# Its outputs.
_OUTPUT, _COUNTS, _SUM = range(3)


@dataclass(frozen=True)
class SplitEmbeddings(Pass):
    """Takes EmbedLayerNormalization apart, so that lookups decode rows of its tables.

    1. com.microsoft.EmbedLayerNormalization whose table of words is a large float32 constant becomes a Gather for each
       table, and com.microsoft.SkipLayerNormalization of their sum, in the order of the fused sum.

           EmbedLayerNormalization(i, s, W, P, S, g, b)
             ->   SkipLayerNormalization(Add(Gather(W, i), Gather(P, Range)), Gather(S, s), g, b)

    2. The number of tokens that the mask shows, where somebody reads it, is a ReduceSum.
    3. A node whose count is read, but that has no mask, stays.
    """

    name = "split-embeddings"
    summary = "takes lookups of words, positions and segments out of EmbedLayerNormalization"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        nodes = [node for graph in graphs(document.proto.graph) for node in graph.node]
        if document.opset < _OPSET or not any(map(_is_embedding, nodes)):
            return PassResult()
        count = 0
        for editor in graph_editors(document):
            splits = [node for node in editor.nodes if _is_embedding(node) and _can_be_split(editor, node)]
            for node in splits:
                _split(editor, node, document.opset)
            if splits:
                editor.apply()
            count += len(splits)
        note = f"{count} EmbedLayerNormalization split into lookups and the rest"
        return PassResult(True, (note,)) if count else PassResult()


def _is_embedding(node: onnx.NodeProto) -> bool:
    return node.op_type == "EmbedLayerNormalization" and node.domain == MICROSOFT


def _input(node: onnx.NodeProto, position: int) -> str:
    return str(node.input[position]) if len(node.input) > position else ""


def _output(editor: GraphEditor, node: onnx.NodeProto, position: int) -> str:
    """An output of a node; empty where nobody reads it."""
    name = str(node.output[position]) if len(node.output) > position else ""
    return name if name and editor.is_read(name) else ""


def _can_be_split(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    words = editor.constant(_input(node, _WORDS))
    if words is None or words.data_type != onnx.TensorProto.FLOAT or prod(words.dims) < _ELEMENTS:
        return False
    is_counted = bool(_output(editor, node, _COUNTS))
    has_segments = bool(_input(node, _SEGMENTS)) == bool(_input(node, _SEGMENT_IDS))
    return has_segments and bool(_input(node, _MASK) or not is_counted)


def _split(editor: GraphEditor, node: onnx.NodeProto, opset: int) -> None:
    output, nodes = node.output[_OUTPUT], list[onnx.NodeProto]()

    def add(op: str, inputs: list[str], label: str) -> str:
        result = editor.names.fresh(f"{output}/{label}")
        name = editor.names.fresh(f"{output}/{label}/{op}")
        nodes.append(onnx.helper.make_node(op, inputs, [result], name=name))
        return result

    def integers(label: str, values: int | list[int]) -> str:
        return editor.add_constant(f"{output}/{label}", np.array(values, np.int64))

    ids = _input(node, _IDS)
    places = _input(node, _POSITION_IDS)
    words = add("Gather", [_input(node, _WORDS), ids], "words")
    if places:
        positions = add("Gather", [_input(node, _POSITIONS), places], "positions")
    else:
        length = add("Gather", [add("Shape", [ids], "shape"), integers("axis", 1)], "length")
        places = add("Range", [integers("first", 0), length, integers("step", 1)], "places")
        positions = add("Gather", [_input(node, _POSITIONS), places], "positions")
    summands = [words, positions]
    if _input(node, _SEGMENTS):
        segments = add("Gather", [_input(node, _SEGMENTS), _input(node, _SEGMENT_IDS)], "segments")
        summands = [add("Add", summands, "sum"), segments]
    rest = [*summands, _input(node, _GAMMA), _input(node, _BETA)]
    outputs = [output]
    if summed := _output(editor, node, _SUM):
        outputs += ["", "", summed]
    norm = onnx.helper.make_node("SkipLayerNormalization", rest, outputs, name=node.name, domain=MICROSOFT)
    norm.attribute.append(onnx.helper.make_attribute("epsilon", float(attribute(node, "epsilon", _EPSILON))))
    nodes.append(norm)
    if counts := _output(editor, node, _COUNTS):
        one = editor.add_constant(f"{output}/one", np.array(1, np.int32))
        numbers = [add("Cast", [add("Equal", [_input(node, _MASK), one], "shown")], "numbers")]
        nodes[-1].attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.INT32))
        numbers += [integers("axes", [1])] if opset >= _AXES_AS_INPUT else []
        name = editor.names.fresh(f"{output}/ReduceSum")
        total = onnx.helper.make_node("ReduceSum", numbers, [counts], name=name, keepdims=0)
        total.attribute.extend([] if opset >= _AXES_AS_INPUT else [onnx.helper.make_attribute("axes", [1])])
        nodes.append(total)
    editor.remove(node)
    editor.insert_before(node, nodes)
