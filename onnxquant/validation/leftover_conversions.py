"""QuantizeLinear and DequantizeLinear in the graph that ONNX Runtime really runs, each with the reason why it is there."""

from __future__ import annotations

from typing import Any

import onnx

from onnxquant.graph.editor import GraphEditor

_OPS = ("QuantizeLinear", "DequantizeLinear")


def conversions(optimized: onnx.ModelProto) -> list[dict[str, Any]]:
    """One row per conversion: ``node``, ``op``, ``between`` (two ops) and ``reason``.

    Args:
        optimized: the optimized graph (``runtime.optimized_graph``).
    """
    flow = GraphEditor(optimized.graph)
    found = []
    for node in flow.nodes:
        if node.op_type not in _OPS:
            continue
        maker = flow.producer(node.input[0])
        if maker is None and node.input[0] not in flow.inputs:
            before = "weight"
        else:
            before = "input" if maker is None else _title(maker)
        readers = [_title(n) for n in flow.consumers(node.output[0])]
        readers += ["output"] * (node.output[0] in flow.outputs) + ["subgraph"] * (node.output[0] in flow.captured)
        after = ", ".join(dict.fromkeys(readers))
        reason = _into_codes(before, after) if node.op_type == "QuantizeLinear" else _into_floats(before, readers)
        found.append({"node": node.name, "op": node.op_type, "between": [before, after], "reason": reason})
    return found


def _title(node: onnx.NodeProto) -> str:
    return str(node.op_type)


def _into_codes(before: str, after: str) -> str:
    if before == "input":
        return "the model's input arrives in float"
    if before == "DequantizeLinear":
        return f"codes of one scale become codes of another for {after}"
    if before == "weight":
        return f"a constant that {after} reads as codes"
    return f"{before} gives floats, {after} reads codes"


def _into_floats(before: str, readers: list[str]) -> str:
    others = dict.fromkeys(r for r in readers if r not in ("output", "subgraph", "QuantizeLinear"))
    parts = []
    if before == "weight":
        return f"a weight, decoded on every call for {', '.join(dict.fromkeys(readers))}"
    if others:
        parts.append(f"{', '.join(others)} reads floats: no integer kernel here on the CPU provider")
    if "output" in readers:
        parts.append("the model's output is float")
    if "subgraph" in readers:
        parts.append("a nested graph reads the values")
    if "QuantizeLinear" in readers:
        parts.append("a reader has codes of another scale")
    return "; ".join(parts)
