"""Kinds of operators: those that ONNX Runtime's CPU provider computes on integers, and their treatment of scales.

The lists follow onnxruntime 1.31 and its treatment of DequantizeLinear -> op -> QuantizeLinear. Every other operator stays
in float between a DequantizeLinear and a QuantizeLinear. The report names every conversion that the installed version keeps.
"""

from __future__ import annotations

from enum import Enum

import onnx

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.node import STANDARD, attribute
from onnxquant.graph.sites import OVERRIDABLE


class OpKind(Enum):
    """The role of an operator between integer activations."""

    KERNEL = "kernel"  # multiplies with a constant weight
    VALUE = "value"  # computes new values: its output has a scale of its own
    MOVE = "move"  # passes values on: its output has the scale of its input
    CLAMP = "clamp"  # Relu, Clip: a QuantizeLinear that saturates does the same
    FUNCTION = "function"  # computes each value from one alone: ONNX Runtime does so in float, our library by a table
    FLOAT = "float"


# Operators that are fused whether or not a QuantizeLinear follows: their integer kernels can return floats.
FLOAT_OUTPUT = ("MatMul", "Gemm")
_KERNELS = ("Conv", "Gemm", "MatMul")
_VALUES = ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")
MOVES = (
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Tile", "Split",
    "Resize", "DepthToSpace",
)  # fmt: skip
_CLAMPS = ("Relu", "Clip")
_FUNCTIONS = ("HardSwish", "HardSigmoid")
# Operators that average what they read: values that they alone read are not rounded for them.
MEANS = ("GlobalAveragePool",)
# Moves that take so much less time in codes that it is worth rounding what a float op gives before them, not behind them.
CHEAP_IN_CODES = ("MaxPool", "Resize")


def kind_of(node: onnx.NodeProto, editor: GraphEditor) -> OpKind:
    """The kind of a node, from its operator, its attributes and which inputs are constant."""
    if node.domain not in STANDARD:
        return OpKind.FLOAT
    if node.op_type in _KERNELS:
        return OpKind.KERNEL if not kernel_refusal(node, editor) else OpKind.FLOAT
    if node.op_type in _CLAMPS:
        low, high = clamp_bounds(node, editor) or (1.0, 0.0)
        return OpKind.CLAMP if low <= 0 <= high else OpKind.FLOAT  # every range of codes holds zero
    if node.op_type in _FUNCTIONS:
        return OpKind.FUNCTION
    if node.op_type in _VALUES:
        has_constant = any(editor.constant(name) is not None for name in node.input)
        return OpKind.FLOAT if has_constant else OpKind.VALUE
    if node.op_type in MOVES and not (node.op_type == "Resize" and attribute(node, "mode", "nearest") != "nearest"):
        return OpKind.MOVE if editor.constant(node.input[0]) is None else OpKind.FLOAT
    return OpKind.FLOAT


def kernel_refusal(node: onnx.NodeProto, editor: GraphEditor) -> str | None:
    """The reason why a Conv, Gemm or MatMul has no integer kernel here; None where it has one."""
    weight = editor.constant(node.input[1])
    if weight is None:
        overridable = node.input[1] in editor.inputs and editor.has_initializer(node.input[1])
        return f"its weight {OVERRIDABLE}" if overridable else "both operands are activations: left in float"
    if weight.data_type != onnx.TensorProto.FLOAT:
        return "the weight is not float32"
    if editor.constant(node.input[0]) is not None:
        return "its input is constant"
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and editor.constant(bias) is None:
        return "the bias is not constant"
    if node.op_type == "MatMul" and len(weight.dims) != 2:
        return "the weight has more than two axes"
    if node.op_type == "Gemm":
        if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
            return "Gemm with alpha, beta or transA"
        rows = weight.dims[0] if attribute(node, "transB", 0) else weight.dims[1]
        tensor = editor.constant(bias) if bias else None
        if tensor is not None and list(tensor.dims) not in ([rows], [1, rows]):
            return "C is not one value per column"
    return None


def activation_inputs(node: onnx.NodeProto, kind: OpKind) -> list[str]:
    """The activations that a node of an integer kind reads."""
    if kind is OpKind.VALUE:
        return list(node.input)
    return [node.input[0]]


def clamp_bounds(node: onnx.NodeProto, editor: GraphEditor) -> tuple[float, float] | None:
    """Lowest and highest output of a Relu, or of a Clip with constant bounds."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    low = _clip_bound(node, editor, 1, "min", float("-inf"))
    high = _clip_bound(node, editor, 2, "max", float("inf"))
    return None if low is None or high is None else (low, high)


def _clip_bound(node: onnx.NodeProto, editor: GraphEditor, position: int, name: str, default: float) -> float | None:
    """One bound of a Clip: an input since opset 11, an attribute before; None where it is computed."""
    tensor_name = node.input[position] if len(node.input) > position else ""
    if not tensor_name:
        return float(attribute(node, name, default))
    tensor = editor.constant(tensor_name)
    if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    return float(onnx.numpy_helper.to_array(tensor).reshape(-1)[0])
