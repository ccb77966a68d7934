"""Nodes that stay float32 beside integers and encoded weights, so that kernels on codes still form."""

from __future__ import annotations

from collections.abc import Container
from math import prod

import onnx

from onnxquant.graph.names import SITE
from onnxquant.graph.node import STANDARD, attribute, is_op
from onnxquant.passes.float16.scope import FLOAT, HALF
from onnxquant.passes.float16.size_chains import cast_to

# Opset in which scales of DequantizeLinear may be float16.
_HALF_SCALES = 19
# Constants of so many elements and fewer cost nothing in float32.
_FEW = 256
_DECODING = ("Mul", "Sub", "Add", "Div", "Floor", "Neg", "Cast", "Gather", "Reshape", "Unsqueeze", "Expand")
_ARITHMETIC = ("Mul", "Sub", "Add", "Div", "Floor", "Neg", "Cast", "Sqrt", "Reciprocal", "Pow", "Exp", "Log")


def half_dequantizers(graph: onnx.GraphProto, opset: int) -> set[int]:
    """Places of the DequantizeLinear nodes whose scales are float16 constants: they lose nothing in float16."""
    halves = {t.name for t in graph.initializer if t.data_type == HALF}
    cast = {n.output[0] for n in graph.node if cast_to(n) == FLOAT and n.input[0] in halves}
    places = enumerate(graph.node) if opset >= _HALF_SCALES else ()
    return {place for place, node in places if is_op(node, "DequantizeLinear") and node.input[1] in cast}


def integer_neighbours(graph: onnx.GraphProto, exempt: Container[int]) -> set[int]:
    """Places of the nodes that read what a DequantizeLinear decodes, and of those behind them up to a QuantizeLinear.

    onnxruntime makes one kernel on codes of these nodes, which a Cast between them prevents.

    Args:
        graph: looked at without its nested graphs.
        exempt: places of DequantizeLinear nodes that do not count.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    decoded: set[str] = set()
    inner: set[str] = set()
    places: set[int] = set()
    for place, node in enumerate(graph.node):
        if is_op(node, "DequantizeLinear"):
            decoded.update(node.output if place not in exempt else ())
            continue
        following = [reader for name in node.output for reader in readers.get(name, [])]
        is_rounded = bool(following) and all(is_op(reader, "QuantizeLinear") for reader in following)
        if not decoded.isdisjoint(node.input) or (is_rounded and not inner.isdisjoint(node.input)):
            places.add(place)
            inner.update(node.output)
    return places


def folded_nodes(graph: onnx.GraphProto, planes: Container[str]) -> set[int]:
    """Places of the nodes that are folded when a session is created, or that need all digits of a plane.

    onnxruntime folds float32 arithmetic alone: other arithmetic on constants would run in every call.

    Args:
        graph: looked at without its nested graphs.
        planes: constants that stay as they are.
    """
    constants = {"", *(t.name for t in graph.initializer)}
    small = {"", *(t.name for t in graph.initializer if prod(t.dims) <= _FEW)}
    exact = {t.name for t in graph.initializer if t.data_type == FLOAT and t.name in planes}
    halves = {t.name for t in graph.initializer if t.data_type == HALF}
    places: set[int] = set()
    for place, node in enumerate(graph.node):
        if node.domain not in STANDARD or not node.input:
            continue
        is_ours = any(entry.key == SITE for entry in node.metadata_props)
        constants.update(node.output if constants.issuperset(node.input) else ())
        small.update(node.output if small.issuperset(node.input) else ())
        if is_ours and not exact.isdisjoint(node.input) and node.op_type in _DECODING:
            exact.update(node.output)
            places.add(place)
        elif node.op_type in _ARITHMETIC and constants.issuperset(node.input) and halves.isdisjoint(node.input[:1]):
            places.update([place] if is_ours or small.issuperset(node.input) else ())
    return places


def batch_transposes(graph: onnx.GraphProto) -> set[int]:
    """Places of the Transposes that move the batch beside the columns of a MatMul, and of these MatMuls.

    onnxruntime 1.32 makes one FusedMatMul of the two, and ends with a segmentation fault where the tensor between them is
    float16 and the other factor a constant, also with a Cast between them.

    Args:
        graph: looked at without its nested graphs.
    """
    moved: dict[str, set[int]] = {}
    places: set[int] = set()
    for place, node in enumerate(graph.node):
        if is_op(node, "Transpose") and _moves_batch(attribute(node, "perm", [])):
            moved[node.output[0]] = {place}
        elif (is_op(node, "Identity") or is_op(node, "Cast")) and node.input[0] in moved:
            moved[node.output[0]] = {*moved[node.input[0]], place}
        elif is_op(node, "MatMul"):
            behind = [moved[name] for name in node.input if name in moved]
            places.update([place] if behind else (), *behind)
    return places


def _moves_batch(order: list[int]) -> bool:
    """Whether an order of axes takes the first one to the end or before the last one."""
    last = len(order) - 1
    return last >= 2 and order in ([*range(1, last), 0, last], [*range(1, last + 1), 0])
