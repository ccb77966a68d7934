"""Inlining of model-local functions that hold weights."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnx.inliner

from onnxquant.graph.io import Document
from onnxquant.graph.traverse import graphs, replace_field
from onnxquant.graph.wire import OUTLINE_ABOVE
from onnxquant.passes.base import Pass, PassResult


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Inlines model-local functions that hold weights, so that each call has its weights where sites are looked for.

    1. A function in which a Constant holds more than 1 KiB is inlined, and its definition removed.

           Layer(x) with Layer(a) = MatMul(a, Constant)   ->   MatMul(x, Constant)

    2. Constants made equal by that, which refer to the same bytes, become one.

           MatMul(x, c1), MatMul(y, c2) with c1 = c2      ->   MatMul(x, c1), MatMul(y, c1)
    """

    name = "inline-functions"
    summary = "inlines model-local functions that hold weights"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        proto = document.proto
        names = [(f.domain, f.name) for f in proto.functions if any(_holds_weight(n) for n in f.node)]
        if not names:
            return PassResult()
        inlined = onnx.inliner.inline_selected_functions(proto, names)
        # The inliner keeps the definitions; without callers they would only carry the weights a second time.
        replace_field(inlined.functions, [f for f in inlined.functions if (f.domain, f.name) not in set(names)])
        proto.CopyFrom(inlined)
        joined = _join_equal_constants(proto.graph)
        note = f"{len(names)} functions with weights inlined" + (
            f", {joined} copies of weights joined" if joined else ""
        )
        return PassResult(True, (note,))


def _holds_weight(node: onnx.NodeProto) -> bool:
    return any(
        (
            a.type == onnx.AttributeProto.TENSOR
            and (a.t.data_location == onnx.TensorProto.EXTERNAL or a.t.ByteSize() > OUTLINE_ABOVE)
        )
        or (a.type == onnx.AttributeProto.GRAPH and any(_holds_weight(n) for n in a.g.node))
        for a in node.attribute
    )


def _join_equal_constants(graph: onnx.GraphProto) -> int:
    """Let readers of equal outlined constants read the first one."""
    outputs = {o.name for o in graph.output}
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    others = []
    for node in graph.node:
        if node.op_type == "Constant" and _holds_weight(node) and node.output[0] not in outputs:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.ClearField("name")
            key = tensor.SerializeToString(deterministic=True)
            if key in first:
                same[node.output[0]] = first[key]
                continue
            first[key] = node.output[0]
        others.append(node)
    if same:
        replace_field(graph.node, others)
        for inner in graphs(graph):
            for node in inner.node:
                for i, name in enumerate(node.input):
                    node.input[i] = same.get(name, name)
    return len(same)
