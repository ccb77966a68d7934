"""Equal constants, as which exporters write weights that two branches or two layers share."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import onnx

from onnxquant.graph.computed import computation_key
from onnxquant.graph.io import Document, nbytes
from onnxquant.graph.names import NameAllocator
from onnxquant.graph.node import is_op
from onnxquant.graph.traverse import graphs, names_of, own_names, rename_reads, replace_field, subgraphs
from onnxquant.passes.base import Pass, PassResult

# Smaller ones are not worth a change; in one graph, only weights are: biases and norms of layers are often all zero or one.
_BYTES, _ELEMENTS_OF_WEIGHT = 256, 256
# A vector of so many different numbers is no bias of a layer: a table of positions, a window, a filter.
_ELEMENTS_OF_VECTOR = 4096
Key = tuple[int, tuple[int, ...], bytes]


@dataclass(frozen=True)
class _Constant:
    """A constant and the graph that holds it."""

    graph: onnx.GraphProto
    tensor: onnx.TensorProto


@dataclass(frozen=True)
class ShareConstants(Pass):
    """Stores equal constants once.

    1. Constants of the main graph and of the graphs in If, Loop and Scan that have one type, shape and content become one,
       which lies in the main graph if they lie in several.

           If(then: MatMul(x, w), else: MatMul(x, w'))   ->   w; If(then: MatMul(x, w), else: MatMul(x, w))

    2. In one graph only weights do: at least 256 elements on two or more axes, or vectors of at least 4096 that are not all
       the same.
    3. Inputs and outputs of a graph stay, and what nodes compute at load.

    Attributes:
        across_graphs: whether constants of several graphs become one. Before weights are computed, the constants that
            they depend on stay in the graphs of their nodes.
    """

    name = "share-constants"
    summary = "stores equal constants of branches, loops and layers once"

    across_graphs: bool = True

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        groups: dict[tuple[int, *Key], list[_Constant]] = defaultdict(list)
        for constant in _candidates(document):
            graph = 0 if self.across_graphs else id(constant.graph)
            groups[graph, *_key(document, constant.tensor)].append(constant)
        sharing = _Sharing(document)
        shared = sum(map(sharing.share, groups.values()))
        sharing.finish()
        return PassResult(True, (f"{shared} constants that equal others are stored once",)) if shared else PassResult()


class _Sharing:
    """Puts one constant in the place of several.

    Args:
        document: the model.
    """

    def __init__(self, document: Document) -> None:
        proto = document.proto
        self._document = document
        self._main = proto.graph
        self._names = NameAllocator(names_of(proto))
        # A name that inner graphs use for something else means another tensor there.
        self._graphs_with_name = Counter(name for graph in graphs(proto.graph) for name in own_names(graph))
        self._dropped: dict[int, tuple[onnx.GraphProto, set[str]]] = {}

    def share(self, group: list[_Constant]) -> int:
        """Number of equal constants that became another one of them."""
        apart = any(c.graph is not group[0].graph for c in group)
        first = next((c for c in group if c.graph is self._main), group[0])
        home = self._main if apart else first.graph
        stays = first.graph is home
        if len(group) < 2 or not (apart or _is_weight(self._document, first.tensor)):
            return 0
        if stays and self._graphs_with_name[first.tensor.name] > 1:
            return 0
        tensor = onnx.TensorProto()
        tensor.CopyFrom(first.tensor)
        if not stays:
            tensor.name = self._names.fresh(tensor.name)
            home.initializer.append(tensor)
        for constant in group:
            if stays and constant is first:
                continue
            rename_reads(constant.graph, {constant.tensor.name: tensor.name})
            self._dropped.setdefault(id(constant.graph), (constant.graph, set()))[1].add(constant.tensor.name)
        return len(group) - 1

    def finish(self) -> None:
        """Take the other constants, and shapes recorded for them, out of their graphs."""
        for graph, names in self._dropped.values():
            replace_field(graph.initializer, [t for t in graph.initializer if t.name not in names])
            replace_field(graph.value_info, [v for v in graph.value_info if v.name not in names])


def _candidates(document: Document) -> Iterator[_Constant]:
    """Constants of a type, shape and beginning that more than one has."""
    alike: dict[Key, list[_Constant]] = defaultdict(list)
    for graph in _plain_graphs(document.proto.graph):
        fixed = {value.name for values in (graph.input, graph.output) for value in values}
        for tensor in graph.initializer:
            is_text = tensor.data_type == onnx.TensorProto.STRING
            is_plain = tensor.name not in fixed and not is_text and computation_key(tensor) is None
            if is_plain and nbytes(tensor) >= _BYTES:
                begin = bytes((document.raw(tensor) or b"")[:_BYTES])
                alike[tensor.data_type, tuple(tensor.dims), begin].append(_Constant(graph, tensor))
    for several in alike.values():
        yield from several if len(several) > 1 else ()


def _key(document: Document, tensor: onnx.TensorProto) -> Key:
    """Type, shape and content."""
    raw = document.raw(tensor)
    content = document.array(tensor).tobytes() if raw is None else raw
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(content).digest()


def _is_weight(document: Document, tensor: onnx.TensorProto) -> bool:
    """Whether one copy is enough for all layers of a graph: nothing changes it for one layer alone."""
    elements = prod(tensor.dims)
    if len(tensor.dims) > 1:
        return elements >= _ELEMENTS_OF_WEIGHT
    if elements < _ELEMENTS_OF_VECTOR:
        return False
    values = document.array(tensor)
    return bool((values != values[0]).any())


def _plain_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and those nested in it in operators that read any value around them."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node) if is_op(node, "If", "Loop", "Scan") else ():
            yield from _plain_graphs(inner)
