"""Folding of QuantizeLinear over constants: weights that a training framework quantizes in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxquant.graph.analysis.quantized import INTEGERS
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.passes.base import Pass, PassResult
from onnxquant.passes.prepare.evaluation import evaluate, renamed


@dataclass(frozen=True)
class FoldQuantizedWeights(Pass):
    """Computes the codes of weights that the graph quantizes itself, with its own scales, so that it stores codes alone.

    Frameworks that train with quantization export a float weight behind QuantizeLinear and DequantizeLinear. Nothing is
    rounded otherwise than the graph rounds it.

    1. A QuantizeLinear whose inputs are constants becomes its codes.

           DequantizeLinear(QuantizeLinear(w, s, z), s, z)   ->   DequantizeLinear(codes, s, z)

    2. It stays where other nodes read the float weight too: codes would be stored beside it. It stays where codes are
       floats of 8 bits.
    """

    name = "fold-quantized-weights"
    summary = "computes the codes of weights that the graph quantizes itself, with its own scales"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        folded = 0
        for editor in graph_editors(document):
            for node in list(editor.graph.node):
                if is_op(node, "QuantizeLinear") and _fold(document, editor, node):
                    folded += 1
            editor.apply()
        notes = (f"{folded} weights that the graph quantizes are stored as their codes, with its own scales",) * bool(
            folded
        )
        return PassResult(bool(folded), notes)


def _code_type(node: onnx.NodeProto, sources: Mapping[str, onnx.TensorProto]) -> int:
    """The element type of the codes of a QuantizeLinear."""
    if len(node.input) > 2 and node.input[2]:
        return sources[node.input[2]].data_type
    return int(attribute(node, "output_dtype", 0)) or onnx.TensorProto.UINT8


def _fold(document: Document, editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Put codes in the place of a node; False where it stays."""
    tensors = {name: editor.own_constant(name) for name in node.input if name}
    sources = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    weight, codes = node.input[0], node.output[0]
    if len(sources) < len(tensors) or codes in editor.outputs:
        return False
    if not editor.is_private(weight) or len(editor.consumers(weight)) > 1:
        return False
    if _code_type(node, sources) not in INTEGERS:
        return False
    values = evaluate(document, [node], {name: renamed(tensor, name) for name, tensor in sources.items()})
    if values is None:
        return False
    editor.become_constants(node, values)
    return True
