"""Builders of nodes, with the arithmetic that decodes packed codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.sites import Site

# The opsets in which Slice got its bounds as inputs, and in which there is Expand.
_SLICE_INPUTS, _EXPAND = 10, 8
F16, F32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
I32, I64 = onnx.TensorProto.INT32, onnx.TensorProto.INT64


class NodeBuilder(ABC):
    """Nodes one after another; each method returns the name of the tensor that it computes."""

    @abstractmethod
    def op(self, name: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - whatever a node can hold
        """Add a node."""

    @abstractmethod
    def ints(self, *values: int) -> str:
        """A constant of int64 [n]."""

    @abstractmethod
    def number(self, value: float) -> str:
        """A constant float32."""

    def cast(self, x: str, to: int) -> str:
        """A tensor in another element type."""
        return self.op("Cast", x, to=to)

    def floats(self, x: str) -> str:
        """A tensor in float32."""
        return self.cast(x, F32)

    def split(self, x: str, base: str) -> tuple[str, str]:
        """Whole numbers as x % base and x // base, in float arithmetic: it exists in every opset and is exact here."""
        high = self.op("Floor", self.op("Div", x, base))
        return self.op("Sub", x, self.op("Mul", high, base)), high

    def join(self, low: str, high: str, base: str) -> str:
        """Whole numbers from x % base and x // base."""
        return self.op("Add", low, self.op("Mul", high, base))

    def fields(self, packed: str, bits: int) -> list[str]:
        """The codes in bytes that are given as floats, first code lowest: one tensor per code of a byte."""
        if bits == 8:
            return [packed]
        base, codes, rest = self.number(1 << bits), [], packed
        for _ in range(8 // bits - 1):
            low, rest = self.split(rest, base)
            codes.append(low)
        return [*codes, rest]


class GraphNodes(NodeBuilder):
    """Nodes of a model, for one weight; the caller puts them into a graph.

    Args:
        editor: editor of the model.
        site: the weight. Constants go to its graph.
    """

    def __init__(self, editor: ModelEditor, site: Site) -> None:
        self.editor = editor
        self.site = site
        self.nodes: list[onnx.NodeProto] = []

    def op(
        self,
        name: str,
        *inputs: str,
        output: str = "",
        domain: str = "",
        **attributes: Any,  # noqa: ANN401 - whatever a node can hold
    ) -> str:
        """Add a node.

        Args:
            name: name of the operator.
            inputs: tensors that it reads.
            output: tensor that it computes; empty: a new name.
            domain: domain of the operator.
            attributes: attributes by name.
        """
        node = self.editor.node(self.site, name, inputs, domain=domain, output=output, **attributes)
        self.nodes.append(node)
        return str(node.output[0])

    def constant(self, label: str, values: NDArray[Any] | np.generic) -> str:
        """A constant that is named after the weight."""
        return self.editor.constant(self.site.graph, f"{self.site.name}/{label}", values)

    def ints(self, *values: int, label: str = "shape") -> str:
        """A constant of int64 [n]."""
        return self.constant(label, np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A constant float32."""
        return self.constant("constant", np.float32(value))

    def first(self, x: str, count: int, axis: int, *, output: str = "") -> str:
        """The first values of a tensor along an axis."""
        if self.editor.opset < _SLICE_INPUTS:
            return self.op("Slice", x, output=output, starts=[0], ends=[count], axes=[axis])
        bounds = [self.ints(value, label=label) for label, value in (("start", 0), ("end", count), ("axis", axis))]
        return self.op("Slice", x, *bounds, output=output)

    def expanded(self, x: str, current: Sequence[int], shape: Sequence[int]) -> str:
        """A tensor whose axes of length 1 have other lengths.

        Args:
            x: the tensor.
            current: its shape.
            shape: shape of the result.
        """
        if self.editor.opset >= _EXPAND:
            return self.op("Expand", x, self.ints(*shape))
        return self.op("Tile", x, self.ints(*(after // before for before, after in zip(current, shape, strict=True))))

    def insert_first(self) -> None:
        """Put the nodes at the start of the weight's graph."""
        self.editor.first(self.site.graph, self.nodes)
        self.nodes = []
