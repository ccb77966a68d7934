"""Nodes that compute sizes and indices in float32: they must keep their digits when the rest becomes float16."""

from __future__ import annotations

from collections.abc import Callable, Container

import onnx

from onnxquant.graph.node import attribute
from onnxquant.graph.traverse import captured_names, subgraphs

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
InputTest = Callable[[onnx.NodeProto, int], bool]


def size_nodes(graph: onnx.GraphProto, is_float32_only: InputTest, doubles: Container[str] = ()) -> set[int]:
    """Places of nodes that compute from integers and constants, for inputs that must be float32 or to become integers again.

    float16 has every integer only up to 2048, and a scale that is a little off makes another shape.

    Args:
        graph: looked at without its nested graphs.
        is_float32_only: whether float16 is not allowed for an input of a node.
        doubles: names of float64 values: what is cast from them is no size.
    """
    candidates = _from_integers(graph, doubles)
    escaping = captured_names(graph) | {o.name for o in graph.output}
    users: dict[str, list[tuple[int, int]]] = {}
    for place, node in enumerate(graph.node):
        for index, name in enumerate(node.input):
            users.setdefault(name, []).append((place, index))
    places: set[int] = set()
    for place in sorted(candidates, reverse=True):
        outputs = graph.node[place].output
        uses = [use for name in outputs for use in users.get(name, [])]
        if (
            uses
            and escaping.isdisjoint(outputs)
            and all(_is_size(graph.node[p], p, i, places, is_float32_only) for p, i in uses)
        ):
            places.add(place)
    return places


def _from_integers(graph: onnx.GraphProto, doubles: Container[str]) -> set[int]:
    """Places of nodes whose floats come from integers that were cast, and constants."""
    constants = {"", *(t.name for t in graph.initializer)}
    known: set[str] = set()
    places: set[int] = set()
    for place, node in enumerate(graph.node):
        follows = any(n in known for n in node.input) and all(n in known or n in constants for n in node.input)
        is_cast = cast_to(node) == onnx.TensorProto.FLOAT and node.input[0] not in doubles
        if is_cast or (follows and not list(subgraphs(node))):
            places.add(place)
            known.update(node.output)
    return places


def _is_size(node: onnx.NodeProto, place: int, index: int, places: set[int], is_float32_only: InputTest) -> bool:
    to = cast_to(node)
    return place in places or (to is not None and to not in FLOATS) or is_float32_only(node, index)


def cast_to(node: onnx.NodeProto) -> int | None:
    """The type that a Cast makes; None for other nodes."""
    return attribute(node, "to") if node.op_type == "Cast" else None
