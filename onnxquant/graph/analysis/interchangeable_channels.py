"""Which linear ops make a tensor whose channels never meet on the way, so that they can come in any other order.

Found upwards from the tensor, through ops that treat all channels alike: elementwise ones, and reductions that leave the
axes in place. All that is met must be read for this tensor alone: a residual stream is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.analysis.linear import Change, Linear, Order, linear
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op

# All of their inputs are broadcast against each other from the last axis on.
_ELEMENTWISE = {"Abs", "Add", "Ceil", "Celu", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"}
_ELEMENTWISE |= {"Identity", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow"}
_ELEMENTWISE |= {"Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub"}
_ELEMENTWISE |= {"HardSwish", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where", "BiasGelu", "FastGelu", "QuickGelu"}
# Nor does it matter in which order normalizations see channels.
_ELEMENTWISE |= {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
# Their first input alone has channels.
_FIRST = {"Cast", "Clip", "Dropout"}
_REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"}
_DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass
class Lanes:
    """The linear ops that make a tensor's channels, and the constants on the way that have one value per channel.

    Attributes:
        axis: of the channels, from the end.
        makers: the linear ops.
        operands: a node, one of its inputs, and the constant there.
    """

    axis: int
    makers: list[Linear] = field(default_factory=list)
    operands: list[Change] = field(default_factory=list)

    def permuted(self, document: Document, editor: GraphEditor, order: Order) -> list[Change]:
        """Changes that make the channels come in another order."""
        changes = [(node, i, np.take(values, order, self.axis)) for node, i, values in self.operands]
        for op in self.makers:
            changes += op.permuted(document, editor, out=order)
        return changes


def lanes(document: Document, editor: GraphEditor, name: str, channels: int, axis: int) -> Lanes | str:
    """What makes the channels of a tensor whose readers all agree to another order; or the reason why they must stay.

    Args:
        document: the model.
        editor: the graph.
        name: the tensor.
        channels: how many it has.
        axis: where, from the end.
    """
    found = Lanes(axis)
    between: set[int] = set()
    waiting: dict[str, onnx.NodeProto] = {}
    reason = _enter(editor, name, waiting)
    while waiting and not reason:
        # The last first: whatever may read a tensor rightly has been met before it.
        at = max(waiting, key=lambda n: editor.place(waiting[n]))
        node = waiting.pop(at)
        op = linear(editor, node)
        if at != name and (other := _stranger(editor, at, between)):
            reason = f"{other} what makes it too"
        elif any(output and editor.is_read(output) for output in node.output if output != at):
            reason = f"the {node.op_type} before it gives something else too"
        elif op is not None:
            found.makers.append(op)
            reason = _refusal(document, editor, op, channels, axis)
        else:
            between.add(editor.place(node))
            reason = _through(document, editor, node, found, channels, waiting)
    return reason or found


def _enter(editor: GraphEditor, name: str, waiting: dict[str, onnx.NodeProto]) -> str:
    maker = editor.producer(name)
    if maker is None:
        return "it is made of an input or a constant"
    waiting[name] = maker
    return ""


def _stranger(editor: GraphEditor, name: str, between: set[int]) -> str:
    """Who else reads a tensor; empty when only nodes on the way do, or those that ask its shape."""
    if not editor.is_private(name):
        return "a caller or a nested graph reads"
    others = [n for n in editor.consumers(name) if editor.place(n) not in between and not is_op(n, "Shape", "Size")]
    return f"{others[0].op_type} reads" if others else ""


def _refusal(document: Document, editor: GraphEditor, op: Linear, channels: int, axis: int) -> str:
    """Why a linear op's outputs must stay in their order."""
    if (op.outputs, op.axis) != (channels, axis):
        return f"the channels of the {op.node.op_type} before it are others"
    if op.groups > 1:
        return f"the {op.node.op_type} before it has groups"
    if op.bias(document, editor) is None:
        return f"the bias of the {op.node.op_type} before it is not a constant per channel"
    return ""


def _through(
    document: Document,
    editor: GraphEditor,
    node: onnx.NodeProto,
    found: Lanes,
    channels: int,
    waiting: dict[str, onnx.NodeProto],
) -> str:
    """Take in what a node on the way reads; the reason where channels meet in it."""
    reduces = node.op_type in _REDUCTIONS and attribute(node, "keepdims", 1)
    if node.domain not in _DOMAINS or not (node.op_type in _ELEMENTWISE | _FIRST or reduces):
        return f"{node.op_type} lies before it"
    inputs = list(node.input) if node.op_type in _ELEMENTWISE else node.input[:1]
    for position, name in enumerate(inputs):
        tensor = editor.constant(name) if name else None
        if tensor is None:
            if name and (reason := _enter(editor, name, waiting)):
                return reason
        elif len(tensor.dims) >= -found.axis and tensor.dims[found.axis] == channels:
            values: NDArray[Any] = document.array(tensor)
            found.operands.append((node, position, values))
    return ""
