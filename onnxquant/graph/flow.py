"""What flows where in one graph: who makes each tensor, who reads it, which are constant; and edits that keep it so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.io import Document, graphs, subgraphs

STANDARD = ("", "ai.onnx")
_CONSTANT_TYPES = {
    "value_float": onnx.TensorProto.FLOAT,
    "value_floats": onnx.TensorProto.FLOAT,
    "value_int": onnx.TensorProto.INT64,
    "value_ints": onnx.TensorProto.INT64,
}


class Flow:
    """Producers, consumers and constants of one graph, kept true while it is edited through this object.

    Nodes are compared by identity. Removed, inserted and unread things leave or enter the graph with ``apply``, after
    which the object is used up.

    Args:
        graph: the graph; nested ones are looked at only for the names that they capture.
        outer: the flow of the graph around it, whose constants it sees.

    >>> flow = Flow(document.proto.graph)
    >>> norm = flow.single_consumer(conv.output[0])
    """

    def __init__(self, graph: onnx.GraphProto, outer: Flow | None = None) -> None:
        self.graph = graph
        self.outer = outer
        self.nodes: list[onnx.NodeProto] = list(graph.node)  # holding the wrappers keeps their identity
        self.inputs = {i.name for i in graph.input}
        self.outputs = {o.name for o in graph.output}
        self.captured = {name for node in self.nodes for inner in subgraphs(node) for name in _read_inside(inner)}
        self._initializers = {t.name: t for t in graph.initializer}
        self._sparse = {s.values.name for s in graph.sparse_initializer}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            self._enter(node)
        self._names: set[str] = outer._names if outer else _names(graph)
        self._removed: set[int] = set()
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._after: dict[int | None, list[onnx.NodeProto]] = {}
        self._added: set[str] = set()
        self._unsure: set[str] = set()  # constants that lost a reader

    def _enter(self, node: onnx.NodeProto) -> None:
        self._producers.update((name, node) for name in node.output if name)
        for name in node.input:
            if name:
                self._consumers.setdefault(name, []).append(node)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node of this graph that makes a tensor; None for inputs, initializers and outer names."""
        return self._producers.get(name)

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes of this graph that read a tensor, each once; those in nested graphs are not among them."""
        return list({id(node): node for node in self._consumers.get(name, [])}.values())

    def is_read(self, name: str) -> bool:
        """Whether anything needs a tensor: a node here or in a nested graph, or a caller."""
        return bool(self._consumers.get(name)) or not self.is_private(name)

    def is_removed(self, node: onnx.NodeProto) -> bool:
        """Whether a node is to leave the graph."""
        return id(node) in self._removed

    def is_private(self, name: str) -> bool:
        """Whether only nodes of this graph can read a tensor: it is no output and no nested graph captures it."""
        return name not in self.outputs and name not in self.captured

    def single_consumer(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads a tensor, once; None when it is an output, captured, unread or read again."""
        readers = self._consumers.get(name, [])
        return readers[0] if len(readers) == 1 and self.is_private(name) else None

    def constant(self, name: str) -> onnx.TensorProto | None:
        """The tensor behind a constant: an initializer that no caller may override, or the value of a Constant node."""
        if name in self._initializers:
            return None if name in self.inputs else self._initializers[name]
        node = self._producers.get(name)
        if node is not None:
            return _constant_value(node)
        return self.outer.constant(name) if self.outer and name and name not in self.inputs | self._sparse else None

    def fresh(self, base: str) -> str:
        """A name that nothing has yet, made from ``base``."""
        candidate, n = base, 1
        while candidate in self._names:
            n += 1
            candidate = f"{base}_{n}"
        self._names.add(candidate)
        return candidate

    def add_constant(self, base: str, values: NDArray[Any]) -> str:
        """A new initializer, kept inline; its name."""
        tensor = self.graph.initializer.add()
        tensor.CopyFrom(onnx.numpy_helper.from_array(_packed(values), self.fresh(base)))
        self._initializers[tensor.name] = tensor
        self._added.add(tensor.name)
        return str(tensor.name)

    def connect(self, node: onnx.NodeProto, position: int, name: str) -> None:
        """Let an input of a node be another tensor; missing inputs before it become empty."""
        while len(node.input) <= position:
            node.input.append("")
        before = node.input[position]
        if before:
            self._forget(before, node)
        node.input[position] = name
        if name:
            self._consumers.setdefault(name, []).append(node)

    def _forget(self, name: str, node: onnx.NodeProto) -> None:
        readers = self._consumers[name]
        del readers[next(i for i, reader in enumerate(readers) if reader is node)]
        self._unsure.add(name)

    def set_constant(self, node: onnx.NodeProto, position: int, values: NDArray[Any], base: str = "") -> str:
        """Give an input of a node new constant values: in place if it alone reads them, else in a copy of its own.

        Args:
            node: the reader.
            position: which input; may be one that the node does not have yet.
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

    def set_constants(self, changes: Iterable[tuple[onnx.NodeProto, int, NDArray[Any]]]) -> None:
        """Set the constants of several inputs, each given as a node, the input's position and its values."""
        for node, position, values in changes:
            self.set_constant(node, position, values)

    def remove(self, node: onnx.NodeProto) -> None:
        """Take a node out; its inputs lose a reader, its outputs their producer."""
        for name in node.input:
            if name:
                self._forget(name, node)
        for name in node.output:
            if self._producers.get(name) is node:
                del self._producers[name]
        self._removed.add(id(node))

    def become_constants(self, node: onnx.NodeProto, values: Sequence[NDArray[Any]]) -> None:
        """Replace a node by initializers of its outputs' names."""
        names = [name for name in node.output if name]
        self.remove(node)
        for name, value in zip(names, values, strict=True):
            tensor = self.graph.initializer.add()
            tensor.CopyFrom(onnx.numpy_helper.from_array(_packed(value), name))
            self._initializers[name] = tensor

    def insert_before(self, place: onnx.NodeProto, node: onnx.NodeProto) -> None:
        """Put a new node before one that is in the graph already (removed or not)."""
        self._before.setdefault(id(place), []).append(node)
        self.nodes.append(node)
        self._enter(node)

    def insert_after(self, place: onnx.NodeProto | None, new: Sequence[onnx.NodeProto]) -> None:
        """Put new nodes after one that is in the graph already; None: at its start."""
        self._after.setdefault(None if place is None else id(place), []).extend(new)
        for node in new:
            self.nodes.append(node)
            self._enter(node)

    def rename_output(self, node: onnx.NodeProto, before: str, after: str) -> None:
        """Let a node make a tensor of another name; who read the old one still does."""
        node.output[list(node.output).index(before)] = after
        del self._producers[before]
        self._producers[after] = node

    def count(self, op: str) -> int:
        """Number of nodes of an op of the default domain, as edited so far."""
        return sum(is_op(node, op) for node in self.nodes if not self.is_removed(node))

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
        maker = self._producers.get(source)
        if maker is None or not self.is_private(source):
            return False
        self.remove(node)
        maker.output[list(maker.output).index(source)] = target
        del self._producers[source]
        self._producers[target] = maker
        self._redirect(source, target)
        return True

    def _redirect(self, before: str, after: str) -> None:
        for reader in self.consumers(before):
            for position, name in enumerate(reader.input):
                if name == before:
                    self.connect(reader, position, after)

    def discard(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Put back the nodes that the graph had, and drop the constants added since."""
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        for index in range(len(self.graph.initializer) - 1, -1, -1):
            if self.graph.initializer[index].name in self._added:
                del self.graph.initializer[index]

    def apply(self) -> None:
        """Bring removals and insertions into the graph, and drop constants that lost their last reader."""
        for name in self._unsure:
            if self._consumers.get(name) or not self.is_private(name) or name in self.inputs:
                continue
            maker = self._producers.get(name)
            if maker is not None and _constant_value(maker) is not None:
                self._removed.add(id(maker))
        dead = {n for n in self._unsure if not self._consumers.get(n) and self.is_private(n) and n not in self.inputs}
        places = list(self.graph.node)
        for index in range(len(places) - 1, -1, -1):
            place = places[index]
            for new in reversed(self._after.get(id(place), [])):
                if not self.is_removed(new):
                    self.graph.node.insert(index + 1, new)
            if id(place) in self._removed:
                del self.graph.node[index]
            for new in reversed(self._before.get(id(place), [])):
                if not self.is_removed(new):
                    self.graph.node.insert(index, new)
        for new in reversed(self._after.get(None, [])):
            self.graph.node.insert(0, new)
        for index in range(len(self.graph.initializer) - 1, -1, -1):
            if self.graph.initializer[index].name in dead:
                del self.graph.initializer[index]
        made = {name for node in self.graph.node for name in node.output}
        for index in range(len(self.graph.value_info) - 1, -1, -1):
            name = self.graph.value_info[index].name
            if name not in made and name not in self._initializers:
                del self.graph.value_info[index]


def flows(document: Document) -> Iterator[Flow]:
    """A flow for the main graph and for each nested one, innermost last; each is built when it is reached.

    Edits of one must be applied before the next is asked for.
    """
    yield from _flows(document.proto.graph, None)


def _flows(graph: onnx.GraphProto, outer: Flow | None) -> Iterator[Flow]:
    yield Flow(graph, outer)
    around: Flow | None = None
    for node in list(graph.node):
        for inner in subgraphs(node):
            around = around or Flow(graph, outer)
            yield from _flows(inner, around)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of an attribute; strings as str, lists as lists.

    >>> attribute(conv, "group", 1)
    1
    """
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            if isinstance(value, bytes):
                return value.decode()
            return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute, whether it is there or not; None removes it."""
    for index in range(len(node.attribute) - 1, -1, -1):
        if node.attribute[index].name == name:
            del node.attribute[index]
    if value is not None:
        node.attribute.append(onnx.helper.make_attribute(name, value))


def is_op(node: onnx.NodeProto | None, *ops: str) -> bool:
    """Whether a node is one of these ops of the default domain."""
    return node is not None and node.domain in STANDARD and node.op_type in ops


def _packed(values: NDArray[Any]) -> NDArray[Any]:
    # ascontiguousarray alone would make a vector of a scalar.
    return np.ascontiguousarray(values).reshape(np.shape(values))


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if not is_op(node, "Constant") or len(node.attribute) != 1:
        return None
    only = node.attribute[0]
    if only.name == "value":
        return only.t
    if only.name not in _CONSTANT_TYPES:
        return None
    value = onnx.helper.get_attribute_value(only)
    dims = [] if only.name in ("value_float", "value_int") else [len(value)]
    values = [value] if not dims else list(value)
    return onnx.helper.make_tensor(node.output[0], _CONSTANT_TYPES[only.name], dims, values)


def _read_inside(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that a nested graph reads, its own included: names are not used twice, so more than enough is safe."""
    for inner in graphs(graph):
        for node in inner.node:
            yield from node.input
        for output in inner.output:
            yield output.name


def _names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for inner in graphs(graph):
        for values in (inner.input, inner.output, inner.initializer, inner.value_info):
            names.update(value.name for value in values)
        for node in inner.node:
            names.update((node.name, *node.input, *node.output))
    return names
