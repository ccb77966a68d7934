"""Ends of the units of integer networks: the codes that a node reads, and those that its values are rounded to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.shapes import UNKNOWN, Known

ENCODE, DECODE = "QuantizeLinear", "DequantizeLinear"
CLAMPS = ("Relu", "Clip")
RANGES: Mapping[int, tuple[int, int]] = {onnx.TensorProto.UINT8: (0, 255), onnx.TensorProto.INT8: (-128, 127)}

# Shape of images: [batch, channels, height, width], None for a length that is not known; empty: no images.
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Scale:
    """Scale and zero point of codes.

    Attributes:
        names: names of the two constants.
        step: step between two codes.
        zero: code of zero.
        code_type: ONNX element type of the codes.
    """

    names: tuple[str, str]
    step: np.float32
    zero: int
    code_type: int

    def is_like(self, other: Scale) -> bool:
        """Whether codes stand for the same values."""
        return (self.step, self.zero, self.code_type) == (other.step, other.zero, other.code_type)

    def code(self, value: float) -> int:
        """The code of a value."""
        low, high = RANGES[self.code_type]
        with np.errstate(over="ignore"):
            return int(np.clip(np.rint(np.float32(value) / self.step) + self.zero, low, high))


@dataclass(frozen=True)
class Codes:
    """Codes that a node reads as they are.

    Attributes:
        name: their name.
    """

    name: str


@dataclass(frozen=True)
class Decoded:
    """Values that a node reads, decoded from codes.

    Attributes:
        name: name of the codes.
        scale: their scale.
        node: the DequantizeLinear.
    """

    name: str
    scale: Scale
    node: onnx.NodeProto


@dataclass(frozen=True)
class Rounded:
    """Codes that the values of a node are rounded to.

    Attributes:
        name: name of the codes.
        scale: their scale.
        low, high: lowest and highest code that the clamps before let through.
        source: the node that computes the values.
        nodes: the clamps and the QuantizeLinear.
    """

    name: str
    scale: Scale
    low: int
    high: int
    source: onnx.NodeProto
    nodes: tuple[onnx.NodeProto, ...]

    @property
    def is_clamped(self) -> bool:
        """Whether there are codes that do not come through."""
        return (self.low, self.high) != RANGES[self.scale.code_type]

    def keeps(self, codes: Decoded) -> bool:
        """Whether codes that are decoded and rounded to these are the same again."""
        return codes.scale.is_like(self.scale) and not self.is_clamped


class CodeReader:
    """Codes, shapes and small constants of a graph.

    Args:
        editor: editor of the graph.
        shapes: types and shapes of its tensors, as far as they are proven.
    """

    def __init__(self, editor: GraphEditor, shapes: Mapping[str, Known]) -> None:
        self.editor, self.shapes = editor, shapes

    def shape(self, name: str) -> Shape:
        """The shape of images whose channels are known; empty where a tensor is not certain to be that."""
        shape = self.shapes.get(name, UNKNOWN).shape
        return shape if shape is not None and len(shape) == 4 and shape[1] else ()

    def are_codes(self, name: str) -> bool:
        """Whether a tensor is of 8-bit codes."""
        return self.shapes.get(name, UNKNOWN).elem_type in RANGES

    def values(self, name: str) -> NDArray[Any] | None:
        """Values of a small constant; None where it is none, or not at hand."""
        tensor = self.editor.constant(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return onnx.numpy_helper.to_array(tensor)

    def scale(self, node: onnx.NodeProto) -> Scale | None:
        """Scale of a QuantizeLinear or DequantizeLinear of 8-bit codes that has one for all of a tensor."""
        if len(node.input) < 3 or not node.input[2]:
            return None
        step, zero = (self.values(name) for name in node.input[1:3])
        if step is None or zero is None or step.size != 1 or zero.size != 1 or step.dtype != np.float32:
            return None
        code_type = int(onnx.helper.np_dtype_to_tensor_dtype(zero.dtype))
        if code_type not in RANGES:
            return None
        return Scale((node.input[1], node.input[2]), step.reshape(-1)[0], int(zero.reshape(-1)[0]), code_type)

    def decoded(self, name: str) -> Decoded | None:
        """Values that are decoded from codes; None where they are not, or are constants."""
        node = self.editor.producer(name)
        if node is None or not is_op(node, DECODE) or self.editor.constant(node.input[0]) is not None:
            return None
        scale = self.scale(node)
        return None if scale is None else Decoded(node.input[0], scale, node)

    def codes(self, name: str) -> Codes | None:
        """Codes that are read as they are; None where a tensor is none, or a constant."""
        return Codes(name) if self.are_codes(name) and self.editor.constant(name) is None else None

    def rounded(self, encoder: onnx.NodeProto) -> Rounded | None:
        """Codes that a QuantizeLinear rounds values to; None where anything else reads the values."""
        scale = self.scale(encoder)
        if scale is None:
            return None
        low, high = RANGES[scale.code_type]
        nodes, name = [encoder], encoder.input[0]
        while True:
            node = self.editor.producer(name)
            if node is None or self.editor.single_consumer(name) is not nodes[0]:
                return None
            if not is_op(node, *CLAMPS):
                return Rounded(encoder.output[0], scale, low, high, node, tuple(nodes))
            bounds = self._bounds(node)
            if bounds is None:
                return None
            # What this one lets through is clamped by those behind it.
            low, high = (min(max(scale.code(bound), low), high) for bound in bounds)
            nodes.insert(0, node)
            name = node.input[0]

    def idle_clamps(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Those of some nodes that clamp values which rounding to codes clamps as much."""
        rounded = [self.rounded(node) for node in nodes if is_op(node, ENCODE)]
        idle = {id(node) for y in rounded if y is not None and not y.is_clamped for node in y.nodes[:-1]}
        return [node for node in nodes if id(node) in idle]

    def _bounds(self, clamp: onnx.NodeProto) -> tuple[float, float] | None:
        """Lowest and highest value that a Relu or Clip lets through."""
        if is_op(clamp, "Relu"):
            return 0.0, float("inf")
        bounds = []
        for place, name, default in ((1, "min", float("-inf")), (2, "max", float("inf"))):
            if len(clamp.input) > place and clamp.input[place]:
                value = self.values(clamp.input[place])
                if value is None or value.size != 1:
                    return None
                bounds.append(float(value.reshape(-1)[0]))
            else:
                bounds.append(float(attribute(clamp, name, default)))
        return (bounds[0], bounds[1]) if bounds[0] <= bounds[1] else None
