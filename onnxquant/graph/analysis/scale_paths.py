"""Paths from a tensor up to the constants that can multiply its channels.

Equalization and smoothing both divide an activation's channels and multiply the weights that read them. A path is the first
half: it leads upwards from the tensor through ops ``f`` with ``f(v x) = v f(x)`` for every ``v > 0``, to constants that can
take ``v``: the weight and bias of a linear op, the scale of a normalization, a vector operand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.analysis.linear import Linear, linear, per_channel, rounded
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.shapes import Known
from onnxquant.numerics.arrays import Doubles

# Positively homogeneous, and each channel apart from the others; padding adds zeros or copies.
_HOMOGENEOUS = {"Relu", "LeakyRelu", "PRelu", "Identity", "MaxPool", "AveragePool", "GlobalMaxPool"}
_HOMOGENEOUS |= {"GlobalAveragePool", "Abs"}
# Normalizations, with the inputs that scale their output.
_NORMS = {
    ("", "LayerNormalization"): (1, 2),
    ("", "RMSNormalization"): (1,),
    (MICROSOFT, "SkipLayerNormalization"): (2, 3),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): (2,),
    ("", "SimplifiedLayerNormalization"): (1,),
    ("", "BatchNormalization"): (1, 2),
    ("", "InstanceNormalization"): (1, 2),
}


@dataclass(frozen=True)
class Operand:
    """A constant input to be multiplied (``power`` 1) or divided (-1) per channel, on an axis counted from the end."""

    node: onnx.NodeProto
    position: int
    values: Doubles
    axis: int
    dtype: np.dtype[Any]
    power: int = 1

    def scaled(self, factor: Doubles) -> NDArray[Any] | None:
        """The new operand; None when it does not fit its type. Behind a Flatten it has several values per factor."""
        vector = self.values * np.repeat(factor, self.values.size // factor.size) ** self.power
        return rounded(vector.reshape((-1,) + (1,) * (-1 - self.axis)), self.dtype)


@dataclass(frozen=True)
class Channels:
    """The channels of a tensor: its name, and their axis, from the end."""

    name: str
    axis: int


@dataclass(frozen=True)
class ClipOnPath:
    """A Clip on a path, and the axis of its channels, from the end."""

    node: onnx.NodeProto
    axis: int


@dataclass
class ScalePath:
    """The path from a tensor up to the constants that can scale its channels.

    Attributes:
        channels: number of channels there.
        repeat: neighbouring channels of the tensor that are one channel there (a Flatten between them).
        operands: vectors to scale along the path, and at its end unless that is a linear op.
        end: the linear op at the end, whose output channels are to be scaled.
        clips: Clip nodes from zero to a bound on the path. They let scales through only if their bounds follow.
    """

    channels: int
    repeat: int = 1
    operands: list[Operand] = field(default_factory=list)
    end: Linear | None = None
    clips: list[ClipOnPath] = field(default_factory=list)


@dataclass(frozen=True)
class ScalePathFinder:
    """Finds the scale paths of one graph.

    Attributes:
        document: the model.
        editor: the graph.
        known: types and shapes.
        through_clips: whether a Clip from zero to a bound may lie on a path.
    """

    document: Document
    editor: GraphEditor
    known: dict[str, Known]
    through_clips: bool = False

    def path(self, name: str, channels: int, axis: int) -> ScalePath | Refusal:
        """The path from a tensor whose readers all agree to its scaling; or the reason why there is none."""
        path = ScalePath(channels)
        while True:
            node = self.editor.producer(name)
            if node is None:
                return Refusal("it is an input or a constant")
            ends = self._end(path, node, axis)
            if ends is True:
                return path
            step = ends or self._through(path, node, axis)
            if isinstance(step, Refusal):
                return step
            name, axis = step.name, step.axis
            if self.only_reader(name) is None:
                return Refusal(f"what {node.op_type} reads is read elsewhere too")

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads a tensor's values, once; those that only ask its shape do not count."""
        readers = [n for n in self.editor.consumers(name) if not is_op(n, "Shape", "Size")]
        private = len(readers) == 1 and self.editor.is_private(name)
        return readers[0] if private and list(readers[0].input).count(name) == 1 else None

    def _end(self, path: ScalePath, node: onnx.NodeProto, axis: int) -> bool | Refusal:
        """True when this node takes the scales, a reason when it cannot, False when it may lie on the way."""
        op = linear(self.editor, node)
        if op is not None:
            if (op.outputs, op.axis) != (path.channels, axis):
                return Refusal(f"the channels of the {node.op_type} before it are others")
            if op.bias(self.document, self.editor) is None:
                return Refusal(f"the bias of the {node.op_type} before it is not a constant per channel")
            path.end = op
            return True
        positions = _NORMS.get((node.domain.replace("ai.onnx", ""), node.op_type))
        if positions:
            return self._normalization(path, node, axis, positions)
        if is_op(node, "Mul", "Div") and (operand := self._operand(path, node, axis)) is not None:
            if operand.node.op_type == "Div" and operand.position == 1:
                operand = Operand(node, 1, operand.values, axis, operand.dtype, -1)
            path.operands.append(operand)
            return True
        return False

    def _normalization(
        self, path: ScalePath, node: onnx.NodeProto, axis: int, positions: tuple[int, ...]
    ) -> bool | Refusal:
        """Let the path go through a normalization: its scale and bias take the factors. True, or the refusal."""
        name = node.output[0]
        rank = self.known[name].rank if name in self.known else None
        if node.op_type in ("BatchNormalization", "InstanceNormalization"):
            fits = rank is not None and rank + axis == 1 and not attribute(node, "training_mode", 0)
        else:
            last = attribute(node, "axis", -1)
            fits = axis == -1 and (last == -1 or (rank is not None and last == rank - 1))
        operands = []
        for position in positions:
            if position >= len(node.input) or not node.input[position]:
                continue
            tensor = self.editor.constant(node.input[position])
            if tensor is None or list(tensor.dims) != [path.channels]:
                return Refusal(f"the scale or bias of the {node.op_type} before it is not one constant per channel")
            values = self.document.array(tensor)
            operands.append(Operand(node, position, values.astype(np.float64), -1, values.dtype))
        if not fits or not operands:
            return Refusal(f"the {node.op_type} before it is over other axes")
        path.operands += operands
        return True

    def _operand(self, path: ScalePath, node: onnx.NodeProto, axis: int, *, scalar: bool = False) -> Operand | None:
        """The operand of a binary node that is constant and one value per channel, or one value if ``scalar``."""
        for position in (1, 0):
            tensor = self.editor.constant(node.input[position])
            if tensor is None:
                continue
            values = self.document.array(tensor)
            # One value stays one: made a vector it would hide a Gelu or a LayerNormalization from fusions.
            if (values.size == 1) != scalar and path.channels != 1:
                return None
            other = self.known.get(node.input[1 - position])
            vector = per_channel(values, path.channels, axis, other.rank if other else None)
            return None if vector is None else Operand(node, position, vector, axis, values.dtype)
        return None

    def _through(self, path: ScalePath, node: onnx.NodeProto, axis: int) -> Channels | Refusal:
        """The tensor that this node passes scales on to, and the axis of the channels there; or a reason."""
        if is_op(node, "MaxPool") and any(node.output[1:]):
            return Refusal("the MaxPool before it gives indices too")
        if is_op(node, *_HOMOGENEOUS) or self._is_zero_pad(node, axis):
            return Channels(node.input[0], axis)
        if is_op(node, "Mul", "Div") and (operand := self._operand(path, node, axis, scalar=True)):
            if operand.position == 0 and node.op_type == "Div":
                return Refusal("it is a constant divided by something")
            return Channels(node.input[1 - operand.position], axis)
        if is_op(node, "Add", "Sub") and (operand := self._operand(path, node, axis)):
            path.operands.append(operand)
            return Channels(node.input[1 - operand.position], axis)
        if is_op(node, "Mul"):
            return self._factor(node, axis)
        if is_op(node, "Transpose") and (perm := attribute(node, "perm")):
            return Channels(node.input[0], perm[len(perm) + axis] - len(perm))
        if is_op(node, "Clip"):
            return self._clip(path, node, axis)
        if is_op(node, "Flatten", "Reshape", "Squeeze"):
            return self._merged(path, node, axis)
        if is_op(node, "ReduceMean", "ReduceMax", "ReduceSum"):
            return self._reduced(node, axis)
        return Refusal(f"{node.op_type} lies before it")

    def _clip(self, path: ScalePath, node: onnx.NodeProto, axis: int) -> Channels | Refusal:
        low, high = clip_bounds(self.document, self.editor, node)
        if low != 0 or (high != np.inf and not (self.through_clips and high > 0)):
            return Refusal("a Clip with bounds lies before it, which is not homogeneous")
        if high != np.inf:
            path.clips.append(ClipOnPath(node, axis))
        return Channels(node.input[0], axis)

    def _factor(self, node: onnx.NodeProto, axis: int) -> Channels | Refusal:
        """Either factor of a product may take the scales: one that a linear op makes for it alone (a gated unit)."""
        rank = self.known[node.output[0]].rank if node.output[0] in self.known else None
        for name in node.input:
            maker = self.editor.producer(name)
            same = name in self.known and self.known[name].rank == rank is not None
            if same and self.only_reader(name) is not None and linear(self.editor, maker) is not None:
                return Channels(name, axis)
        return Refusal("a Mul of two activations lies before it")

    def _is_zero_pad(self, node: onnx.NodeProto, axis: int) -> bool:
        """Whether a node pads with zeros, and not along the channels."""
        if not is_op(node, "Pad") or attribute(node, "mode", "constant") != "constant":
            return False
        if len(node.input) == 1:
            pads, value = attribute(node, "pads", []), attribute(node, "value", 0.0)
        else:
            tensor = self.editor.constant(node.input[1])
            if tensor is None or any(node.input[2:]):
                return False
            pads, value = self.document.array(tensor).tolist(), 0.0
        rank = len(pads) // 2
        return value == 0 and rank >= -axis and pads[rank + axis] == pads[2 * rank + axis] == 0

    def _merged(self, path: ScalePath, node: onnx.NodeProto, axis: int) -> Channels | Refusal:
        """Through [n, c, spatial...] -> [n, c * spatial] (a flattened or pooled map), proven by shapes."""
        name = node.input[0]
        before, after = self.known.get(name), self.known.get(node.output[0])
        unknown = Refusal(f"the shapes around {node.op_type} before it are not known")
        if before is None or after is None or before.shape is None or after.shape is None or len(before.shape) < 2:
            return unknown
        channels = before.shape[1]
        if axis + len(after.shape) != 1 or not channels:
            return unknown
        spatial = before.shape[2:]
        if None in spatial or len(after.shape) < 2 or path.repeat != 1:
            return unknown
        repeat = int(np.prod([s for s in spatial if s is not None], dtype=np.int64))
        # Lengths after the first agree, so the first does: the batch is kept.
        if after.shape[1] != channels * repeat or any(s != 1 for s in after.shape[2:]):
            return unknown
        path.repeat, path.channels = repeat, channels
        return Channels(name, 1 - len(before.shape))

    def _reduced(self, node: onnx.NodeProto, axis: int) -> Channels | Refusal:
        """Through a reduction over other axes than that of the channels."""
        before = self.known.get(node.input[0])
        axes = self._axes(node, before.rank) if before is not None and before.rank is not None else None
        if before is None or before.rank is None or not axes:
            return Refusal(f"the axes of the {node.op_type} before it are not known")
        rest = [a for a in range(before.rank) if attribute(node, "keepdims", 1) or a not in axes]
        if -axis > len(rest) or rest[axis] in axes:
            return Refusal(f"the {node.op_type} before it is over the channels")
        return Channels(node.input[0], rest[axis] - before.rank)

    def _axes(self, node: onnx.NodeProto, rank: int) -> list[int] | None:
        axes = attribute(node, "axes")
        if axes is None and len(node.input) > 1 and node.input[1]:
            tensor = self.editor.constant(node.input[1])
            axes = None if tensor is None else self.document.array(tensor).tolist()
        return None if axes is None else [a % rank for a in axes]


def clip_bounds(document: Document, editor: GraphEditor, node: onnx.NodeProto) -> tuple[float, float]:
    """Lower and upper bound of a Clip; NaN for one that is not constant."""
    bounds = [attribute(node, "min", -np.inf), attribute(node, "max", np.inf)]  # before opset 11
    for i, name in enumerate(node.input[1:3]):
        if name:
            tensor = editor.constant(name)
            bounds[i] = np.nan if tensor is None else float(document.array(tensor).reshape(-1)[0])
    return float(bounds[0]), float(bounds[1])
