"""Facts about the outputs of a model: which of them are probabilities or logits, by the nodes that make and read them."""

from __future__ import annotations

import onnx

from onnxquant.graph.node import attribute, is_op
from onnxquant.numerics.classes import Heads

# Nodes that change neither the values nor, but for single numbers, their order.
_CARRYING = (
    "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear", "Dropout",
)  # fmt: skip
# Nodes that look for the largest value of an axis, or make probabilities of it, and their usual axes.
_CHOOSING = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "ArgMax": 0, "TopK": -1}
# Nodes between an output and the one that tells what it is.
_FURTHEST = 8


def heads_of(proto: onnx.ModelProto) -> Heads:
    """Facts about the outputs of a model.

    Args:
        proto: the model; nested graphs are not looked into.
    """
    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    outputs = [output.name for output in graph.output]
    sources = {name: _maker(name, makers) for name in outputs}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.output, *graph.value_info)}
    return Heads(
        sigmoids=frozenset(name for name in outputs if is_op(sources[name], "Sigmoid", "HardSigmoid")),
        logits=frozenset(name for name in outputs if any(is_op(node, "Sigmoid") for node in readers.get(name, ()))),
        classes=frozenset(
            name for name in outputs if any(_chooses(node, ranks.get(name, 0)) for node in readers.get(name, ()))
        ),
    )


def _maker(name: str, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node that makes the values of an output."""
    node = makers.get(name)
    for _ in range(_FURTHEST):
        if node is None or not is_op(node, *_CARRYING):
            break
        node = makers.get(node.input[0])
    return node


def _chooses(node: onnx.NodeProto, rank: int) -> bool:
    """Whether a node looks for the largest value of the last axis."""
    if not is_op(node, *_CHOOSING):
        return False
    axis = attribute(node, "axis", _CHOOSING[node.op_type])
    return axis == -1 or (rank > 0 and axis == rank - 1)
