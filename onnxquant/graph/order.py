"""The order of the nodes of a graph."""

from __future__ import annotations

import onnx

from onnxquant.graph.traverse import names_read, replace_field, subgraphs


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Bring the nodes of a graph into an order in which each comes behind what it reads, changing as little as possible."""
    producers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    order: dict[int, None] = {}
    for last in range(len(graph.node)):
        stack = [last]
        while stack:
            place = stack[-1]
            node = graph.node[place]
            reads = (*node.input, *(name for inner in subgraphs(node) for name in names_read(inner)))
            missing = [p for name in reads if (p := producers.get(name, place)) not in order and p != place]
            if place in order or not missing:
                order[stack.pop()] = None
            else:
                stack += reversed(missing)
    if list(order) != list(range(len(graph.node))):
        replace_field(graph.node, [graph.node[place] for place in order])
