"""The editor of one graph: a map of producers, consumers and constants, and edits that keep it true."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.io import Document
from onnxquant.graph.names import NameAllocator
from onnxquant.graph.node import constant_value, is_op
from onnxquant.graph.traverse import captured_names, names_of_graph, names_read, replace_field, subgraphs

# The place before the first node.
_START = -1


@dataclass(frozen=True, eq=False)
class ConstantChange:
    """New values for a constant input of a node.

    Attributes:
        node: the node.
        position: index of the input.
        values: the new values.
    """

    node: onnx.NodeProto
    position: int
    values: NDArray[Any]


class GraphEditor:
    """Producers, consumers and constants of one graph, kept true while it is edited through this object.

    A node is known by its place in ``nodes``. New nodes get places at the end; ``apply`` brings them, and removals, into
    the graph, after which the object is used up.

    Args:
        graph: the graph; nested ones are looked at only for the names that they capture.
        outer: the editor of the graph around it, whose constants it sees.
        names: the names in use; by default those of this graph, or those that ``outer`` knows.

    >>> editor = GraphEditor(document.proto.graph)
    >>> norm = editor.single_consumer(conv.output[0])
    """

    def __init__(
        self, graph: onnx.GraphProto, outer: GraphEditor | None = None, names: NameAllocator | None = None
    ) -> None:
        self.graph = graph
        self.outer = outer
        self.nodes: list[onnx.NodeProto] = []
        self.inputs = {i.name for i in graph.input}
        self.outputs = {o.name for o in graph.output}
        self.captured = captured_names(graph)
        self.names: NameAllocator = names or (outer.names if outer else NameAllocator(names_of_graph(graph)))
        self._initializers = {t.name: t for t in graph.initializer}
        self._sparse = {s.values.name for s in graph.sparse_initializer}
        self._producers: dict[str, int] = {}
        self._consumers: dict[str, list[int]] = {}
        self._makers: dict[str, list[int]] = {}  # every place that makes or made a tensor
        for node in graph.node:
            self._enter(node)
        self._size = len(self.nodes)  # nodes before this place are in the graph already
        self._removed: set[int] = set()
        self._before: dict[int, list[int]] = {}
        self._after: dict[int, list[int]] = {}
        self._added: set[str] = set()
        self._unsure: set[str] = set()  # constants that lost a reader
        self._dropped: set[str] = set()  # initializers that are to go

    def _enter(self, node: onnx.NodeProto) -> int:
        """Add a node to the map of producers and consumers; its place."""
        place = len(self.nodes)
        self.nodes.append(node)
        for name in node.output:
            if name:
                self._producers[name] = place
                self._makers.setdefault(name, []).append(place)
        for name in node.input:
            if name:
                self._consumers.setdefault(name, []).append(place)
        return place

    def place(self, node: onnx.NodeProto) -> int:
        """Place of a node in ``nodes``, which may be removed by now.

        Raises:
            ValueError: the node is of another graph.
        """
        candidates = [p for name in node.output if name for p in self._makers.get(name, ())]
        place: int | None = next((p for p in (*candidates, *range(len(self.nodes))) if self.nodes[p] is node), None)
        if place is None:
            raise ValueError(f"no node of this graph: {node.op_type} {node.name!r}")
        return place

    # --- the map

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node of this graph that makes a tensor; None for inputs, initializers and outer names."""
        place = self._producers.get(name)
        return None if place is None else self.nodes[place]

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes of this graph that read a tensor, each once; those in nested graphs are not among them."""
        return [self.nodes[place] for place in dict.fromkeys(self._consumers.get(name, []))]

    def is_read(self, name: str) -> bool:
        """Whether anything needs a tensor: a node here or in a nested graph, or a caller."""
        return bool(self._consumers.get(name)) or not self.is_private(name)

    def is_removed(self, node: onnx.NodeProto) -> bool:
        """Whether a node is to leave the graph."""
        return bool(self._removed) and self.place(node) in self._removed

    def is_private(self, name: str) -> bool:
        """Whether only nodes of this graph can read a tensor: it is no output and no nested graph captures it."""
        return name not in self.outputs and name not in self.captured

    def single_consumer(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads a tensor, once; None when it is an output, captured, unread or read again."""
        readers = self._consumers.get(name, [])
        return self.nodes[readers[0]] if len(readers) == 1 and self.is_private(name) else None

    def has_initializer(self, name: str) -> bool:
        """Whether a tensor of this graph has a value in the file, be it one that a caller may override."""
        return name in self._initializers

    def owns_constant(self, node: onnx.NodeProto, position: int) -> bool:
        """Whether a node alone reads the constant at one of its inputs: it can be changed without being stored twice."""
        name = node.input[position]
        if name in self.inputs or self.single_consumer(name) is not node:
            return False
        owner: GraphEditor | None = self
        while owner is not None:
            maker = owner.producer(name)
            if name in owner._initializers or maker is not None:
                is_constant = maker is None or constant_value(maker) is not None
                return is_constant and (owner is self or list(names_read(owner.graph)).count(name) == 1)
            owner = owner.outer
        return False

    def constant(self, name: str) -> onnx.TensorProto | None:
        """The tensor behind a constant: an initializer that no caller may override, or the value of a Constant node."""
        if name in self._initializers or self.producer(name) is not None:
            return self.own_constant(name)
        return self.outer.constant(name) if self.outer and name and name not in self.inputs | self._sparse else None

    def own_constant(self, name: str) -> onnx.TensorProto | None:
        """The tensor behind a constant of this graph; None for others."""
        if name in self._initializers:
            return None if name in self.inputs else self._initializers[name]
        node = self.producer(name)
        return None if node is None else constant_value(node)

    def count(self, op: str) -> int:
        """Number of nodes of an op of the default domain, as edited so far."""
        return sum(is_op(node, op) for place, node in enumerate(self.nodes) if place not in self._removed)

    # --- constants

    def add_constant(self, base: str, values: NDArray[Any] | np.generic) -> str:
        """Add an initializer, kept inline; its name, made from ``base``, is returned."""
        tensor = self.graph.initializer.add()
        tensor.CopyFrom(onnx.numpy_helper.from_array(_packed(values), self.names.fresh(base)))
        self._initializers[tensor.name] = tensor
        self._added.add(tensor.name)
        return str(tensor.name)

    def set_constant(self, node: onnx.NodeProto, position: int, values: NDArray[Any], base: str = "") -> str:
        """Give an input of a node new constant values: in place if it alone reads them, else in a copy of its own.

        Args:
            node: the reader.
            position: index of the input, which the node need not have yet.
            values: new values, of the right type already.
            base: name for a copy or a new constant; made from the old one without it.
        """
        name = node.input[position] if position < len(node.input) else ""
        tensor = self._initializers.get(name) if name not in self.inputs else None
        if tensor is not None and self.single_consumer(name) is node:
            tensor.CopyFrom(onnx.numpy_helper.from_array(_packed(values), name))
            return name
        new = self.add_constant(base or (f"{name}_folded" if name else f"{node.output[0]}_input{position}"), values)
        self.connect(node, position, new)
        return new

    def set_constants(self, changes: Iterable[ConstantChange]) -> None:
        """Set the constants of several inputs."""
        for change in changes:
            self.set_constant(change.node, change.position, change.values)

    def become_constants(self, node: onnx.NodeProto, values: Sequence[NDArray[Any]]) -> None:
        """Replace a node by initializers of its outputs' names."""
        names = [name for name in node.output if name]
        self.remove(node)
        for name, value in zip(names, values, strict=True):
            tensor = self.graph.initializer.add()
            tensor.CopyFrom(onnx.numpy_helper.from_array(_packed(value), name))
            self._initializers[name] = tensor

    def drop_initializer(self, name: str) -> None:
        """Remove an initializer that no node reads any more."""
        self._dropped.add(name)

    # --- nodes

    def connect(self, node: onnx.NodeProto, position: int, name: str) -> None:
        """Let an input of a node be another tensor; missing inputs before it become empty."""
        place = self.place(node)
        while len(node.input) <= position:
            node.input.append("")
        before = node.input[position]
        if before:
            self._forget(before, place)
        node.input[position] = name
        if name:
            self._consumers.setdefault(name, []).append(place)

    def _forget(self, name: str, place: int) -> None:
        self._consumers[name].remove(place)
        self._unsure.add(name)

    def remove(self, node: onnx.NodeProto) -> None:
        """Take a node out; its inputs lose a reader, its outputs their producer."""
        place = self.place(node)
        for name in node.input:
            if name:
                self._forget(name, place)
        for name in node.output:
            if self._producers.get(name) == place:
                del self._producers[name]
        self._removed.add(place)

    def insert_before(self, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
        """Put new nodes before one of this graph (removed or not)."""
        self._before.setdefault(self.place(node), []).extend([self._enter(other) for other in new])

    def insert_after(self, node: onnx.NodeProto | None, new: Sequence[onnx.NodeProto]) -> None:
        """Put new nodes after one of this graph; None: at its start."""
        place = _START if node is None else self.place(node)
        self._after.setdefault(place, []).extend([self._enter(other) for other in new])

    def rename_output(self, node: onnx.NodeProto, before: str, after: str) -> None:
        """Let a node make a tensor of another name; who read the old one still does."""
        place = self.place(node)
        node.output[list(node.output).index(before)] = after
        del self._producers[before]
        self._producers[after] = place
        self._makers.setdefault(after, []).append(place)

    def bypass(self, node: onnx.NodeProto, source: str) -> bool:
        """Remove a node with one output, whose readers read ``source`` instead.

        An output that callers or nested graphs know by name is made by the producer of ``source`` under that name.

        Returns:
            False, with nothing done, where that cannot be: the source is an input, a constant, or known by name too.
        """
        target = node.output[0]
        if self.is_private(target):
            self.remove(node)
            self._redirect(target, source)
            return True
        maker = self.producer(source)
        if maker is None or not self.is_private(source):
            return False
        self.remove(node)
        self.rename_output(maker, source, target)
        self._redirect(source, target)
        return True

    def _redirect(self, before: str, after: str) -> None:
        for reader in self.consumers(before):
            for position, name in enumerate(reader.input):
                if name == before:
                    self.connect(reader, position, after)

    # --- the end

    def discard(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Put back the nodes that the graph had, and drop the constants added since."""
        replace_field(self.graph.node, nodes)
        self._drop_initializers(self._added)

    def apply(self, *, keep_unread: bool = False) -> None:
        """Bring removals and insertions into the graph.

        Nodes are taken out and put in one by one, so that references to those that stay, and to graphs nested in them,
        remain valid.

        Args:
            keep_unread: constants that lost their last reader stay, but for those that were dropped by name.
        """
        unread = set() if keep_unread else {n for n in self._unsure if not self.is_read(n) and n not in self.inputs}
        for name in unread:
            maker = self._producers.get(name)
            if maker is not None and constant_value(self.nodes[maker]) is not None:
                self._removed.add(maker)
        self._apply_nodes()
        self._drop_initializers(unread | self._dropped)
        values = {name for node in self.graph.node for name in node.output} | self._initializers.keys()
        for index in range(len(self.graph.value_info) - 1, -1, -1):
            if self.graph.value_info[index].name not in values:
                del self.graph.value_info[index]

    def _apply_nodes(self) -> None:
        nodes, index = self.graph.node, self._size
        for place in reversed(list(self._order())):
            if place < self._size:
                del nodes[place + 1 : index]
                index = place
            else:
                nodes.insert(index, self.nodes[place])
        del nodes[:index]

    def _drop_initializers(self, names: set[str]) -> None:
        for index in range(len(self.graph.initializer) - 1, -1, -1):
            if self.graph.initializer[index].name in names:
                del self.graph.initializer[index]

    def _order(self) -> Iterator[int]:
        """Places of the nodes in the order of the edited graph."""
        yield from self._around(_START)
        for place in range(self._size):
            yield from self._around(place)

    def _around(self, place: int) -> Iterator[int]:
        for before in self._before.get(place, ()):
            yield from self._around(before)
        if place != _START and place not in self._removed:
            yield place
        for after in self._after.get(place, ()):
            yield from self._around(after)


def graph_editors(document: Document) -> Iterator[GraphEditor]:
    """An editor for the main graph and for each nested one, a graph before those inside it; each is built when it is reached.

    Edits of one must be applied before the next is asked for.
    """
    yield from _nested_editors(document.proto.graph, None)


def _nested_editors(graph: onnx.GraphProto, outer: GraphEditor | None) -> Iterator[GraphEditor]:
    yield GraphEditor(graph, outer)
    around: GraphEditor | None = None
    for node in list(graph.node):
        for inner in subgraphs(node):
            around = around or GraphEditor(graph, outer)
            yield from _nested_editors(inner, around)


def _packed(values: NDArray[Any] | np.generic) -> NDArray[Any]:
    # ascontiguousarray alone would make a vector of a scalar.
    return np.ascontiguousarray(values).reshape(np.shape(values))
