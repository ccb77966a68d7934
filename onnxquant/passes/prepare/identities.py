"""Removal of Identity nodes between constants and their readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op
from onnxquant.graph.traverse import constant_names, names_read, own_names, rename_reads, replace_field, subgraphs
from onnxquant.passes.base import Pass, PassResult


@dataclass(frozen=True)
class ReadThroughIdentity(Pass):
    """Lets readers of an Identity of a constant read the constant, so that a weight is one tensor for all its readers.

    1. Readers in the same graph and in nested graphs read the constant behind a chain of Identity nodes.

           MatMul(x, Identity(w)), MatMul(y, w)   ->   MatMul(x, w), MatMul(y, w)

    2. An Identity that makes an output of its graph, or of a nested one, stays for that output alone.
    """

    name = "read-through-identity"
    summary = "removes Identity nodes between constants and their readers"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        removed = _read_through(document.proto.graph, {})
        return PassResult(True, (f"{removed} Identity nodes of constants removed",)) if removed else PassResult()


def _read_through(graph: onnx.GraphProto, outer: Mapping[str, str]) -> int:
    """Remove the Identity nodes of constants of a graph and of those nested in it; their number.

    Args:
        graph: the graph.
        outer: the constants of the graphs around it, each by its own name.
    """
    inside = own_names(graph)
    constants = {name: source for name, source in outer.items() if name not in inside}
    constants.update((name, name) for name in constant_names(graph))
    aliases: dict[str, str] = {}
    for node in graph.node:
        if is_op(node, "Identity") and node.input[0] in constants:
            aliases[node.output[0]] = constants[node.output[0]] = constants[node.input[0]]
    if aliases:
        rename_reads(graph, aliases)
    removed = 0
    for node in graph.node:
        for inner in subgraphs(node):
            removed += _read_through(inner, {source: source for source in constants.values()})
    still_read = set(names_read(graph))
    others = [n for n in graph.node if not (n.output and n.output[0] in aliases and n.output[0] not in still_read)]
    removed += len(graph.node) - len(others)
    if len(others) < len(graph.node):
        replace_field(graph.node, others)
    return removed
