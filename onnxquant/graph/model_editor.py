"""The editor of one model: planes added, nodes inserted and replaced in any of its graphs, functions and imports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.names import SITE, NameAllocator
from onnxquant.graph.node import STANDARD
from onnxquant.graph.sites import Site, Use
from onnxquant.graph.traverse import graphs, names_of

Make = Callable[[], NDArray[Any]]
"""Makes the array of a plane."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of the model without its values: shape, ONNX element type, bytes when packed."""

    shape: tuple[int, ...]
    elem_type: int
    nbytes: int


class Sink(Protocol):
    """The place that the bytes of tensors go to."""

    def store(self, tensor: onnx.TensorProto, nbytes: int, make: Make) -> None:
        """Store the ``nbytes`` bytes that ``make`` gives, and make the tensor refer to them."""


class ModelEditor:
    """Collects the edits of one model; ``finish`` applies those of nodes and initializers.

    Args:
        proto: the model to edit, in place.
        sink: receives the planes.
    """

    def __init__(self, proto: onnx.ModelProto, sink: Sink) -> None:
        self.proto = proto
        self.sink = sink
        names = NameAllocator(names_of(proto))
        self.name = names.fresh
        self._editors = [GraphEditor(graph, names=names) for graph in graphs(proto.graph)]

    @property
    def opset(self) -> int:
        """Version of the default domain."""
        return next(int(o.version) for o in self.proto.opset_import if o.domain in STANDARD)

    def editor(self, graph: onnx.GraphProto) -> GraphEditor:
        """The editor of one of the model's graphs."""
        return next(editor for editor in self._editors if editor.graph is graph)

    def plane(self, graph: onnx.GraphProto, base: str, spec: TensorSpec, make: Make) -> str:
        """Add an initializer whose bytes go to the sink; its name is returned."""
        tensor = graph.initializer.add(name=self.name(base), data_type=spec.elem_type, dims=spec.shape)
        self.sink.store(tensor, spec.nbytes, make)
        return str(tensor.name)

    def constant(self, graph: onnx.GraphProto, base: str, array: NDArray[Any] | np.generic) -> str:
        """Add a small initializer, kept in the graph; its name is returned."""
        return self.editor(graph).add_constant(base, array)

    def node(
        self, site: Site, op: str, inputs: Sequence[str], *, domain: str = "", output: str = "", **attributes: object
    ) -> onnx.NodeProto:
        """A node with a fresh output (or ``output``), marked with the site it serves; it is in no graph yet."""
        out = output or self.name(f"{site.name}/{op}")
        node = onnx.helper.make_node(op, list(inputs), [out], name=self.name(f"{site.name}/{op}/node"), domain=domain)
        node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())
        node.metadata_props.add(key=SITE, value=site.name)
        if domain:
            self.import_domain(domain, 1)
        return node

    def declare(self, graph: onnx.GraphProto, name: str, elem_type: int, shape: Sequence[int] | None = None) -> None:
        """State the element type of a tensor, and its shape: tools that infer them know nothing of ops in other domains.

        Args:
            graph: the graph that computes it.
            name: its name.
            elem_type: its element type.
            shape: its shape; None: any.
        """
        if all(v.name != name for values in (graph.value_info, graph.output) for v in values):
            graph.value_info.append(onnx.helper.make_tensor_value_info(name, elem_type, shape))

    def first(self, graph: onnx.GraphProto, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes at the start of a graph."""
        self.editor(graph).insert_after(None, new)

    def before(self, use: Use, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes just before the consumer of a weight."""
        self.editor(use.graph).insert_before(use.node, new)

    def replace(self, use: Use, new: Sequence[onnx.NodeProto]) -> None:
        """Put nodes in the place of the consumer of a weight, and drop the Transpose between them."""
        editor = self.editor(use.graph)
        transpose = None if use.via is None else editor.nodes[use.via]
        for node in (use.node, transpose):
            if node is not None and not editor.is_removed(node):
                editor.remove(node)
        editor.insert_before(use.node, new)

    def read_instead(self, use: Use, name: str) -> None:
        """Let the consumer of a weight, or the Transpose between them, read another tensor."""
        editor = self.editor(use.graph)
        if use.via is None:
            editor.connect(use.node, use.input, name)
        else:
            editor.connect(editor.nodes[use.via], 0, name)

    def drop_initializer(self, graph: onnx.GraphProto, name: str) -> None:
        """Remove an initializer that no node reads any more."""
        self.editor(graph).drop_initializer(name)

    def import_domain(self, domain: str, version: int) -> None:
        """Import a domain unless the model does already."""
        if all(o.domain != domain for o in self.proto.opset_import):
            self.proto.opset_import.append(onnx.helper.make_opsetid(domain, version))

    def require_ir(self, version: int) -> None:
        """Raise the IR version to at least this one."""
        self.proto.ir_version = max(self.proto.ir_version, version)

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
        """Apply the edits of nodes, and remove the initializers that are to go."""
        for editor in self._editors:
            editor.apply(keep_unread=True)


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
