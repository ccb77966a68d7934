"""Operators that have to compute in float32."""

from __future__ import annotations

import onnx

from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import STANDARD, attribute
from onnxquant.graph.traverse import subgraphs
from onnxquant.runtime.signatures import Signature

# Their float16 kernels are missing, or their types are in an attribute; scales must keep their digits.
_IN_FLOAT32 = (
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "EyeLike",
    "HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix", "QuantizeLinear", "DequantizeLinear",
    "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM", "QLinearConv",
    "QLinearMatMul", "SequenceMap",
)  # fmt: skip


def reason_for_float32(node: onnx.NodeProto, signature: Signature) -> str | None:
    """The reason why a node has to compute in float32, whatever it reads; None where there is none."""
    if any(subgraphs(node)):
        return "so do the graphs in its attributes"
    if node.op_type in _IN_FLOAT32 and node.domain in (*STANDARD, MICROSOFT):
        return "it has no float16 form that keeps its meaning"
    if node.op_type in ("MatMulNBits", "GatherBlockQuantized") and attribute(node, "bits", 4) == 2:
        return "onnxruntime takes float16 beside codes of 2 bits from 1.28 on"
    if any(a.name == "reduction" and a.s not in (b"", b"none") for a in node.attribute) and "Scatter" in node.op_type:
        return "onnxruntime adds up no float16 there"
    slots = [*signature.inputs, *signature.outputs]
    if any("seq(tensor(float))" in s.allowed and "tensor(float)" not in s.allowed for s in slots):
        return "sequences cannot be cast"
    return None
