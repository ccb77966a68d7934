"""Which kernel runs on each encoded weight, read from the graph that ONNX Runtime says it runs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxquant.artifact.stored import Record
from onnxquant.graph.io import nodes
from onnxquant.graph.sites import Site

_MOVES = frozenset({"Reshape", "Transpose", "Cast", "Add", "Mul", "Squeeze", "Unsqueeze", "Identity"})


def kernels_of(found: Iterable[Record], sites: Iterable[Site], optimized: onnx.ModelProto) -> dict[str, str]:
    """Ops on each weight, several joined by commas; weights that no kept name leads to are left out.

    Args:
        found: what the file says of its weights.
        sites: of the float model, for the names of the nodes that read a weight.
        optimized: what ONNX Runtime saved after its own rewriting (``runtime.optimized``).
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    makers: dict[str, onnx.NodeProto] = {}
    for node in nodes(optimized):
        for name in node.input:
            readers.setdefault(name, []).append(node)
        makers.update((name, node) for name in node.output)
    uses = {site.name: {use.node.name for use in site.uses} for site in sites}
    picked = {}
    for record in found:
        values = {n for names in record.lowered.planes.values() for n in names.values()}
        values |= {r.y for r in record.lowered.results}
        on = {_name(n) for v in values for n in readers.get(v, ()) if v not in makers and n.op_type not in _MOVES}
        on = on or {_name(n) for r in record.lowered.results if (n := _product(makers, r.y)) is not None}
        on = on or {_name(n) for n in nodes(optimized) if n.name and n.name in uses.get(record.name, ())}
        if on:
            picked[record.name] = ", ".join(sorted(on))
    return picked


def _product(makers: dict[str, onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    """What makes a value, behind nodes that only move it or add a bias."""
    node = makers.get(name)
    while node is not None and node.op_type in _MOVES and node.input and node.input[0] in makers:
        node = makers[node.input[0]]
    return node


def _name(node: onnx.NodeProto) -> str:
    """As in ``runtime.histogram``."""
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
