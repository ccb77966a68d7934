"""Weights that were computed from constants: the computation is kept, so that a weight can become it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxquant.graph.traverse import graphs, rename_reads, replace_field

_MARK = "onnxquant.computed"


@dataclass(frozen=True)
class Computation:
    """The nodes and constants that a weight was computed from.

    Attributes:
        output: name that the nodes give the weight.
        nodes: the nodes, in the graph's order.
        constants: the constants that they read, each a tensor of its name.
        nbytes: bytes of the constants that nothing else reads.
    """

    output: str
    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...]
    nbytes: int


def mark(tensor: onnx.TensorProto, key: str) -> None:
    """Mark an initializer as computed. Whoever gives it other values drops the mark with the old ones.

    Args:
        tensor: the initializer.
        key: key of its computation: graphs beside each other may use one name twice.
    """
    tensor.metadata_props.add(key=_MARK, value=key)


def unmark(tensor: onnx.TensorProto) -> None:
    """Drop the mark of an initializer that gets other values in place."""
    others = [entry for entry in tensor.metadata_props if entry.key != _MARK]
    replace_field(tensor.metadata_props, others)


def computation_key(tensor: onnx.TensorProto) -> str | None:
    """Key of the computation of an initializer that holds what nodes computed, unchanged; None for others."""
    return next((entry.value for entry in tensor.metadata_props if entry.key == _MARK), None)


def restore_computations(proto: onnx.ModelProto, computations: Mapping[str, Computation]) -> None:
    """Put the computations of weights, which may take less space, back in the place of the weights that have not changed."""
    for graph in graphs(proto.graph):
        keys = {t.name: key for t in graph.initializer if (key := computation_key(t)) is not None}
        for name, key in keys.items():
            _restore(graph, name, computations[key])


def _restore(graph: onnx.GraphProto, name: str, computation: Computation) -> None:
    if computation.output != name:
        rename_reads(graph, {name: computation.output})
    others = [t for t in graph.initializer if t.name != name]
    present = {t.name for t in others} | {output for node in graph.node for output in node.output}
    constants = [t for t in computation.constants if t.name not in present]
    nodes = [n for n in computation.nodes if n.output[0] not in present]
    replace_field(graph.initializer, [*others, *constants])
    replace_field(graph.node, [*nodes, *graph.node])
