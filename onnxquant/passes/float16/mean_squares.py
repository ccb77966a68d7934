"""Means of squares, as unfused normalizations have them: float16 ends at 65504, the square of 256."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from onnxquant.graph.node import STANDARD, is_op
from onnxquant.graph.traverse import captured_names

NodeTest = Callable[[onnx.NodeProto], bool]


def mean_square_nodes(graph: onnx.GraphProto, is_square: NodeTest) -> set[int]:
    """Places of the nodes that compute square roots of means of squares: the square, ReduceMean, Add and Sqrt.

    onnxruntime before 1.28 does not load two such chains in float16.

    Args:
        graph: looked at without its nested graphs.
        is_square: whether a node squares its input.
    """
    escaping = captured_names(graph) | {o.name for o in graph.output}
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(place)

    def only_reader(place: int, op_type: str) -> int | None:
        output = graph.node[place].output[0]
        following = readers.get(output, [])
        if output in escaping or len(following) != 1 or not is_op(graph.node[following[0]], op_type):
            return None
        return following[0]

    places: set[int] = set()
    for place, node in enumerate(graph.node):
        chain: list[int | None] = [place] if node.domain in STANDARD and is_square(node) else []
        for op_type in ("ReduceMean", "Add", "Sqrt") if chain else ():
            last = chain[-1]
            chain.append(None if last is None else only_reader(last, op_type))
        places.update(p for p in chain if p is not None and None not in chain)
    return places
