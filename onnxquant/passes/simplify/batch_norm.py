"""Folding of per-channel scales and shifts into the linear op before them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.analysis.linear import Linear, linear, per_channel, rounded
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.shapes import Known, infer
from onnxquant.numerics.arrays import Doubles
from onnxquant.passes.base import Pass, PassResult, refusals_in_words


@dataclass(frozen=True)
class PerChannelAffine:
    """A node that computes ``y = factor x + shift``, one of each per channel.

    Attributes:
        node: the node.
        position: which of its inputs is x.
        axis: axis of the channels, from the end.
        factor: factors.
        shift: shifts.
    """

    node: onnx.NodeProto
    position: int
    axis: int
    factor: Doubles
    shift: Doubles

    @property
    def scales(self) -> bool:
        """Whether it does more than add."""
        return bool(np.any(self.factor != 1))


@dataclass(frozen=True)
class FoldBatchNorms(Pass):
    """Folds per-channel scales and shifts into the weight and bias of the linear op that they alone follow.

    BatchNormalization in inference is ``y = scale (x - mean) / sqrt(var + epsilon) + B`` per channel (Ioffe and Szegedy
    2015, arXiv 1502.03167). Exporters also write it as Mul, Add, Sub or Div by constants. With ``y = f x + t`` after
    ``x = W v + b`` the weight becomes ``f W`` and the bias ``f b + t``, in float64, rounded once.

    1. BatchNormalization, and Mul, Add, Sub and Div by constants of one value per channel, become part of a Conv,
       ConvTranspose, Gemm or MatMul with a constant weight. Transposes, Squeezes and Unsqueezes may lie between, as
       exporters write them around convolutions of one axis.

           BatchNormalization(Conv(x, W, b))   ->   Conv(x, f W, f b + t)

    2. A MatMul has no bias: the last node of a chain after it becomes an Add, or goes if there is nothing to add.

           Mul(Add(MatMul(x, W), c), f)        ->   Add(MatMul(x, W f), c f)

    3. A chain that would change nothing but a MatMul's Add, or whose result does not fit the type, stays; so does one after
       an op whose weight other nodes read with other factors.
    """

    name = "fold-batch-norms"
    summary = "folds BatchNormalization and elementwise scales and shifts into the linear ops before them"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        known = infer(document)
        norms = others = 0
        refusals: Counter[str] = Counter()
        for editor in graph_editors(document):
            folder = _AffineFolder(document, editor, known)
            for node in list(editor.graph.node):
                op = linear(editor, node)
                chain = folder.followers(op) if op else []
                if op and chain and folder.fold(op, chain):
                    folded = sum(is_op(a.node, "BatchNormalization") for a in chain)
                    norms, others = norms + folded, others + len(chain) - folded
            refusals.update(_why_left(editor, node) for node in editor.graph.node if _stays(editor, node))
            editor.apply()
        if not norms and not others:
            return PassResult(refusals=refusals)
        note = f"{norms} BatchNormalizations and {others} elementwise nodes folded into the linear ops before them"
        return PassResult(True, (note + refusals_in_words(refusals, "BatchNormalizations"),), refusals)


def _stays(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    return is_op(node, "BatchNormalization") and not editor.is_removed(node)


def _why_left(editor: GraphEditor, node: onnx.NodeProto) -> str:
    """The reason why a BatchNormalization was not folded."""
    if _trains(node):
        return "in training mode"
    if any(editor.constant(name) is None for name in node.input[1:5]):
        return "a parameter is not constant"
    before = editor.producer(node.input[0])
    if before is None or linear(editor, before) is None:
        return f"after {before.op_type if before is not None else 'an input'}, not a linear op with a constant weight"
    if editor.single_consumer(node.input[0]) is None:
        return f"its input is read elsewhere too, after {before.op_type}"
    if len(editor.consumers(before.input[1])) > 1:
        return f"the weight of the {before.op_type} before it is read elsewhere too, with other factors"
    return f"does not fit the channels, bias or number range of the {before.op_type} before it"


def _trains(node: onnx.NodeProto) -> bool:
    # Before opset 14 more than one output meant training; spatial=0 (opset 7) has parameters per position.
    has_more_outputs = sum(bool(name) for name in node.output) > 1
    return has_more_outputs or attribute(node, "training_mode", 0) == 1 or attribute(node, "spatial", 1) == 0


@dataclass(frozen=True)
class _Place:
    """The tensor that a linear op's channels have come to."""

    name: str
    channels: int
    axis: int
    rank: int | None


def _behind_move(document: Document, editor: GraphEditor, place: _Place, node: onnx.NodeProto) -> _Place | None:
    """The place of the channels behind a Transpose, Squeeze or Unsqueeze; None for other nodes, or where it is not known."""
    output, rank = node.output[0], place.rank
    if is_op(node, "Transpose"):
        perm = attribute(node, "perm")
        return (
            _Place(output, place.channels, perm.index(len(perm) + place.axis) - len(perm), len(perm)) if perm else None
        )
    if not is_op(node, "Squeeze", "Unsqueeze") or rank is None or node.input[0] != place.name:
        return None
    axes = _axes(document, editor, node)
    if not axes:
        return None
    if is_op(node, "Squeeze"):
        removed = {axis % rank for axis in axes}
        axis = place.axis + sum(axis > rank + place.axis for axis in removed)
        is_kept = rank + place.axis not in removed
        return _Place(output, place.channels, axis, rank - len(removed)) if is_kept else None
    more = rank + len(axes)
    added = {axis % more for axis in axes}
    old = [axis for axis in range(more) if axis not in added]
    return _Place(output, place.channels, old[rank + place.axis] - more, more)


def _axes(document: Document, editor: GraphEditor, node: onnx.NodeProto) -> list[int]:
    """The axes of a Squeeze or Unsqueeze; empty where they are not stated, or computed."""
    if len(node.input) < 2:
        return list(attribute(node, "axes", []))
    tensor = editor.constant(node.input[1])
    return [] if tensor is None else [int(axis) for axis in document.array(tensor).reshape(-1)]


def _normalization(
    document: Document, editor: GraphEditor, place: _Place, node: onnx.NodeProto
) -> PerChannelAffine | None:
    """The factors and shifts of a BatchNormalization with constant parameters; None for other nodes."""
    if not is_op(node, "BatchNormalization") or _trains(node) or place.rank is None or place.rank + place.axis != 1:
        return None
    tensors = [editor.constant(name) for name in node.input[1:5]]
    if any(t is None or list(t.dims) != [place.channels] for t in tensors):
        return None
    scale, bias, mean, variance = (document.array(t).astype(np.float64) for t in tensors if t is not None)
    with np.errstate(divide="ignore", invalid="ignore"):  # caught by ``rounded``
        factor = scale / np.sqrt(variance + np.float64(np.float32(attribute(node, "epsilon", 1e-5))))
        return PerChannelAffine(node, 0, place.axis, factor, bias - mean * factor)


def _elementwise(
    document: Document, editor: GraphEditor, place: _Place, node: onnx.NodeProto
) -> PerChannelAffine | None:
    """The factors and shifts of a Mul, Add, Sub or Div by constants per channel; None for other nodes."""
    if not is_op(node, "Mul", "Add", "Sub", "Div") or len(node.input) != 2:
        return None
    position = 0 if node.input[0] == place.name else 1
    tensor = editor.constant(node.input[1 - position])
    if tensor is None:
        return None
    values = per_channel(document.array(tensor), place.channels, place.axis, place.rank)
    if values is None or (node.op_type == "Div" and position == 1):  # a constant divided by x is not linear
        return None
    ones, zeros = np.ones(place.channels), np.zeros(place.channels)
    factor, shift = ones, zeros
    match node.op_type:
        case "Mul":
            factor = values
        case "Add":
            shift = values
        case "Sub":
            factor, shift = (ones, -values) if position == 0 else (-ones, values)
        case "Div":
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = 1 / values
    return PerChannelAffine(node, position, place.axis, factor, shift)


@dataclass(frozen=True)
class _AffineFolder:
    """Folds the affine nodes of one graph.

    Attributes:
        document: the model.
        editor: the graph.
        known: types and shapes.
        shared: name of the folded weight, by that of a weight of several readers.
    """

    document: Document
    editor: GraphEditor
    known: dict[str, Known]
    shared: dict[str, str] = field(default_factory=dict)

    def followers(self, op: Linear) -> list[PerChannelAffine]:
        """The affine nodes after a linear op, each the only reader of the one before; moves may lie between."""
        document, editor = self.document, self.editor
        chain: list[PerChannelAffine] = []
        output = self.known.get(op.node.output[0])
        place = _Place(op.node.output[0], op.outputs, op.axis, op.rank or (output.rank if output else None))
        while (node := editor.single_consumer(place.name)) is not None:
            if (behind := _behind_move(document, editor, place, node)) is not None:
                place = behind
                continue
            affine = _normalization(document, editor, place, node) or _elementwise(document, editor, place, node)
            if affine is None:
                break
            chain.append(affine)
            place = _Place(node.output[0], op.outputs, place.axis, place.rank)
        return chain

    def fold(self, op: Linear, chain: list[PerChannelAffine]) -> bool:
        """Fold a chain; False when nothing is gained, a weight would be stored twice, or the result does not fit its type."""
        editor, is_matmul = self.editor, op.node.op_type == "MatMul"
        if is_matmul and len(chain) == 1 and not chain[0].scales:
            return False  # a MatMul and its bias
        bias = op.bias(self.document, editor)
        if bias is None:
            return False
        factor = _product(op, chain)
        with np.errstate(over="ignore", invalid="ignore"):
            for affine in chain:
                bias = bias * affine.factor + affine.shift
            weight = rounded(op.restored(op.blocks(self.document) * op.per_output(factor)), op.dtype)
        shift = rounded(bias, op.dtype)
        if weight is None or shift is None:
            return False
        if np.any(factor != 1) and not self._set_weight(op, factor, weight):
            return False
        if not is_matmul:
            op.set_bias(editor, shift)
        keep_add = is_matmul and bool(np.any(shift))
        for affine in chain[:-1] if keep_add else chain:
            editor.bypass(affine.node, affine.node.input[affine.position])
        if keep_add:
            _become_add(editor, chain[-1], shift)
        return True

    def _set_weight(self, op: Linear, factor: Doubles, weight: NDArray[Any]) -> bool:
        """Give an op its folded weight; False where other readers of the weight need another one."""
        name = op.node.input[1]
        if name in self.shared:
            self.editor.connect(op.node, 1, self.shared[name])
        elif op.owns_weight(self.editor):
            self.editor.set_constant(op.node, 1, weight)
        elif self.editor.is_private(name) and all(
            self._has_factor(n, name, factor) for n in self.editor.consumers(name)
        ):
            self.shared[name] = self.editor.set_constant(op.node, 1, weight)
        else:
            return False
        return True

    def _has_factor(self, node: onnx.NodeProto, weight: str, factor: Doubles) -> bool:
        """Whether a reader of a weight is a linear op with these factors after it."""
        op = linear(self.editor, node)
        if op is None or list(node.input).count(weight) != 1 or node.input[1] != weight:
            return False
        chain = self.followers(op)
        return op.bias(self.document, self.editor) is not None and np.array_equal(_product(op, chain), factor)


def _product(op: Linear, chain: list[PerChannelAffine]) -> Doubles:
    """The factor of each output channel of an op, over a chain of affine nodes."""
    product = np.ones(op.outputs)
    with np.errstate(over="ignore", invalid="ignore"):
        for affine in chain:
            product = product * affine.factor
    return product


def _become_add(editor: GraphEditor, affine: PerChannelAffine, values: NDArray[Any]) -> None:
    """Replace a node by an Add of constants."""
    node = affine.node
    constant = editor.add_constant(f"{node.output[0]}_shift", values.reshape((-1,) + (1,) * (-1 - affine.axis)))
    name = node.input[affine.position]
    editor.remove(node)
    editor.insert_before(node, [onnx.helper.make_node("Add", [name, constant], list(node.output), name=node.name)])
