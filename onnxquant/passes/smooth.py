"""SmoothQuant: outlying channels of activations are divided, and the weights that read them multiplied.

Xiao et al. 2022, arXiv 2211.10438, equation 4: ``s_j = max|x_j|^a / max|w_j|^(1 - a)`` per channel j, over all weights
that read the activation; ``(X diag(s)^-1) (diag(s) W)`` is the same product. The division becomes part of what makes
the activation: a normalization's scale and bias, a vector operand, a linear op's weight and bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.errors import FeedError, RecipeError
from onnxquant.graph.flow import Flow, flows, is_op
from onnxquant.graph.io import Document
from onnxquant.graph.linear import Change, Doubles, Linear, linear, rounded
from onnxquant.graph.scaling import Search
from onnxquant.graph.shapes import infer

# As in the paper's code: a channel that is almost zero would be blown up without limit.
SMALLEST = 1e-5


def smooth(
    document: Document, absmax: Mapping[str, NDArray[Any]], *, strength: float = 0.5, insert: bool = False
) -> str | None:
    """Smooth each activation that linear ops with constant weights read.

    Args:
        document: a prepared model.
        absmax: the largest absolute value of each channel of an activation, by tensor name.
        strength: the paper's alpha: 0 leaves activations as hard as they are, 1 moves all difficulty into weights.
        insert: where nothing before an activation can take the division, put a Mul for it.

    Returns:
        what was smoothed, and why the rest was left; None when there was nothing to smooth.

    Raises:
        RecipeError: the strength is not in [0, 1].
        FeedError: the maxima are not one finite number per channel.
    """
    if not 0 <= strength <= 1:
        raise RecipeError(f"strength {strength}: expected a number from 0 to 1")
    known = infer(document)
    done: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for flow in flows(document):
        search = Search(document, flow, known)
        for name, readers in _activations(flow, absmax).items():
            scale = _scale(document, name, readers, absmax[name], strength)
            reason = _fold(search, name, readers, scale)
            if reason and insert:
                reason = _insert(search, name, readers, scale)
                done["by a Mul of its own"] += not reason
            else:
                done["by what makes it"] += not reason
            if reason:
                left[reason] += 1
        flow.apply()
    if not done.total() and not left:
        return None
    how = ", ".join(f"{n} {what}" for what, n in done.items() if n)
    text = f"{done.total()} activations smoothed" + (f" ({how})" if how else "")
    return text + "".join(f"; {n} left: {reason}" for reason, n in left.items())


def _activations(flow: Flow, absmax: Mapping[str, NDArray[Any]]) -> dict[str, list[Linear]]:
    """The linear ops that read each activation with statistics."""
    found: dict[str, list[Linear]] = {}
    for node in flow.nodes:
        op = linear(flow, node)
        if op is not None and op.takes_rows and node.input[0] in absmax:
            found.setdefault(node.input[0], []).append(op)
    return found


def _scale(document: Document, name: str, readers: list[Linear], absmax: NDArray[Any], strength: float) -> Doubles:
    largest = np.asarray(absmax, np.float64).reshape(-1)
    channels = readers[0].inputs
    if largest.size != channels or not np.isfinite(largest).all() or (largest < 0).any():
        raise FeedError(
            f"maxima of {name!r}: expected {channels} finite numbers, one per channel, found shape {np.shape(absmax)}"
            f" from {largest.min(initial=np.inf)} to {largest.max(initial=-np.inf)}"
        )
    weights = np.max([np.abs(op.blocks(document)).max(axis=(1, 3)).reshape(-1) for op in readers], axis=0)
    scale = np.maximum(largest, SMALLEST) ** strength / np.maximum(weights, SMALLEST) ** (1 - strength)
    # Nothing to balance in a channel that is always zero or that no weight reads.
    return np.where((largest > 0) & (weights > 0), np.maximum(scale, SMALLEST), 1.0)


def _fold(search: Search, name: str, readers: list[Linear], scale: Doubles) -> str:
    """Divide in what makes the activation; the reason where that cannot be."""
    flow = search.flow
    others = [n for n in flow.consumers(name) if all(n is not op.node for op in readers) and not is_op(n, "Shape")]
    if others:
        return f"{others[0].op_type} reads it too"
    if not flow.is_private(name):
        return "it is an output, or a nested graph reads it"
    first = readers[0]
    if any((op.inputs, op.axis) != (first.inputs, first.axis) for op in readers):
        return "its readers see different channels"
    path = search.path(name, first.inputs, first.axis)
    if isinstance(path, str):
        return path
    # Channels that a Flatten made of one share its scale: the one that the hardest of them needs.
    shared = scale.reshape(-1, path.repeat).max(axis=1)
    changes = _readers_changes(search, readers, np.repeat(shared, path.repeat))
    made = path.end.scaled(search.document, flow, 1 / shared) if path.end else []
    if changes is None or made is None:
        return "a scaled weight would not fit its type"
    for operand in path.operands:
        values = operand.scaled(1 / shared)
        if values is None:
            return "a scaled operand would not fit its type"
        made = [*made, (operand.node, operand.position, values)]
    _apply(flow, [*changes, *made])
    return ""


def _insert(search: Search, name: str, readers: list[Linear], scale: Doubles) -> str:
    """Divide in a Mul between the activation and its linear readers; the reason where that cannot be."""
    flow, first = search.flow, readers[0]
    if any((op.inputs, op.axis) != (first.inputs, first.axis) for op in readers):
        return "its readers see different channels"
    changes = _readers_changes(search, readers, scale)
    factor = rounded(1 / scale, first.dtype)
    if changes is None or factor is None:
        return "a scaled weight would not fit its type"
    _apply(flow, changes)
    constant = flow.add_constant(f"{name}_smoothing", factor.reshape((-1,) + (1,) * (-1 - first.axis)))
    output = flow.fresh(f"{name}_smooth")
    node = onnx.helper.make_node("Mul", [name, constant], [output], name=flow.fresh(f"{name}_smooth/node"))
    flow.insert_before(first.node, node)
    for op in readers:
        flow.connect(op.node, 0, output)
    return ""


def _readers_changes(search: Search, readers: list[Linear], scale: Doubles) -> list[Change] | None:
    changes: list[Change] = []
    for op in readers:
        made = op.scaled(search.document, search.flow, into=scale)
        if made is None:
            return None
        changes += made
    return changes


def _apply(flow: Flow, changes: list[Change]) -> None:
    for node, position, values in changes:
        flow.set_constant(node, position, values)
