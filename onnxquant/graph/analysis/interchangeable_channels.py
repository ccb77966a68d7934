"""Chains of ops whose channels never meet, so that they may be permuted.

They are followed upwards from a tensor, through ops that treat all channels alike: elementwise ones, and reductions that
leave the axes in place. All tensors on the way must be read for this tensor alone: a residual stream is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.analysis.linear import Linear, linear
from onnxquant.graph.editor import ConstantChange, GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import STANDARD, attribute, is_op
from onnxquant.graph.refusal import Refusal
from onnxquant.numerics.arrays import Order

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
_DOMAINS = (*STANDARD, MICROSOFT)


@dataclass
class InterchangeableChannels:
    """The linear ops that make a tensor's channels, and the constants on the way that have one value per channel.

    Attributes:
        axis: axis of the channels, from the end.
        makers: the linear ops.
        operands: the constants as they are, each with its node and the index of its input.
    """

    axis: int
    makers: list[Linear] = field(default_factory=list)
    operands: list[ConstantChange] = field(default_factory=list)

    def permuted(self, document: Document, editor: GraphEditor, order: Order) -> list[ConstantChange]:
        """Changes that make the channels come in another order."""
        changes = [replace(o, values=np.take(o.values, order, self.axis)) for o in self.operands]
        for op in self.makers:
            changes += op.permuted(document, editor, out=order)
        return changes


def interchangeable_channels(
    document: Document, editor: GraphEditor, name: str, channels: int, axis: int
) -> InterchangeableChannels | Refusal:
    """The makers of the channels of a tensor whose readers all agree to another order; or why it must stay.

    Args:
        document: the model.
        editor: the graph.
        name: the tensor.
        channels: number of its channels.
        axis: axis of the channels, from the end.
    """
    walk = _Walk(document, editor, channels, InterchangeableChannels(axis))
    refusal = walk.enter(name)
    while walk.waiting and refusal is None:
        # The last first: whatever may read a tensor rightly has been met before it.
        tensor = max(walk.waiting, key=lambda n: editor.place(walk.waiting[n]))
        refusal = walk.step(tensor, is_start=tensor == name)
    return refusal or walk.result


@dataclass
class _Walk:
    """The walk up from one tensor.

    Attributes:
        document: the model.
        editor: the graph.
        channels: number of channels.
        result: makers and operands so far.
        waiting: tensors to go on from, with their makers.
        passed: places of the nodes on the way.
    """

    document: Document
    editor: GraphEditor
    channels: int
    result: InterchangeableChannels
    waiting: dict[str, onnx.NodeProto] = field(default_factory=dict)
    passed: set[int] = field(default_factory=set)

    def enter(self, name: str) -> Refusal | None:
        """Go on from a tensor later."""
        maker = self.editor.producer(name)
        if maker is None:
            return Refusal("it is made of an input or a constant")
        self.waiting[name] = maker
        return None

    def step(self, name: str, *, is_start: bool) -> Refusal | None:
        """Take in the maker of a tensor."""
        node = self.waiting.pop(name)
        if not is_start and (reader := self._other_reader(name)):
            return Refusal(f"{reader} what makes it too")
        if any(output and self.editor.is_read(output) for output in node.output if output != name):
            return Refusal(f"the {node.op_type} before it gives something else too")
        op = linear(self.editor, node)
        if op is None:
            self.passed.add(self.editor.place(node))
            return self._through(node)
        self.result.makers.append(op)
        return self._refusal_of(op)

    def _other_reader(self, name: str) -> str:
        """The other reader of a tensor, in words; empty when only nodes on the way read it, or those that ask its shape."""
        if not self.editor.is_private(name):
            return "a caller or a nested graph reads"
        readers = [n for n in self.editor.consumers(name) if not is_op(n, "Shape", "Size")]
        others = [n for n in readers if self.editor.place(n) not in self.passed]
        return f"{others[0].op_type} reads" if others else ""

    def _refusal_of(self, op: Linear) -> Refusal | None:
        """The reason why a linear op's outputs must stay in their order."""
        kind = op.node.op_type
        if (op.outputs, op.axis) != (self.channels, self.result.axis):
            return Refusal(f"the channels of the {kind} before it are others")
        if op.groups > 1:
            return Refusal(f"the {kind} before it has groups")
        if op.bias(self.document, self.editor) is None:
            return Refusal(f"the bias of the {kind} before it is not a constant per channel")
        return None

    def _through(self, node: onnx.NodeProto) -> Refusal | None:
        """Take in the inputs of a node on the way; a refusal where channels meet in it."""
        reduces = node.op_type in _REDUCTIONS and attribute(node, "keepdims", 1)
        if node.domain not in _DOMAINS or not (node.op_type in _ELEMENTWISE | _FIRST or reduces):
            return Refusal(f"{node.op_type} lies before it")
        axis = self.result.axis
        inputs = list(node.input) if node.op_type in _ELEMENTWISE else node.input[:1]
        for position, name in enumerate(inputs):
            tensor = self.editor.constant(name) if name else None
            if tensor is None:
                if name and (refusal := self.enter(name)):
                    return refusal
            elif len(tensor.dims) >= -axis and tensor.dims[axis] == self.channels:
                values: NDArray[Any] = self.document.array(tensor)
                self.result.operands.append(ConstantChange(node, position, values))
        return None
