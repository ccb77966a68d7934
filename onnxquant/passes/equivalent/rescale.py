"""Channels of activations are divided, and the weights that read them multiplied: ``(X diag(s)^-1) (diag(s) W)``.

The function stays the same. The division becomes part of what makes the activation: a normalization's scale and bias, a
vector operand, a linear op's weight and bias. How large ``s`` is, is for others to say (``smooth``, ``awq``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.errors import FeedError
from onnxquant.graph.analysis.linear import Change, Doubles, Linear, linear, rounded
from onnxquant.graph.analysis.scale_paths import Path, Search
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op
from onnxquant.graph.shapes import infer

_SMALLEST = float(np.finfo(np.float64).tiny)


@dataclass
class Folded:
    """What became of activations, by tensor name.

    Attributes:
        done: where the change is now.
        left: why there is none.
    """

    done: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def sentence(self, what: str) -> str | None:
        """A sentence on them; None when there were none.

        Args:
            what: what was done with them: "smoothed".
        """
        if not self.done and not self.left:
            return None
        how = ", ".join(f"{n} {place}" for place, n in Counter(self.done.values()).items())
        text = f"{len(self.done)} activations {what}" + (f" ({how})" if how else "")
        return text + "".join(f"; {n} left: {reason}" for reason, n in Counter(self.left.values()).items())


def linear_readers(editor: GraphEditor, names: Container[str]) -> dict[str, list[Linear]]:
    """The linear ops of one graph with constant weights that read each of these activations, in the graph's order."""
    found: dict[str, list[Linear]] = {}
    for node in editor.nodes:
        op = linear(editor, node)
        if op is not None and op.takes_rows and node.input[0] in names:
            found.setdefault(node.input[0], []).append(op)
    return found


def per_channel_values(name: str, what: str, values: NDArray[Any], channels: int, least: float = 0) -> Doubles:
    """What is given for an activation as a vector.

    Raises:
        FeedError: it is not one finite number of at least ``least`` per channel.
    """
    vector = np.asarray(values, np.float64).reshape(-1)
    if vector.size != channels or not np.isfinite(vector).all() or (vector < least).any():
        raise FeedError(
            f"{what} of {name!r}: expected {channels} finite numbers, one per channel, found shape {np.shape(values)}"
            f" from {vector.min(initial=np.inf)} to {vector.max(initial=-np.inf)}"
        )
    return vector


def fold(document: Document, scales: Mapping[str, NDArray[Any]], *, insert: bool = False) -> Folded:
    """Divide activations that linear ops with constant weights read, and multiply these weights.

    Args:
        document: a prepared model.
        scales: a positive number for each channel of an activation, by tensor name. Channels that a Flatten made of one
            share theirs: the largest.
        insert: where nothing before an activation can take the division, put a Mul for it.

    Raises:
        FeedError: scales are not one positive number per channel.
    """
    known = infer(document)
    folded = Folded()
    for editor in graph_editors(document):
        search = Search(document, editor, known)
        for name, readers in linear_readers(editor, scales).items():
            scale = per_channel_values(name, "scales", scales[name], readers[0].inputs, _SMALLEST)
            reason, how = _fold(search, name, readers, scale), "by what makes it"
            if reason and insert:
                reason, how = _insert(search, name, readers, scale), "by a Mul of its own"
            if reason:
                folded.left.setdefault(name, reason)
            else:
                folded.done[name] = how
        editor.apply()
    return folded


def way(search: Search, name: str, readers: list[Linear]) -> Path | str:
    """The way from an activation up to what can take its division; or the reason why there is none."""
    if reason := foreign(search.editor, name, readers):
        return reason
    return search.path(name, readers[0].inputs, readers[0].axis)


def foreign(editor: GraphEditor, name: str, readers: list[Linear]) -> str:
    """Why an activation's channels cannot be changed for its linear readers alone; empty when they can."""
    others = [n for n in editor.consumers(name) if all(n is not op.node for op in readers) and not is_op(n, "Shape")]
    if others:
        return f"{others[0].op_type} reads it too"
    if not editor.is_private(name):
        return "it is an output, or a nested graph reads it"
    return _unlike(readers)


def _unlike(readers: list[Linear]) -> str:
    alike = len({(op.inputs, op.axis) for op in readers}) == 1
    return "" if alike else "its readers see different channels"


def unfit(readers: list[Linear]) -> str:
    """Why the weights that read an activation are not one matrix each; empty when they are."""
    op = next((op for op in readers if not op.is_matrix), None)
    return f"a {op.node.op_type} with groups or windows reads it" if op else ""


def tied(editor: GraphEditor, ops: list[Linear]) -> str:
    """Why weights would be stored twice if these ops had others; empty when they would not."""
    op = next((op for op in ops if not op.owns_weight(editor)), None)
    return f"the weight of a {op.node.op_type} is read elsewhere too" if op else ""


def _fold(search: Search, name: str, readers: list[Linear], scale: Doubles) -> str:
    """Divide in what makes the activation; the reason where that cannot be."""
    path = way(search, name, readers)
    if isinstance(path, str):
        return path
    # Channels that a Flatten made of one share its scale: the one that the hardest of them needs.
    shared = scale.reshape(-1, path.repeat).max(axis=1)
    changes = _readers_changes(search, readers, np.repeat(shared, path.repeat))
    made = path.end.scaled(search.document, search.editor, 1 / shared) if path.end else []
    if changes is None or made is None:
        return "a scaled weight would not fit its type"
    for operand in path.operands:
        values = operand.scaled(1 / shared)
        if values is None:
            return "a scaled operand would not fit its type"
        made = [*made, (operand.node, operand.position, values)]
    search.editor.set_constants([*changes, *made])
    return ""


def _insert(search: Search, name: str, readers: list[Linear], scale: Doubles) -> str:
    """Divide in a Mul between the activation and its linear readers; the reason where that cannot be."""
    editor, first = search.editor, readers[0]
    if reason := _unlike(readers):
        return reason
    changes = _readers_changes(search, readers, scale)
    factor = rounded(1 / scale, first.dtype)
    if changes is None or factor is None:
        return "a scaled weight would not fit its type"
    editor.set_constants(changes)
    constant = editor.add_constant(f"{name}_smoothing", factor.reshape((-1,) + (1,) * (-1 - first.axis)))
    output = editor.names.fresh(f"{name}_smooth")
    node = onnx.helper.make_node("Mul", [name, constant], [output], name=editor.names.fresh(f"{name}_smooth/node"))
    editor.insert_before(first.node, [node])
    for op in readers:
        editor.connect(op.node, 0, output)
    return ""


def _readers_changes(search: Search, readers: list[Linear], scale: Doubles) -> list[Change] | None:
    changes: list[Change] = []
    for op in readers:
        made = op.scaled(search.document, search.editor, into=scale)
        if made is None:
            return None
        changes += made
    return changes
