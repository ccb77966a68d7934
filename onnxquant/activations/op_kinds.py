"""What ONNX Runtime's CPU provider computes on integers, and how an op treats the scale of what passes through it.

The lists follow what onnxruntime 1.31 does with DequantizeLinear -> op -> QuantizeLinear. Everything else stays in float
between a DequantizeLinear and a QuantizeLinear; the report names every conversion that the installed one keeps.
"""

from __future__ import annotations

from enum import Enum

import onnx

from onnxquant.graph.flow import STANDARD, Flow, attribute


class Kind(Enum):
    """What an op is to integer activations."""

    KERNEL = "kernel"  # multiplies with a constant weight
    VALUE = "value"  # makes new values from old ones: output with a scale of its own
    MOVE = "move"  # hands values on: output with the scale of its input
    CLAMP = "clamp"  # Relu, Clip: what the saturation of a QuantizeLinear does by itself
    FLOAT = "float"


# Fused whether or not a QuantizeLinear follows: their integer kernels can give floats.
FLOAT_OUTPUT = ("MatMul", "Gemm")
_KERNELS = ("Conv", "Gemm", "MatMul")
_VALUES = ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")
_MOVES = (
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Tile", "Split",
    "Resize", "DepthToSpace",
)  # fmt: skip
_CLAMPS = ("Relu", "Clip")


def kind_of(node: onnx.NodeProto, flow: Flow) -> Kind:
    """What a node is, from its op, attributes and which inputs are constant."""
    if node.domain not in STANDARD:
        return Kind.FLOAT
    if node.op_type in _KERNELS:
        return Kind.KERNEL if not refused(node, flow) else Kind.FLOAT
    if node.op_type in _CLAMPS:
        return Kind.CLAMP if bounds(node, flow) else Kind.FLOAT
    if node.op_type in _VALUES:
        known = any(flow.constant(name) is not None for name in node.input)
        return Kind.FLOAT if known else Kind.VALUE
    if node.op_type in _MOVES and not (node.op_type == "Resize" and attribute(node, "mode", "nearest") != "nearest"):
        return Kind.MOVE if flow.constant(node.input[0]) is None else Kind.FLOAT
    return Kind.FLOAT


def refused(node: onnx.NodeProto, flow: Flow) -> str | None:
    """Why a Conv, Gemm or MatMul has no integer kernel here; None when it has."""
    weight = flow.constant(node.input[1])
    if weight is None:
        return "both operands are activations: left in float"
    if weight.data_type != onnx.TensorProto.FLOAT:
        return "the weight is not float32"
    if flow.constant(node.input[0]) is not None:
        return "its input is constant"
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and flow.constant(bias) is None:
        return "the bias is not constant"
    if node.op_type == "MatMul" and len(weight.dims) != 2:
        return "the weight has more than two axes"
    if node.op_type == "Gemm":
        if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
            return "Gemm with alpha, beta or transA"
        rows = weight.dims[0] if attribute(node, "transB", 0) else weight.dims[1]
        tensor = flow.constant(bias) if bias else None
        if tensor is not None and list(tensor.dims) not in ([rows], [1, rows]):
            return "C is not one value per column"
    return None


def inputs(node: onnx.NodeProto, kind: Kind) -> list[str]:
    """The activations that a node of an integer kind reads."""
    if kind is Kind.VALUE:
        return list(node.input)
    return [node.input[0]]


def bounds(node: onnx.NodeProto, flow: Flow) -> tuple[float, float] | None:
    """Lowest and highest output of a Relu or a Clip with constant bounds."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    given: list[float] = []
    for position, (name, default) in enumerate((("min", float("-inf")), ("max", float("inf"))), start=1):
        tensor_name = node.input[position] if len(node.input) > position else ""
        if not tensor_name:
            given.append(float(attribute(node, name, default)))
            continue
        tensor = flow.constant(tensor_name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        given.append(float(onnx.numpy_helper.to_array(tensor).reshape(-1)[0]))
    return given[0], given[1]
