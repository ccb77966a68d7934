"""The values of a graph on its way to float16: the type of each, and its name in the other type."""

from __future__ import annotations

from collections.abc import Container

import onnx

from onnxquant.graph.traverse import replace_field
from onnxquant.passes.float16.values import constant_tensor

FLOAT, HALF = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.FLOAT16)


class GraphScope:
    """The values of one graph while it is converted.

    Attributes:
        own: names that it has itself.
        types: the type that each float32 value of the original has by now; None for a constant not asked for yet.
        variants: names of a value by type.
        uses: nodes and inputs that a constant's float32 variant was handed out to, by its name.
        captured: constants that graphs read which stay float32.
        inserted: Casts, by the place of the node that they follow; -1: first in the graph.
        removed: places of Casts whose result is what they cast.
        half_dequantizers: places of DequantizeLinear nodes that compute in float16.

    Args:
        graph: the graph.
        parent: scope of the graph around it.
        planes: names of constants that stay as they are.
    """

    def __init__(
        self, graph: onnx.GraphProto, parent: GraphScope | None = None, planes: Container[str] = frozenset()
    ) -> None:
        self.graph, self.parent = graph, parent
        self.own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
        self.own |= {o for n in graph.node for o in n.output if o}
        self.place: dict[str, int] = {}
        self.variants: dict[tuple[str, int], str] = {}
        self.uses: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self.captured: set[str] = set()
        self.inserted: dict[int, list[onnx.NodeProto]] = {}
        self.removed: set[int] = set()
        self.half_dequantizers: set[int] = set()
        floats = {t.name: t for t in graph.initializer if t.data_type == FLOAT}
        self.constants = {name: t for name, t in floats.items() if name not in planes}
        self.types: dict[str, int | None] = {name: None if name in self.constants else FLOAT for name in floats}
        for sparse in graph.sparse_initializer:
            if sparse.values.data_type == FLOAT:  # it stays as it is
                self.types[sparse.values.name] = FLOAT
                self.own.add(sparse.values.name)

    def owner(self, name: str) -> GraphScope | None:
        """The scope that a name belongs to, if it is a float32 value."""
        scope: GraphScope | None = self
        while scope and name not in scope.own:
            scope = scope.parent
        return scope if scope and name in scope.types else None

    def holder(self, name: str) -> GraphScope:
        """The scope that a float32 value belongs to.

        Raises:
            KeyError: it is no float32 value.
        """
        owner = self.owner(name)
        if owner is None:
            raise KeyError(name)
        return owner

    def rebuild(self) -> None:
        """Put the Casts in their places, and drop the recorded types of values that were float32."""
        graph = self.graph
        order = [*self.inserted.get(-1, [])]
        for place, node in enumerate(graph.node):
            order += [*([] if place in self.removed else [node]), *self.inserted.get(place, [])]
        order += self.inserted.get(len(graph.node), [])
        replace_field(graph.node, order)
        # Outputs of our operators are declared, as nobody infers their types.
        declared = [v for v in graph.value_info if v.type.tensor_type.elem_type != FLOAT or self._stays(v.name)]
        replace_field(graph.value_info, declared)

    def _stays(self, name: str) -> bool:
        """Whether a name still stands for a float32 value."""
        return self.types.get(name) == FLOAT and self.variants.get((name, FLOAT), name) == name

    def named(self, name: str, kind: int) -> str | None:
        """Name of a value in a type; None where nothing reads it in that type."""
        return name if self.types.get(name) == kind and (name, kind) not in self.variants else self.variants.get((name, kind))


def hoist_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes with float32 become initializers, but for outputs of the graph."""
    outputs = {o.name for o in graph.output}
    others = []
    for node in graph.node:
        tensor = constant_tensor(node)
        if tensor is None or tensor.data_type != FLOAT or node.output[0] in outputs:
            others.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    if len(others) != len(graph.node):
        replace_field(graph.node, others)
