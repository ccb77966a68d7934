"""Linear ops with a constant weight: one view of their channels, one way to change weight and bias."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.editor import ConstantChange, GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op, set_attribute
from onnxquant.graph.sites import FLOATS
from onnxquant.numerics.arrays import Doubles, Order

_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Linear:
    """A Conv, ConvTranspose, Gemm or MatMul whose input 1 is constant.

    Attributes:
        node: the op.
        tensor: its weight.
        groups: channels of one group meet only each other; the number of outputs equals it where the op is depthwise.
        inputs_first: the weight's axis of input channels comes before that of output channels.
    """

    node: onnx.NodeProto
    tensor: onnx.TensorProto
    groups: int
    inputs_first: bool

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        dims = self.tensor.dims
        return int(dims[1]) * self.groups if self.inputs_first else int(dims[0])

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        dims = self.tensor.dims
        return int(dims[0]) if self.inputs_first else int(dims[1]) * self.groups

    @property
    def rank(self) -> int | None:
        """Rank of the output; None for MatMul, where it is that of the input."""
        return None if self.node.op_type == "MatMul" else len(self.tensor.dims)

    @property
    def axis(self) -> int:
        """Axis of the channels in input and output, from the end."""
        return -1 if self.node.op_type in ("MatMul", "Gemm") else 1 - len(self.tensor.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.tensor.data_type))

    @property
    def is_matrix(self) -> bool:
        """Whether its weight is one matrix of all outputs and inputs: without groups or windows."""
        return prod(self.tensor.dims) == self.outputs * self.inputs and self.groups == 1

    def owns_weight(self, editor: GraphEditor) -> bool:
        """Whether nothing else reads its weight, which can then be changed without being stored twice."""
        return editor.owns_constant(self.node, 1)

    def blocks(self, document: Document) -> Doubles:
        """The weight in float64 as [groups, outputs per group, inputs per group, kernel]; a copy."""
        values = document.array(self.tensor).astype(np.float64)
        first, second = int(self.tensor.dims[0]), int(self.tensor.dims[1])
        if self.inputs_first:
            return values.reshape(self.groups, first // self.groups, second, -1).swapaxes(1, 2)
        return values.reshape(self.groups, first // self.groups, second, -1)

    def restored(self, blocks: Doubles) -> Doubles:
        """The inverse of ``blocks``: values in the weight's own layout."""
        values = blocks.swapaxes(1, 2) if self.inputs_first else blocks
        return values.reshape(tuple(self.tensor.dims))

    def per_output(self, vector: Doubles) -> Doubles:
        """One value per output channel, shaped to broadcast against ``blocks``."""
        return vector.reshape(self.groups, -1, 1, 1)

    def per_input(self, vector: Doubles) -> Doubles:
        """One value per input channel, shaped to broadcast against ``blocks``."""
        return vector.reshape(self.groups, 1, -1, 1)

    @property
    def takes_rows(self) -> bool:
        """Whether its input's channels lie where its output's do (not for a Gemm of a transposed input)."""
        return not (self.node.op_type == "Gemm" and attribute(self.node, "transA", 0))

    def bias(self, document: Document, editor: GraphEditor) -> Doubles | None:
        """The number that the op adds to each output channel; None where that is not constant or not per channel."""
        stored = self._stored_bias(document, editor)
        if stored is None or self.node.op_type != "Gemm":
            return stored
        return stored * float(attribute(self.node, "beta", 1.0))

    @property
    def _has_bias(self) -> bool:
        return self.node.op_type != "MatMul" and len(self.node.input) > 2 and bool(self.node.input[2])

    def _stored_bias(self, document: Document, editor: GraphEditor) -> Doubles | None:
        if not self._has_bias:
            return np.zeros(self.outputs)
        tensor = editor.constant(self.node.input[2])
        return None if tensor is None else per_channel(document.array(tensor), self.outputs, -1, 2)

    def set_bias(self, editor: GraphEditor, values: NDArray[Any]) -> None:
        """Give the op another bias, of its own type; not for MatMul, which has none."""
        if self.node.op_type == "Gemm":
            set_attribute(self.node, "beta", None)
        editor.set_constant(self.node, 2, values, "" if self._has_bias else f"{self.node.output[0]}_bias")

    def scaled(
        self, document: Document, editor: GraphEditor, out: Doubles | None = None, into: Doubles | None = None
    ) -> list[ConstantChange] | None:
        """Changes that multiply the outputs of the op by ``out``, and its weights by ``into`` per input.

        Returns:
            new constants for inputs of the node; None when one would not fit its type or the bias is not constant.
        """
        blocks = self.blocks(document)
        with np.errstate(over="ignore", invalid="ignore"):
            if out is not None:
                blocks *= self.per_output(out)
            if into is not None:
                blocks *= self.per_input(into)
            weight = rounded(self.restored(blocks), self.dtype)
            stored = None if out is None else self._stored_bias(document, editor)
            bias = None if out is None or stored is None else rounded(stored * out, self.dtype)
        if weight is None or (out is not None and bias is None):
            return None
        changes = [ConstantChange(self.node, 1, weight)]
        return [*changes, ConstantChange(self.node, 2, bias)] if bias is not None and self._has_bias else changes

    def permuted(
        self, document: Document, editor: GraphEditor, out: Order | None = None, into: Order | None = None
    ) -> list[ConstantChange]:
        """Changes that put the outputs of the op in the order ``out``, for inputs that are in the order ``into``.

        The op must have no groups, and a constant bias where its outputs are put in order.
        """
        weight = document.array(self.tensor)
        for order, axis in ((out, int(self.inputs_first)), (into, 1 - self.inputs_first)):
            weight = weight if order is None else np.take(weight, order, axis)
        changes = [ConstantChange(self.node, 1, weight)]
        bias = editor.constant(self.node.input[2]) if out is not None and self._has_bias else None
        if bias is not None and bias.dims[-1:] == [self.outputs]:
            changes.append(ConstantChange(self.node, 2, document.array(bias)[..., out]))
        return changes


def linear(editor: GraphEditor, node: onnx.NodeProto | None) -> Linear | None:
    """The view of a node; None when it is no linear op, or its weight is not constant or not float."""
    if node is None or not is_op(node, *_OPS) or len(node.input) < 2:
        return None
    tensor = editor.constant(node.input[1])
    if tensor is None or tensor.data_type not in FLOATS or not prod(tensor.dims):
        return None
    rank, op = len(tensor.dims), node.op_type
    if op in ("MatMul", "Gemm"):
        turned = op == "Gemm" and bool(attribute(node, "transB", 0))
        return Linear(node, tensor, 1, not turned) if rank == 2 else None
    groups = int(attribute(node, "group", 1))
    if rank < 3 or groups < 1 or tensor.dims[0] % groups:
        return None
    return Linear(node, tensor, groups, op == "ConvTranspose")


def per_channel(values: NDArray[Any], channels: int, axis: int, rank: int | None) -> Doubles | None:
    """A constant operand as one value per channel; None when it varies along another axis or widens the result.

    Args:
        values: the operand, broadcast against the other as ONNX does.
        channels: number of channels of the other operand.
        axis: their axis there, from the end.
        rank: the other operand's rank; None when unknown.
    """
    shape = values.shape
    if values.size == 0 or len(shape) > (rank or 1):
        return None
    for back, length in enumerate(reversed(shape), start=1):
        if length != 1 and (back != -axis or length != channels):
            return None
    return np.broadcast_to(values.astype(np.float64).reshape(-1), (channels,)).copy()


def rounded(values: Doubles, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Values in an element type; None when one does not fit it or is not a number."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
    return result if np.isfinite(result.astype(np.float64)).all() else None
