"""Labels of the nodes that onnxruntime runs: the operator, and the node of the model that it comes from."""

from __future__ import annotations

import re

import onnx

from onnxquant.graph.traverse import nodes
from onnxquant.runtime import NodeTime

# Ending of the names that onnxruntime gives convolutions in its own layout, which begin with the tensor that they give.
_BLOCKED = "_nchwc"
# The name that it gives a node without one: the operator, and the place of the node in the graph.
_NUMBERED = re.compile(r"(?P<op>.+)_(?P<place>\d+)")
# Beginning of the names of some fused nodes, and characters behind the name of the node that others are made from.
_FUSED, _BORDERS = "fused ", ("/", "_", " ")
# Nodes between the kernel of a fused node and the tensor that it is named after, at most.
_MOST_FUSED = 4


class NodeLabels:
    """Labels of the nodes of a model as onnxruntime runs it.

    Args:
        model: the model.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        every = list(nodes(model))
        self._by_name = {node.name: node for node in every if node.name}
        self._producers = {output: node for node in every for output in node.output if output}

    def label(self, time: NodeTime) -> str:
        """The operator with the name of its node, or with the tensor that an unnamed node gives; alone, where none is its."""
        node = self._node(time)
        if node is None:
            return time.op
        return f"{time.op} {node.name}" if node.name else f"{time.op} that gives {node.output[0]}"

    def origin(self, time: NodeTime) -> str | None:
        """The name of its node, or of the tensor that an unnamed node gives; None where no node is its."""
        node = self._node(time)
        return None if node is None else str(node.name or node.output[0])

    def _node(self, time: NodeTime) -> onnx.NodeProto | None:
        """The node of the model that a node of onnxruntime comes from."""
        name = time.name.removeprefix(_FUSED)
        if name in self._by_name:
            return self._by_name[name]
        if (last := self._producers.get(name.removesuffix(_BLOCKED))) is not None:
            return self._kernel(last, time.op) or last
        match = _NUMBERED.fullmatch(name)
        place = int(match["place"]) if match else len(self._graph.node)
        if match and place < len(self._graph.node):
            node = self._graph.node[place]
            if node.op_type == match["op"] and not node.name:
                return node
        beginnings = (known for known in self._by_name if name.startswith(known) and name[len(known)] in _BORDERS)
        longest = max(beginnings, key=len, default=None)
        return None if longest is None else self._by_name[longest]

    def _kernel(self, node: onnx.NodeProto | None, op: str) -> onnx.NodeProto | None:
        """The node of an operator before some others that were fused into it."""
        for _ in range(_MOST_FUSED):
            if node is None or node.op_type == op:
                return node
            node = self._producers.get(node.input[0]) if node.input else None
        return None
