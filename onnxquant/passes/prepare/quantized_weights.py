"""Folding of QuantizeLinear over constants: weights that a training framework quantizes in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxquant.graph.analysis.quantized import INTEGERS
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document, nbytes
from onnxquant.graph.node import STANDARD, attribute, is_op
from onnxquant.graph.traverse import subgraphs
from onnxquant.passes.base import Pass, PassResult
from onnxquant.passes.prepare.evaluation import NEVER_FOLDED, evaluate, renamed

# A scale is computed by no more nodes.
_MOST_NODES = 16


@dataclass(frozen=True)
class FoldQuantizedWeights(Pass):
    """Computes the codes of weights that the graph quantizes itself, with its own scales, so that it stores codes alone.

    Frameworks that train with quantization export a float weight behind QuantizeLinear and DequantizeLinear. Nothing is
    rounded otherwise than the graph rounds it.

    1. A QuantizeLinear whose inputs are constants becomes its codes, with the Clip behind it that leaves fewer bits.

           DequantizeLinear(QuantizeLinear(w, s, z), s, z)   ->   DequantizeLinear(codes, s, z)

    2. It stays where other nodes read the float weight too: codes would be stored beside it. It stays where codes are
       floats of 8 bits.
    3. Scales and zero points, also those of activations, that nodes compute of constants become constants. They stay where
       these are smaller: files hold scales of 16 bits behind a Cast.
    """

    name = "fold-quantized-weights"
    summary = "computes the codes of weights that the graph quantizes itself, with its own scales"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        folded = 0
        for editor in graph_editors(document):
            nodes = list(editor.graph.node)
            for node in nodes:
                if is_op(node, "QuantizeLinear", "DequantizeLinear"):
                    for name in node.input[1:]:
                        _fold_parameter(document, editor, name)
            for node in nodes:
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
    nodes, last = [node], editor.single_consumer(codes)
    if last is not None and is_op(last, "Clip") and last.output[0] not in editor.outputs:
        bounds = {name: editor.own_constant(name) for name in last.input[1:] if name}
        if None not in bounds.values():
            nodes.append(last)
            sources |= {name: tensor for name, tensor in bounds.items() if tensor is not None}
    values = evaluate(document, nodes, {name: renamed(tensor, name) for name, tensor in sources.items()})
    if values is None:
        return False
    for before in nodes[:-1]:
        editor.remove(before)
    editor.become_constants(nodes[-1], values)
    return True


def _fold_parameter(document: Document, editor: GraphEditor, name: str) -> None:
    """Put a constant in the place of a scale or zero point that nodes compute of constants."""
    nodes = _computed(editor, name)
    if not nodes:
        return
    own = {output for node in nodes for output in node.output}
    tensors = {n: editor.own_constant(n) for node in nodes for n in node.input if n and n not in own}
    sources = {n: renamed(t, n) for n, t in tensors.items() if t is not None}
    values = evaluate(document, nodes, sources)
    if values is None or sum(array.nbytes for array in values) > sum(map(nbytes, sources.values())):
        return
    editor.become_constants(nodes[-1], values)
    for node in nodes[-2::-1]:
        if not any(not editor.is_removed(reader) for reader in editor.consumers(node.output[0])):
            editor.remove(node)


def _computed(editor: GraphEditor, name: str) -> list[onnx.NodeProto]:
    """The nodes that compute a tensor of constants alone, in order; none where it is a constant, or they are too many."""
    nodes: list[onnx.NodeProto] = []
    front = [name]
    while front:
        tensor = front.pop()
        if not tensor or editor.own_constant(tensor) is not None:
            continue
        node = editor.producer(tensor)
        if node is None or not _is_plain(editor, node) or len(nodes) >= _MOST_NODES:
            return []
        nodes = [node, *(other for other in nodes if other is not node)]
        front += node.input
    return nodes


def _is_plain(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Whether a node only computes one tensor that no caller or nested graph reads."""
    is_known = node.domain in STANDARD and node.op_type not in NEVER_FOLDED and not any(True for _ in subgraphs(node))
    return is_known and len(node.output) == 1 and bool(node.input) and editor.is_private(node.output[0])
