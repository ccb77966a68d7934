"""Where a file runs, and where it runs fast, in one line."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxquant.api import minimum_onnxruntime
from onnxquant.graph.io import load, nodes
from onnxquant.targets.bodies import DEQUANTIZE, DOMAIN

# Ops that onnxruntime computes on codes, itself or after fusing them with what follows.
_ON_CODES = {
    "MatMulNBits", "GatherBlockQuantized", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger",
}  # fmt: skip


def advice(model: str | Path | onnx.ModelProto) -> str:
    """The onnxruntime that loads a file, whether it is fast there, and what our kernels do for it.

    Raises:
        ModelError: it cannot be read.
    """
    proto = model if isinstance(model, onnx.ModelProto) else load(model).proto
    bodies = {f.name: f for f in proto.functions if f.domain == DOMAIN}
    ours = [n.op_type for n in nodes(proto) if n.domain == DOMAIN and not n.op_type.startswith(DEQUANTIZE)]
    decoded = [op for op in ours if op in bodies and not any(n.op_type in _ON_CODES for n in bodies[op].node)]
    on_codes = any(n.op_type in _ON_CODES for n in nodes(proto)) or len(decoded) < len(ours)
    least = f"loads on onnxruntime >= {minimum_onnxruntime(proto)}"
    if decoded:
        return f"{least}, {len(decoded)} of our {len(ours)} ops at float speed there; our kernels make them fast"
    speed = "fast there" if on_codes else "at float speed"
    return f"{least}, {speed}; our kernels are {'optional and faster' if ours else 'not needed'}"
