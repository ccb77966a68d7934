"""Element types of the tensors of a graph, operators that onnx does not define included."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from onnxquant.clients.operators import STANDARD, Signature, signature
from onnxquant.graph.node import attribute, constant_value
from onnxquant.graph.traverse import subgraphs

# Attributes that name the element type of an output.
_TYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype"}


def name_of(element_type: int) -> str:
    """Name of an element type in tables; empty where it is unknown."""
    return "" if element_type == TensorProto.UNDEFINED else TensorProto.DataType.Name(element_type).lower()


def graph_types(graph: onnx.GraphProto, outer: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, str]:
    """Element types by tensor, as far as they follow from inputs, constants and operators.

    Args:
        graph: the graph.
        outer: types of tensors that it may read from the graphs around it.
        versions: version by domain.
    """
    types = dict(outer)
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.type.HasField("tensor_type"):
            types[value.name] = name_of(value.type.tensor_type.elem_type)
    types.update((t.name, name_of(t.data_type)) for t in graph.initializer)
    for node in graph.node:
        add_outputs(node, types, versions)
    return types


def constraint_types(node: onnx.NodeProto, types: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, str]:
    """Element types by type constraint of a node's operator, as far as they are known."""
    operator = _signature(node, versions)
    if operator is None:
        return {}
    kinds: dict[str, str] = {}
    for names, constraints in ((node.input, operator.inputs), (node.output, operator.outputs)):
        for place, name in enumerate(names):
            if constraints and types.get(name):
                kinds.setdefault(constraints[min(place, len(constraints) - 1)], types[name])
    return kinds


def add_outputs(node: onnx.NodeProto, types: dict[str, str], versions: Mapping[str, int]) -> None:
    """Add the element types of a node's outputs."""
    for name, kind in zip(node.output, _output_types(node, types, versions), strict=False):
        if name and kind:
            types[name] = kind


def _output_types(node: onnx.NodeProto, types: Mapping[str, str], versions: Mapping[str, int]) -> list[str]:
    if node.op_type == "Constant" and node.domain in STANDARD:
        value = constant_value(node)
        return [name_of(value.data_type) if value is not None else ""]
    if named := attribute(node, _TYPE_ATTRIBUTES.get(node.op_type, ""), 0):
        return [name_of(named)]
    operator = _signature(node, versions)
    if operator is None or not operator.outputs or any(True for _ in subgraphs(node)):
        return []
    kinds = {**operator.single, **constraint_types(node, types, versions)}
    last = len(operator.outputs) - 1
    return [kinds.get(operator.outputs[min(place, last)], "") for place in range(len(node.output))]


def _signature(node: onnx.NodeProto, versions: Mapping[str, int]) -> Signature | None:
    domain = "" if node.domain in STANDARD else node.domain
    return signature(domain, node.op_type, versions.get(domain, 1))
