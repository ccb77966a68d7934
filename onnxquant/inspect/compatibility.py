"""The onnxruntime that a file needs, and the one that is fast with it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from onnxquant.graph.io import load
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.traverse import nodes, tensors
from onnxquant.targets.bodies import DEQUANTIZE

# Ops that onnxruntime computes on codes, itself or after fusing them with what follows.
_ON_CODES = {
    "MatMulNBits", "GatherBlockQuantized", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger",
    "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "QAttention",
    "DynamicQuantizeLSTM", "QMoE",
}  # fmt: skip
_BITS: dict[int, int] = {
    TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}  # fmt: skip


def minimum_onnxruntime(proto: onnx.ModelProto) -> str:
    """The oldest onnxruntime, from 1.23 on, that loads a model: it depends on the opset and on the bits of codes.

    Every format and target was loaded on each release (docs/compatibility.md).
    """
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    minor = max(23, {24: 24, 25: 24, 26: 26}.get(opset, 23))
    for node in nodes(proto):
        two_bits = any(a.name == "bits" and a.i == 2 for a in node.attribute)
        if two_bits and node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            minor = max(minor, 24 if node.op_type == "MatMulNBits" else 27)
    return f"1.{minor}"


def _fast_onnxruntime(proto: onnx.ModelProto) -> str | None:
    """The oldest release that computes on the codes of a model faster than on floats; None: none does.

    Measured (docs/compatibility.md): products of 2 bits since 1.28 where blocks have at most 128 weights, blocks of 8 bits
    behind a DequantizeLinear since 1.25.
    """
    minor = int(minimum_onnxruntime(proto).removeprefix("1."))
    types = {t.name: t.data_type for t in tensors(proto)}
    for node in nodes(proto):
        attributes = {a.name: a.i for a in node.attribute}
        bits = attributes.get("bits", 0)
        if node.op_type == "DequantizeLinear" and attributes.get("block_size"):
            bits = _BITS.get(types.get(node.input[0], 0), 0)
            minor = max(minor, 25 if bits == 8 else 0)
        elif node.op_type != "MatMulNBits":
            continue
        if bits == 2 and attributes.get("block_size", 0) > 128:
            return None
        minor = max(minor, 28 if bits == 2 else 0)
    return f"1.{minor}"


def advice(model: str | Path | onnx.ModelProto) -> str:
    """One line: the onnxruntime that loads a file, the one that is fast with it, and whether our kernels make it faster.

    Raises:
        ModelError: it cannot be read.
    """
    proto = model if isinstance(model, onnx.ModelProto) else load(model).proto
    bodies = {f.name: f for f in proto.functions if f.domain == DOMAIN}
    ours = [n.op_type for n in nodes(proto) if n.domain == DOMAIN and not n.op_type.startswith(DEQUANTIZE)]
    decoded = [op for op in ours if op in bodies and not any(n.op_type in _ON_CODES for n in bodies[op].node)]
    on_codes = any(n.op_type in _ON_CODES for n in nodes(proto)) or len(decoded) < len(ours)
    loads = f"loads on onnxruntime >= {minimum_onnxruntime(proto)}"
    if decoded:
        return f"{loads}, where {len(decoded)} of our {len(ours)} ops have float speed; our kernels make them fast"
    fast = _fast_onnxruntime(proto)
    speed = "at float speed"
    if on_codes:
        slow = "slower than float: onnxruntime's kernel for 2 bits is fast with blocks of at most 128 alone"
        speed = f"fast on >= {fast}" if fast else slow
    return f"{loads}, {speed}; our kernels are {'optional and faster' if ours else 'not needed'}"
