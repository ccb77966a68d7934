"""Edits of one model: planes added, nodes inserted and replaced, bodies and imports, provenance.

Edits are collected while places in the graph stay valid, and applied together by ``finish``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.io import graphs, nodes, tensors
from onnxquant.graph.names import SITE
from onnxquant.graph.sites import Use

Make = Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class Stored:
    """One array as a tensor of the model: shape, ONNX element type, bytes when packed."""

    shape: tuple[int, ...]
    elem_type: int
    nbytes: int


class Sink(Protocol):
    """Where the bytes of a tensor go."""

    def store(self, tensor: onnx.TensorProto, nbytes: int, make: Make) -> None:
        """Store ``nbytes`` bytes that ``make`` gives, and make the tensor refer to them."""


class Editor:
    """Collects the edits of one model.

    Args:
        proto: the model to edit, in place.
        sink: receives the planes.
    """

    def __init__(self, proto: onnx.ModelProto, sink: Sink) -> None:
        self.proto = proto
        self.sink = sink
        self.site = ""
        self._names = _names(proto)
        self._before: dict[int, dict[int, list[onnx.NodeProto]]] = {}
        self._first: dict[int, list[onnx.NodeProto]] = {}
        self._replaced: dict[int, dict[int, list[onnx.NodeProto]]] = {}
        self._dropped: dict[int, set[str]] = {}
        self._graphs = {id(g): g for g in graphs(proto.graph)}
        self._keep = list(self._graphs.values())  # keeps the wrappers, and so their ids, alive

    @property
    def opset(self) -> int:
        """Version of the default domain."""
        return next(int(o.version) for o in self.proto.opset_import if o.domain in ("", "ai.onnx"))

    def name(self, base: str) -> str:
        """A name that nothing in the model has yet, made from ``base``."""
        candidate, n = base, 1
        while candidate in self._names:
            n += 1
            candidate = f"{base}_{n}"
        self._names.add(candidate)
        return candidate

    def plane(self, graph: onnx.GraphProto, base: str, stored: Stored, make: Make) -> str:
        """Add an initializer whose bytes go to the sink; its name is returned."""
        tensor = graph.initializer.add(name=self.name(base), data_type=stored.elem_type, dims=stored.shape)
        self.sink.store(tensor, stored.nbytes, make)
        return str(tensor.name)

    def constant(self, graph: onnx.GraphProto, base: str, array: NDArray[Any] | np.generic) -> str:
        """Add a small initializer, kept in the graph."""
        tensor = onnx.numpy_helper.from_array(np.asarray(array), self.name(base))
        graph.initializer.append(tensor)
        return tensor.name

    def node(
        self, op: str, inputs: Sequence[str], *, domain: str = "", output: str = "", **attributes: Any
    ) -> onnx.NodeProto:
        """A node with a fresh output (or ``output``), marked with the site it serves."""
        out = output or self.name(f"{self.site}/{op}")
        node = onnx.helper.make_node(op, list(inputs), [out], name=self.name(f"{self.site}/{op}/node"), domain=domain)
        node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())
        node.metadata_props.add(key=SITE, value=self.site)
        if domain:
            self.import_domain(domain, 1)
        return node

    def declare(self, graph: onnx.GraphProto, name: str, elem_type: int) -> None:
        """State the element type of a tensor: tools that infer shapes know nothing of ops in other domains."""
        if all(v.name != name for values in (graph.value_info, graph.output) for v in values):
            graph.value_info.append(onnx.helper.make_tensor_value_info(name, elem_type, None))

    def first(self, graph: onnx.GraphProto, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes at the start of a graph."""
        self._first.setdefault(id(graph), []).extend(new)

    def before(self, use: Use, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes just before the consumer of a weight."""
        self._before.setdefault(id(use.graph), {}).setdefault(use.index, []).extend(new)

    def replace(self, use: Use, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes in the place of the consumer of a weight, and drop the Transpose between them."""
        self._replaced.setdefault(id(use.graph), {})[use.index] = list(new)
        if use.via is not None:
            self._replaced[id(use.graph)][use.via] = []

    def drop_initializer(self, graph: onnx.GraphProto, name: str) -> None:
        """Remove an initializer that no node reads any more."""
        self._dropped.setdefault(id(graph), set()).add(name)

    def import_domain(self, domain: str, version: int) -> None:
        """Import a domain unless the model does already."""
        if all(o.domain != domain for o in self.proto.opset_import):
            self.proto.opset_import.append(onnx.helper.make_opsetid(domain, version))

    def function(self, function: onnx.FunctionProto) -> None:
        """Add a model-local function once."""
        key = (function.domain, function.name)
        if all((f.domain, f.name) != key for f in self.proto.functions):
            self.proto.functions.append(function)

    def annotate(self, key: str, value: str) -> None:
        """Set a metadata entry of the model."""
        for entry in self.proto.metadata_props:
            if entry.key == key:
                entry.value = value
                return
        self.proto.metadata_props.add(key=key, value=value)

    def finish(self) -> None:
        """Apply the edits, innermost graphs first: a rebuilt node carries its nested graphs along."""
        for key, graph in reversed(self._graphs.items()):
            before, replaced = self._before.get(key, {}), self._replaced.get(key, {})
            if before or replaced or key in self._first:
                rebuilt = list(self._first.get(key, []))
                for index, node in enumerate(graph.node):
                    rebuilt += before.get(index, [])
                    rebuilt += replaced.get(index, [node])
                copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in rebuilt]
                del graph.node[:]
                graph.node.extend(copies)
            if key in self._dropped:
                kept = [t for t in graph.initializer if t.name not in self._dropped[key]]
                rest = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
                del graph.initializer[:]
                graph.initializer.extend(rest)


def _names(proto: onnx.ModelProto) -> set[str]:
    names: set[str] = set()
    for graph in graphs(proto.graph):
        for values in (graph.input, graph.output, graph.initializer, graph.value_info):
            names.update(value.name for value in values)
    for node in nodes(proto):
        names.update((node.name, *node.input, *node.output))
    names.update(t.name for t in tensors(proto))
    return names


def with_weights(proto: onnx.ModelProto, values: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """A copy of a model with other values, kept inline, for the initializers of these names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for graph in graphs(copy.graph):
        for tensor in graph.initializer:
            if tensor.name in values:
                array = np.ascontiguousarray(values[tensor.name])
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return copy
