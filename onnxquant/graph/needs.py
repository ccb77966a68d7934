"""Needs of nodes for constant weights: the operators that make a site, and the matrix that each sees."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import STANDARD, attribute
from onnxquant.graph.refusal import Refusal

TOO_SMALL = "a vector or scalar (bias, norm, scale): too small to gain, too sensitive to lose"


class UseKind(Enum):
    """The part of a weight that a use needs."""

    PRODUCT = "product"  # X @ W: a kernel may decode it block by block
    LOOKUP = "lookup"  # rows of W by index
    EXPERTS = "experts"  # rows of several matrices, of which each token meets a few
    DENSE = "dense"  # the whole tensor, decoded ahead of the op and folded when a session is created


@dataclass(frozen=True)
class View:
    """A tensor seen as a matrix: transpose by ``perm``, then join the first ``split`` axes and the rest.

    >>> View((64, 3, 3, 3), (0, 1, 2, 3), 1).rows
    64
    """

    shape: tuple[int, ...]
    perm: tuple[int, ...]
    split: int = 1

    @property
    def permuted(self) -> tuple[int, ...]:
        """Shape after the transpose."""
        return tuple(self.shape[p] for p in self.perm)

    @property
    def rows(self) -> int:
        """Output channels."""
        return prod(self.permuted[: self.split])

    @property
    def cols(self) -> int:
        """Contracted channels."""
        return prod(self.permuted[self.split :])

    @property
    def inverse(self) -> tuple[int, ...]:
        """The permutation that undoes ``perm``."""
        return tuple(int(i) for i in np.argsort(self.perm))

    def matrix(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """The tensor as [rows, cols]; a view where numpy can."""
        return tensor.transpose(self.perm).reshape(self.rows, self.cols)

    def restore(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """The tensor that a matrix [rows, cols] stands for."""
        return matrix.reshape(self.permuted).transpose(self.inverse)

    def row_vector(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value per row ([rows, 1]) shaped so that it broadcasts against the tensor."""
        leading = self.permuted[: self.split]
        return values.reshape(leading + (1,) * (len(self.shape) - self.split)).transpose(self.inverse)


@dataclass(frozen=True)
class Need:
    """The need of one input of a node for a weight: its role, the part of it, and the matrix that the node sees."""

    role: str
    kind: UseKind
    view: View


# Ops that only move values: a weight under them is decoded ahead and everything up to the real op folds.
MOVES = {"Slice", "Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "Identity", "Gather", "Flatten"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
# Their biases and peepholes: vectors, one for each direction.
_RECURRENT_VECTORS = (3, 7)
# Inputs of onnxruntime's own operators that are weights.
_CONTRIB_WEIGHTS = {
    "FusedConv": (1,),
    "FusedMatMul": (1,),
    "FusedGemm": (1,),
    "Attention": (1,),
    "EmbedLayerNormalization": (2, 3, 4),  # tables of words, positions and segments
    "MoE": (2, 4, 6),  # [experts, outputs, inputs]
}


def classify(node: onnx.NodeProto, position: int, shape: tuple[int, ...]) -> Need | Refusal:
    """The need of an input of a node for a weight of this shape; or the reason why it is no site."""
    op, rank = node.op_type, len(shape)
    if rank < 2 or (op in _RECURRENT and position in _RECURRENT_VECTORS):
        return Refusal(TOO_SMALL)
    if 0 in shape:
        return Refusal("has no elements")
    if not node.output:
        return Refusal(f"input {position} of {op}, which makes no output")
    if node.domain in STANDARD:
        need = _standard_need(node, position, shape)
    else:
        is_weight = node.domain == MICROSOFT and position in _CONTRIB_WEIGHTS.get(op, ())
        view = View(shape, tuple(range(rank)), rank - 1 if op == "MoE" else 1)
        kind = UseKind.EXPERTS if op == "MoE" and rank == 3 else UseKind.DENSE
        need = Need(op.lower(), kind, view) if is_weight else None
    domain = f"{node.domain}." if node.domain else ""
    return need or Refusal(f"input {position} of {domain}{op}, which is not read as a weight")


def _standard_need(node: onnx.NodeProto, position: int, shape: tuple[int, ...]) -> Need | None:
    """The need of an input of an op of the default domain; None where it makes no site."""
    op, rank = node.op_type, len(shape)
    same = tuple(range(rank))
    if op == "MatMul":
        swapped = (*same[:-2], rank - 1, rank - 2)
        if position == 1 and rank == 2:
            return Need("matmul", UseKind.PRODUCT, View(shape, swapped))
        return Need("matmul", UseKind.DENSE, View(shape, swapped if position == 1 else same, rank - 1))
    if op == "Gemm" and position < 2:
        transposed = attribute(node, "transA" if position == 0 else "transB", 0)
        rows_first = bool(transposed) == (position == 1)
        view = View(shape, (0, 1) if rows_first else (1, 0))
        is_product = position == 1 and not attribute(node, "transA", 0)
        return Need("gemm", UseKind.PRODUCT if is_product else UseKind.DENSE, view)
    if op in ("Conv", "DeformConv") and position == 1:
        return Need("conv", UseKind.DENSE, View(shape, same))
    if op == "ConvTranspose" and position == 1:
        # [in, out / groups, ...]: with one group the output channels are a clean axis.
        perm = (1, 0, *same[2:]) if attribute(node, "group", 1) == 1 else same
        return Need("conv_transpose", UseKind.DENSE, View(shape, perm))
    is_table = rank == 2 or shape[0] > 1  # of more axes, the experts of a layer: [experts, inputs, outputs]
    if op == "Gather" and position == 0 and is_table and attribute(node, "axis", 0) == 0:
        return Need("gather", UseKind.LOOKUP, View(shape, same))
    if op in _RECURRENT and position in (1, 2):
        return Need("recurrent", UseKind.DENSE, View(shape, same, 2))
    if op == "Einsum" or (op in MOVES and position == 0) or op == "Concat":
        return Need(op.lower(), UseKind.DENSE, View(shape, same, rank - 1 if rank < 4 else 1))
    return None


def is_depthwise(node: onnx.NodeProto, weight: onnx.TensorProto) -> bool:
    """Whether each output channel of a Conv reads the input channel of its own."""
    return bool(weight.dims[1] == 1 and weight.dims[0] == attribute(node, "group", 1))
