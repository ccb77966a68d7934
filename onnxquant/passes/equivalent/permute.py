"""Orders of the columns of weights, in which blocks hold columns of like size or importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.errors import WeightError
from onnxquant.formats.matrix import check_permutation
from onnxquant.graph.analysis.interchangeable_channels import interchangeable_channels
from onnxquant.graph.analysis.linear import Linear, linear
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op
from onnxquant.graph.refusal import Refusal
from onnxquant.numerics.arrays import Order
from onnxquant.passes.base import Pass
from onnxquant.passes.equivalent.rescale import (
    ChannelResult,
    linear_readers,
    no_single_matrix,
    other_readers,
    shared_weight,
)

Strategy = Literal["norm", "activation", "attention"]
"""Orders of a weight's columns: by their L2 norms, by the energy of their inputs, or by norms that the q, k and v of a layer
share."""
# Ops in which q, k and v meet.
_ATTENTION = {"MatMul", "Einsum", "Attention", "MultiHeadAttention", "GroupQueryAttention", "SparseAttention"}


def order_of(weights: Sequence[NDArray[np.floating]], strategy: Strategy, energy: ArrayLike | None = None) -> Order:
    """The order of the columns of weights that read one activation.

    Args:
        weights: matrices [rows, cols] of any numbers of rows.
        strategy: ``norm`` and ``attention``: the columns' L2 norms over the rows of all weights, descending;
            ``activation``: ``energy``, descending. Equal columns stay in their order.
        energy: the mean or the sum of each channel's squares [cols].

    Raises:
        WeightError: there are no weights, or they or the energy have other numbers of columns; values are not finite.
    """
    columns = {weight.shape[1] for weight in weights}
    if len(columns) != 1:
        raise WeightError(f"weights of {sorted(columns)} columns: expected those that read one activation")
    if strategy == "activation":
        size = np.asarray(energy, np.float64)
    else:
        size = np.sum([np.square(w, dtype=np.float64).sum(axis=0) for w in weights], axis=0)
    if size.shape != (*columns,) or not np.isfinite(size).all():
        raise WeightError(
            f"order by {strategy}: expected {columns.pop()} finite numbers, found shape {list(size.shape)}"
        )
    return np.argsort(-size, kind="stable").astype(np.int32)


def orders(document: Document, strategy: Strategy, energies: Mapping[str, NDArray[Any]]) -> dict[str, Order]:
    """The order of each activation that linear ops with constant weights read, by tensor name.

    Args:
        document: a prepared model.
        strategy: the strategy of ``order_of``; ``attention`` takes only activations that the q, k and v of a layer read.
        energies: energy of each channel, for ``activation`` only, which leaves out activations that have none.
    """
    by_name: dict[str, Order] = {}
    for editor in graph_editors(document):
        names = {n.input[0] for n in editor.nodes if linear(editor, n)}
        for name, readers in linear_readers(editor, names).items():
            applies = strategy != "activation" or name in energies
            if strategy == "attention":
                applies = all(_meets_another(editor, op) for op in readers)
            if applies and no_single_matrix(readers) is None:
                matrices = [op.blocks(document)[0, :, :, 0] for op in readers]
                by_name[name] = order_of(matrices, strategy, energies.get(name))
    return by_name


@dataclass(frozen=True)
class PermuteChannels(Pass):
    """Permutes the channels of activations: the rows of the weights that make them, and the columns of those that read them.

    With ``P`` the permutation, ``W x = (W P) (P^T x)``. The function is the same, up to the order in which products are
    summed, and nothing is left to do in a run. Column j of the result is column ``order[j]`` of the weight, as in
    ``Format.encode``.

    1. Where everything between the linear ops that make an activation and those that read it acts on each channel alone,
       the rows of the ones are permuted with the columns of the others.

           MatMul(Relu(MatMul(x, W1)), W2)   ->   MatMul(Relu(MatMul(x, W1 P)), P^T W2)

    2. Other activations stay, as do those of weights that are read elsewhere too, or have groups or windows.

    Attributes:
        orders: order of the channels of an activation that linear ops with constant weights read, by tensor name.
    """

    name = "permute-channels"
    summary = "permutes channels of activations, with the rows and columns of the weights around them"

    orders: Mapping[str, NDArray[np.integer]]

    def __call__(self, document: Document) -> ChannelResult:
        """Permute the channels.

        Raises:
            WeightError: an order does not name each channel once.
        """
        moved: dict[str, str] = {}
        refused: dict[str, str] = {}
        for editor in graph_editors(document):
            for name, readers in linear_readers(editor, self.orders).items():
                order = check_permutation(self.orders[name], readers[0].inputs)
                if refusal := _permute(document, editor, name, readers, order):
                    refused.setdefault(name, refusal.reason)
                else:
                    moved[name] = "by what makes it"
            editor.apply()
        return ChannelResult.of("permuted", moved, refused)


def _permute(document: Document, editor: GraphEditor, name: str, readers: list[Linear], order: Order) -> Refusal | None:
    """Permute rows and columns; a refusal where that cannot be."""
    if refusal := other_readers(editor, name, readers) or no_single_matrix(readers):
        return refusal
    channels = interchangeable_channels(document, editor, name, readers[0].inputs, readers[0].axis)
    if isinstance(channels, Refusal):
        return channels
    if refusal := shared_weight(editor, [*readers, *channels.makers]):
        return refusal
    changes = channels.permuted(document, editor, order)
    for op in readers:
        changes += op.permuted(document, editor, into=order)
    editor.set_constants(changes)
    return None


def _meets_another(editor: GraphEditor, op: Linear) -> bool:
    """Whether the output of an op is multiplied with another activation, before a linear op reads it: q, k or v."""
    waiting, visited = list(op.node.output), {editor.place(op.node)}
    while waiting:
        for node in editor.consumers(waiting.pop()):
            if node.op_type in _ATTENTION and not any(editor.constant(name) for name in node.input[:2]):
                return True
            if editor.place(node) not in visited and not is_op(node, "Shape", "Size") and linear(editor, node) is None:
                visited.add(editor.place(node))
                waiting += node.output
    return False
