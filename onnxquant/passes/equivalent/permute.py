"""Columns of weights in another order, so that blocks hold columns of like size or importance.

With ``P`` the permutation, ``W x = (W P) (P^T x)``. Where everything between the linear ops that make ``x`` and those that
read it acts on each channel alone, the rows of the ones are permuted with the columns of the others: the same function, up
to the order in which products are summed, and nothing left to do in a run. Elsewhere a format's ``permutation`` plane
stores the order.

Column j of the result is column ``order[j]`` of the weight, as in ``Format.encode``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.errors import WeightError
from onnxquant.formats.matrix import check_permutation
from onnxquant.graph.analysis.interchangeable_channels import lanes
from onnxquant.graph.analysis.linear import Linear, Order, linear
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op
from onnxquant.passes.equivalent.rescale import Folded, foreign, linear_readers, tied, unfit
from onnxquant.recipe.values import Strategy

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
        strategy: as of ``order_of``; ``attention``: only of activations that the q, k and v of a layer read.
        energies: the energy of each channel, for ``activation`` only, which leaves out activations that have none.
    """
    found: dict[str, Order] = {}
    for editor in graph_editors(document):
        names = {n.input[0] for n in editor.nodes if linear(editor, n)}
        for name, readers in linear_readers(editor, names).items():
            wanted = strategy != "activation" or name in energies
            if strategy == "attention":
                wanted = all(_meets_another(editor, op) for op in readers)
            if wanted and not unfit(readers):
                matrices = [op.blocks(document)[0, :, :, 0] for op in readers]
                found[name] = order_of(matrices, strategy, energies.get(name))
    return found


def fold(document: Document, orders: Mapping[str, NDArray[np.integer]]) -> Folded:
    """Permute the channels of activations: the rows of what makes them and the columns of the weights that read them.

    Args:
        document: a prepared model.
        orders: of activations that linear ops with constant weights read, by tensor name.

    Returns:
        what was folded; and what was not, with the reason.

    Raises:
        WeightError: an order does not name each channel once.
    """
    folded = Folded()
    for editor in graph_editors(document):
        for name, readers in linear_readers(editor, orders).items():
            order = check_permutation(orders[name], readers[0].inputs)
            if reason := _fold(document, editor, name, readers, order):
                folded.left.setdefault(name, reason)
            else:
                folded.done[name] = "by what makes it"
        editor.apply()
    return folded


def _fold(document: Document, editor: GraphEditor, name: str, readers: list[Linear], order: Order) -> str:
    """Permute rows and columns; the reason where that cannot be."""
    if reason := foreign(editor, name, readers) or unfit(readers):
        return reason
    found = lanes(document, editor, name, readers[0].inputs, readers[0].axis)
    if isinstance(found, str):
        return found
    if reason := tied(editor, [*readers, *found.makers]):
        return reason
    changes = found.permuted(document, editor, order)
    for op in readers:
        changes += op.permuted(document, editor, into=order)
    editor.set_constants(changes)
    return ""


def _meets_another(editor: GraphEditor, op: Linear) -> bool:
    """Whether what an op makes is multiplied with another activation, before a linear op reads it: q, k or v."""
    waiting, seen = list(op.node.output), {editor.place(op.node)}
    while waiting:
        for node in editor.consumers(waiting.pop()):
            if node.op_type in _ATTENTION and not any(editor.constant(name) for name in node.input[:2]):
                return True
            if editor.place(node) not in seen and not is_op(node, "Shape", "Size") and linear(editor, node) is None:
                seen.add(editor.place(node))
                waiting += node.output
    return False
