"""Regions between codes and codes that compute a function of each element of one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import STANDARD, attribute, is_op

_ENCODE, _DECODE = "QuantizeLinear", "DequantizeLinear"
# Operators whose outputs have the shape of their first input, or that to which their inputs are broadcast.
_ELEMENTWISE = {
    "": {
        _ENCODE, _DECODE, "Abs", "Add", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
        "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu",
        "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu",
    },
    MICROSOFT: {"FastGelu", "Gelu", "QuickGelu"},
}  # fmt: skip
# Functions that ONNX Runtime computes by a table of its own, between one DequantizeLinear and one QuantizeLinear.
_BY_TABLE = ("Sigmoid", "LeakyRelu")
_CODES = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
_MOST_NODES = 64


@dataclass(frozen=True)
class CodeRegion:
    """Nodes that compute codes from codes, element by element.

    Attributes:
        source: name of the tensor that they read.
        output: name of the tensor that they compute.
        nodes: the nodes, in the order of the graph; the last one is a QuantizeLinear.
        code_type: ONNX element type of both tensors.
    """

    source: str
    output: str
    nodes: tuple[onnx.NodeProto, ...]
    code_type: int


def code_regions(editor: GraphEditor, *, every: bool = False) -> list[CodeRegion]:
    """The largest regions of a graph, none of which shares a node with another, in the order of their last nodes.

    Values inside a region are read by nothing else.

    Args:
        editor: editor of the graph.
        every: also those that onnxruntime computes by a table of its own, and those that only bring codes to another scale.
    """
    taken: set[int] = set()
    regions = []
    for place in range(len(editor.nodes) - 1, -1, -1):
        if place in taken or not is_op(editor.nodes[place], _ENCODE):
            continue
        region = _largest(editor, editor.nodes[place])
        if region is not None and (every or _is_worthwhile(region.nodes)):
            inside = {editor.place(node) for node in region.nodes}
            # The DequantizeLinear of the source may serve others too: it is no value of the region's alone.
            taken |= inside
            regions.append(region)
    return regions[::-1]


def constant_inputs(editor: GraphEditor, node: onnx.NodeProto) -> list[tuple[int, onnx.TensorProto]]:
    """Places and values of a node's constant inputs."""
    constants = ((place, editor.constant(name)) for place, name in enumerate(node.input) if name)
    return [(place, tensor) for place, tensor in constants if tensor is not None]


def _largest(editor: GraphEditor, last: onnx.NodeProto) -> CodeRegion | None:
    code_type = _code_type(editor, last)
    if code_type not in _CODES:
        return None
    for source in _sources(editor, last):
        nodes = _between(editor, source, last)
        if nodes is None or not _is_private(editor, nodes):
            continue
        if any(_code_type(editor, n) != code_type for n in nodes if is_op(n, _ENCODE, _DECODE)):
            continue
        return CodeRegion(source, last.output[0], tuple(nodes), code_type)
    return None


def _sources(editor: GraphEditor, last: onnx.NodeProto) -> Iterator[str]:
    """Tensors of codes that a node's values may be a function of, the farthest first."""
    sources: dict[str, None] = {}
    visited, front = set[str](), list(last.input[:1])
    while front and len(visited) < _MOST_NODES:
        name = front.pop(0)
        if name in visited:
            continue
        visited.add(name)
        node = editor.producer(name)
        if node is None or not _is_elementwise(node) or editor.constant(name) is not None:
            continue
        if is_op(node, _DECODE):
            sources.pop(node.input[0], None)
            sources[node.input[0]] = None
        front += [n for n in node.input if n and editor.constant(n) is None]
    return iter(list(sources)[::-1])


def _between(editor: GraphEditor, source: str, last: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """The nodes between a tensor of codes and a node, in the order of the graph; None where they read anything else."""
    inside: dict[int, onnx.NodeProto] = {}
    front = [last]
    while front:
        node = front.pop()
        place = editor.place(node)
        if place in inside:
            continue
        inside[place] = node
        if len(inside) > _MOST_NODES or not _is_elementwise(node):
            return None
        for name in node.input:
            if not name or name == source or editor.constant(name) is not None:
                continue
            producer = editor.producer(name)
            if producer is None:
                return None
            front.append(producer)
    return [inside[place] for place in sorted(inside)]


def _is_private(editor: GraphEditor, nodes: Sequence[onnx.NodeProto]) -> bool:
    """Whether nothing else reads what nodes compute, but for the last one and those that only decode the source."""
    places = {editor.place(node) for node in nodes}
    decoders = {node.output[0] for node in nodes if is_op(node, _DECODE) and _is_outside(editor, node, nodes)}
    for node in nodes[:-1]:
        name = node.output[0]
        if name in decoders:
            continue
        if not editor.is_private(name) or any(editor.place(reader) not in places for reader in editor.consumers(name)):
            return False
    return True


def _is_outside(editor: GraphEditor, node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> bool:
    """Whether what a node reads is computed outside of some nodes."""
    return all(node.input[0] not in other.output for other in nodes)


def _is_elementwise(node: onnx.NodeProto) -> bool:
    domain = "" if node.domain in STANDARD else node.domain
    return node.op_type in _ELEMENTWISE.get(domain, ()) and len(node.output) == 1


def _is_worthwhile(nodes: Sequence[onnx.NodeProto]) -> bool:
    between = [node for node in nodes if not is_op(node, _ENCODE, _DECODE)]
    return len(between) > 1 or (len(between) == 1 and not is_op(between[0], *_BY_TABLE))


def _code_type(editor: GraphEditor, node: onnx.NodeProto) -> int:
    """Element type of the codes that a node rounds to or decodes: that of its zero point."""
    if len(node.input) > 2 and node.input[2]:
        zero = editor.constant(node.input[2])
        return int(zero.data_type) if zero is not None else 0
    return int(attribute(node, "output_dtype", 0) or onnx.TensorProto.UINT8)
