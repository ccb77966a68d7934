"""Division of the channels of activations, with the weights that read them multiplied; results per activation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.errors import FeedError
from onnxquant.graph.analysis.linear import Linear, linear, rounded
from onnxquant.graph.analysis.scale_paths import ScalePath, ScalePathFinder
from onnxquant.graph.editor import ConstantChange, GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.shapes import infer
from onnxquant.numerics.arrays import Doubles
from onnxquant.passes.base import Pass, PassResult, refusals_in_words

_SMALLEST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class ChannelResult(PassResult):
    """The result of a pass that changes channels of activations.

    Attributes:
        moved: place that took in the change, by the name of the activation.
        refused: reason why an activation stays as it is, by its name.
    """

    moved: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, verb: str, moved: Mapping[str, str], refused: Mapping[str, str]) -> ChannelResult:
        """The result with its sentence.

        Args:
            verb: participle for the change: "smoothed".
            moved: place by activation.
            refused: reason by activation.
        """
        refusals = Counter(refused.values())
        if not moved and not refused:
            return cls()
        places = ", ".join(f"{n} {place}" for place, n in Counter(moved.values()).items())
        text = f"{len(moved)} activations {verb}" + (f" ({places})" if places else "")
        return cls(bool(moved), (text + refusals_in_words(refusals),), refusals, moved, refused)


@dataclass(frozen=True)
class DivideChannels(Pass):
    """Divides channels of activations, and multiplies the weights that read them: ``(X diag(s)^-1) (diag(s) W)``.

    How large ``s`` is, others say (``smooth``, ``awq``).

    1. The division becomes part of the op that makes the activation: the scale and bias of a normalization, a vector
       operand, the weight and bias of a linear op.

           MatMul(LayerNormalization(x, g, b), W)   ->   MatMul(LayerNormalization(x, g / s, b / s), s W)

    2. Where no op can take it, a Mul does, if ``insert`` says so.

           MatMul(Gelu(x), W)                       ->   MatMul(Mul(Gelu(x), 1 / s), s W)

    3. An activation that something else reads, or whose scaled constants do not fit their types, stays; so does one whose
       weights other nodes read too, because each reader would need a weight of its own.

    Attributes:
        scales: a positive number for each channel of an activation, by tensor name. Channels that a Flatten made of one
            share theirs: the largest.
        insert: whether a Mul is put where no op before an activation can take the division.
        verb: participle for the change, in notes.
    """

    name = "divide-channels"
    summary = "divides channels of activations by given scales, and multiplies the weights that read them"

    scales: Mapping[str, NDArray[Any]]
    insert: bool = False
    verb: str = "scaled"

    def __call__(self, document: Document) -> ChannelResult:  # noqa: D102
        known = infer(document)
        moved: dict[str, str] = {}
        refused: dict[str, str] = {}
        for editor in graph_editors(document):
            finder = ScalePathFinder(document, editor, known)
            for name, readers in linear_readers(editor, self.scales).items():
                scale = per_channel_values(name, "scales", self.scales[name], readers[0].inputs, _SMALLEST)
                refusal, place = _divide_before(finder, name, readers, scale), "by what makes it"
                if refusal and self.insert:
                    refusal, place = _divide_by_node(finder, name, readers, scale), "by a Mul of its own"
                if refusal:
                    refused.setdefault(name, refusal.reason)
                else:
                    moved[name] = place
            editor.apply()
        return ChannelResult.of(self.verb, moved, refused)


def linear_readers(editor: GraphEditor, names: Container[str]) -> dict[str, list[Linear]]:
    """The linear ops of one graph with constant weights that read each of these activations, in the graph's order."""
    readers: dict[str, list[Linear]] = {}
    for node in editor.nodes:
        op = linear(editor, node)
        if op is not None and op.takes_rows and node.input[0] in names:
            readers.setdefault(node.input[0], []).append(op)
    return readers


def per_channel_values(name: str, what: str, values: NDArray[Any], channels: int, least: float = 0) -> Doubles:
    """Values of one activation as a vector.

    Args:
        name: the activation.
        what: noun for the values, in errors: "scales".
        values: one number per channel, in any shape.
        channels: number of channels.
        least: smallest value that is allowed.

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


def path_to_maker(finder: ScalePathFinder, name: str, readers: list[Linear]) -> ScalePath | Refusal:
    """The path from an activation up to the ops that can take its division; or the reason why there is none."""
    refusal = other_readers(finder.editor, name, readers)
    return refusal or finder.path(name, readers[0].inputs, readers[0].axis)


def other_readers(editor: GraphEditor, name: str, readers: list[Linear]) -> Refusal | None:
    """The reason why an activation's channels cannot be changed for its linear readers alone; None when they can."""
    others = [n for n in editor.consumers(name) if all(n is not op.node for op in readers) and not is_op(n, "Shape")]
    if others:
        return Refusal(f"{others[0].op_type} reads it too")
    if not editor.is_private(name):
        return Refusal("it is an output, or a nested graph reads it")
    return _unlike_readers(readers)


def _unlike_readers(readers: list[Linear]) -> Refusal | None:
    alike = len({(op.inputs, op.axis) for op in readers}) == 1
    return None if alike else Refusal("its readers see different channels")


def no_single_matrix(readers: list[Linear]) -> Refusal | None:
    """The reason why the weights that read an activation are not one matrix each; None when they are."""
    op = next((op for op in readers if not op.is_matrix), None)
    return Refusal(f"a {op.node.op_type} with groups or windows reads it") if op else None


def shared_weight(editor: GraphEditor, ops: list[Linear]) -> Refusal | None:
    """The reason why these ops cannot have other weights without storing theirs twice; None when they can."""
    op = next((op for op in ops if not op.owns_weight(editor)), None)
    return Refusal(f"the weight of a {op.node.op_type} is read elsewhere too") if op else None


def _divide_before(finder: ScalePathFinder, name: str, readers: list[Linear], scale: Doubles) -> Refusal | None:
    """Divide in the ops that make the activation; a refusal where that cannot be."""
    path = path_to_maker(finder, name, readers)
    if isinstance(path, Refusal):
        return path
    if refusal := shared_weight(finder.editor, [*readers, path.end] if path.end else readers):
        return refusal
    # Channels that a Flatten made of one share its scale: the one that the hardest of them needs.
    shared = scale.reshape(-1, path.repeat).max(axis=1)
    changes = _changes_of_readers(finder, readers, np.repeat(shared, path.repeat))
    divided = path.end.scaled(finder.document, finder.editor, 1 / shared) if path.end else []
    if changes is None or divided is None:
        return Refusal("a scaled weight would not fit its type")
    changes += divided
    for operand in path.operands:
        values = operand.scaled(1 / shared)
        if values is None:
            return Refusal("a scaled operand would not fit its type")
        changes.append(ConstantChange(operand.node, operand.position, values))
    finder.editor.set_constants(changes)
    return None


def _divide_by_node(finder: ScalePathFinder, name: str, readers: list[Linear], scale: Doubles) -> Refusal | None:
    """Divide in a Mul between the activation and its linear readers; a refusal where that cannot be."""
    editor, first = finder.editor, readers[0]
    if refusal := _unlike_readers(readers) or shared_weight(editor, readers):
        return refusal
    changes = _changes_of_readers(finder, readers, scale)
    factor = rounded(1 / scale, first.dtype)
    if changes is None or factor is None:
        return Refusal("a scaled weight would not fit its type")
    editor.set_constants(changes)
    constant = editor.add_constant(f"{name}_smoothing", factor.reshape((-1,) + (1,) * (-1 - first.axis)))
    output = editor.names.fresh(f"{name}_smooth")
    node = onnx.helper.make_node("Mul", [name, constant], [output], name=editor.names.fresh(f"{name}_smooth/node"))
    editor.insert_before(first.node, [node])
    for op in readers:
        editor.connect(op.node, 0, output)
    return None


def _changes_of_readers(finder: ScalePathFinder, readers: list[Linear], scale: Doubles) -> list[ConstantChange] | None:
    changes: list[ConstantChange] = []
    for op in readers:
        scaled = op.scaled(finder.document, finder.editor, into=scale)
        if scaled is None:
            return None
        changes += scaled
    return changes
