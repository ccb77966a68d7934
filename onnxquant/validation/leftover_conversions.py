"""QuantizeLinear and DequantizeLinear that stay in the graph that ONNX Runtime runs, each with the reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx

from onnxquant.graph.editor import GraphEditor

# The beginning of the names that onnxruntime gives nodes out of the bodies of our operators.
_INLINED = re.compile(r"^_inlfunc_[A-Za-z]+\d+_")
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# Ends of a conversion that are no ops.
WEIGHT, _INPUT, _OUTPUT, _SUBGRAPH = "weight", "input", "output", "subgraph"


@dataclass(frozen=True)
class LeftoverConversion:
    """A conversion between floats and codes.

    Attributes:
        node: name of the node.
        op: ``QuantizeLinear`` or ``DequantizeLinear``.
        between: the ops, or ends of the graph, before and behind it.
        reason: why it stays.
    """

    node: str
    op: str
    between: tuple[str, str]
    reason: str

    @property
    def decodes_weight(self) -> bool:
        """Whether it decodes a weight, on every call."""
        return self.op == DEQUANTIZE and self.between[0] == WEIGHT


def conversions(optimized: onnx.ModelProto) -> list[LeftoverConversion]:
    """The conversions of a graph.

    Args:
        optimized: the optimized graph (``runtime.optimized_graph``).
    """
    editor = GraphEditor(optimized.graph)
    rows = []
    for node in editor.nodes:
        if node.op_type not in (QUANTIZE, DEQUANTIZE):
            continue
        before = _before(editor, node.input[0])
        readers = [str(n.op_type) for n in editor.consumers(node.output[0])]
        readers += [_OUTPUT] * (node.output[0] in editor.outputs) + [_SUBGRAPH] * (node.output[0] in editor.captured)
        after = ", ".join(dict.fromkeys(readers))
        reason = _into_codes(before, after) if node.op_type == QUANTIZE else _into_floats(before, readers)
        rows.append(LeftoverConversion(_INLINED.sub("", node.name), node.op_type, (before, after), reason))
    return rows


def _before(editor: GraphEditor, name: str) -> str:
    """The op that makes a tensor, or the end of the graph that it comes from."""
    if (producer := editor.producer(name)) is not None:
        return str(producer.op_type)
    return _INPUT if name in editor.inputs else WEIGHT


def _into_codes(before: str, after: str) -> str:
    if before == _INPUT:
        return "the model's input arrives in float"
    if before == DEQUANTIZE:
        return f"codes of one scale become codes of another for {after}"
    if before == WEIGHT:
        return f"a constant that {after} reads as codes"
    return f"{before} gives floats, {after} reads codes"


def _into_floats(before: str, readers: list[str]) -> str:
    """The reason why a DequantizeLinear stays."""
    others = dict.fromkeys(r for r in readers if r not in (_OUTPUT, _SUBGRAPH, QUANTIZE))
    parts = []
    if before == WEIGHT:
        return f"a weight, decoded on every call for {', '.join(dict.fromkeys(readers))}"
    if others:
        parts.append(f"{', '.join(others)} reads floats: no integer kernel here on the CPU provider")
    if _OUTPUT in readers:
        parts.append("the model's output is float")
    if _SUBGRAPH in readers:
        parts.append("a nested graph reads the values")
    if QUANTIZE in readers:
        parts.append("a reader has codes of another scale")
    return "; ".join(parts)
