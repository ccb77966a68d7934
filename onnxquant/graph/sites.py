"""Sites: where constant weights are consumed, and how each is seen as a matrix [rows, cols]."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import onnx

from onnxquant.graph.computed import computation_key
from onnxquant.graph.io import Document, nbytes
from onnxquant.graph.needs import TOO_SMALL, UseKind, View, classify
from onnxquant.graph.node import attribute
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.traverse import names_read, subgraphs

FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.DOUBLE: "float64",
}
MIN_ELEMENTS = 256
OVERRIDABLE = "is also a graph input: a caller may override it; --constant-inputs takes it for a constant"


@dataclass(frozen=True)
class Use:
    """One consumer of a weight.

    Attributes:
        graph: the graph that the node is in.
        index: place of the node there.
        input: index of the node's input that is the weight.
        role: the field's name for the use: matmul, gemm, conv, gather, recurrent ...
        kind: the part of the weight that the node needs.
        view: the matrix that the node sees.
        via: place of a Transpose between weight and node, to be dropped with it.
    """

    graph: onnx.GraphProto
    index: int
    input: int
    role: str
    kind: UseKind
    view: View
    via: int | None = None

    @property
    def node(self) -> onnx.NodeProto:
        """The consuming node."""
        node: onnx.NodeProto = self.graph.node[self.index]
        return node


@dataclass
class Site:
    """A constant weight with everything that consumes it.

    Attributes:
        name: its name.
        graph: the graph that holds it.
        tensor: the tensor.
        uses: its consumers.
        computed_from: bytes of the constants that it was computed from; None for a weight that the model holds.
        is_folded: whether it is decoded when a session is created, though a kernel could read its codes.
    """

    name: str
    graph: onnx.GraphProto
    tensor: onnx.TensorProto
    uses: list[Use] = field(default_factory=list)
    computed_from: int | None = None
    is_folded: bool = False

    @property
    def view(self) -> View:
        """The canonical view: that of the use that gains most from codes in its own order."""
        order = list(UseKind)
        return min(self.uses, key=lambda use: order.index(use.kind)).view

    @property
    def rows(self) -> int:
        """Output channels."""
        return self.view.rows

    @property
    def cols(self) -> int:
        """Contracted channels."""
        return self.view.cols

    @property
    def dtype(self) -> str:
        """Element type of the original weight."""
        return FLOATS[self.tensor.data_type]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the original weight."""
        return tuple(self.tensor.dims)

    @property
    def elements(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the original weight; of a computed weight, those of the constants that it is computed from."""
        return nbytes(self.tensor) if self.computed_from is None else self.computed_from

    @property
    def role(self) -> str:
        """Roles of the uses, most telling first."""
        order = list(UseKind)
        return "+".join(dict.fromkeys(u.role for u in sorted(self.uses, key=lambda u: order.index(u.kind))))

    def folded(self) -> Site:
        """The same site with every use served by the decoded tensor."""
        uses = [replace(u, kind=UseKind.DENSE) for u in self.uses]
        return replace(self, uses=uses, is_folded=self.is_folded or self.has_kernel)

    @property
    def has_kernel(self) -> bool:
        """Whether some use can be served by a kernel that reads codes."""
        return bool(self.served(UseKind.PRODUCT) or self.served(UseKind.LOOKUP))

    def served(self, kind: UseKind) -> list[Use]:
        """Uses that can be served as ``kind`` from the canonical view; DENSE takes all the others.

        A target that has an operator for EXPERTS leaves them out of the others.
        """
        if kind is UseKind.DENSE:
            return [u for u in self.uses if u.kind is UseKind.EXPERTS or not self._direct(u)]
        return [u for u in self.uses if u.kind is kind and self._direct(u)]

    def _direct(self, use: Use) -> bool:
        # Kernels compute in float32 or float16: other types are decoded ahead of the op.
        kernel = self.tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        return kernel and use.kind is not UseKind.DENSE and use.view == self.view


@dataclass(frozen=True)
class SkippedConstant:
    """A constant float tensor that is no site, with the reason.

    Attributes:
        name: name of the tensor.
        shape: its shape.
        dtype: its type.
        nbytes: its bytes.
        reason: why it is no site.
        is_overridable: whether it is also a graph input, whose value a caller may override.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    reason: str
    is_overridable: bool = False


@dataclass
class _PossibleSite:
    """A constant float tensor on the way to a site.

    Attributes:
        graph: the graph that holds it.
        tensor: the tensor.
        uses: uses that make it a site.
        other_uses: uses that do not; they are served only beside the others.
        reasons: why it can be no site, whatever reads it.
        excuses: why the other uses do not make it one.
        is_overridable: whether it is also a graph input, whose value a caller may override.
    """

    graph: onnx.GraphProto
    tensor: onnx.TensorProto
    uses: list[Use] = field(default_factory=list)
    other_uses: list[Use] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    excuses: list[str] = field(default_factory=list)
    is_overridable: bool = False

    def all_uses(self) -> list[Use]:
        """The uses of a site. A node that reads the weight at several inputs gets the decoded tensor for all of them."""
        uses = self.uses + self.other_uses
        places = [(id(use.graph), use.index) for use in uses]
        return [
            replace(use, kind=UseKind.DENSE) if places.count(place) > 1 else use
            for use, place in zip(uses, places, strict=True)
        ]

    def reason(self, least: int) -> str | None:
        """The reason why it is no site; None when it is one.

        Args:
            least: number of elements of the smallest site.
        """
        elements = prod(self.tensor.dims)
        if self.reasons:
            return self.reasons[0]
        if len(self.tensor.dims) < 2:
            return TOO_SMALL
        if elements < least:
            return too_small(elements, least)
        if self.uses:
            return None
        return self.excuses[0] if self.excuses else "nothing consumes it"


def too_small(elements: int, least: int = MIN_ELEMENTS) -> str:
    """The reason why so small a weight stays in float."""
    return f"only {elements} elements, fewer than {least}"


def find_sites(document: Document) -> tuple[list[Site], list[SkippedConstant]]:
    """Every constant float weight of a model: as a site, or skipped with the reason."""
    candidates: list[_PossibleSite] = []
    _collect(document.proto.graph, {}, candidates, document.proto.ir_version)
    sites: list[Site] = []
    skipped: list[SkippedConstant] = []
    names: set[str] = set()
    for candidate in candidates:
        tensor = candidate.tensor
        name, copies = tensor.name, 1
        while name in names:  # graphs beside each other may use one name twice
            copies += 1
            name = f"{candidate.graph.name}/{tensor.name}" + (f"#{copies}" if copies > 2 else "")
        names.add(name)
        reason = candidate.reason(MIN_ELEMENTS if document.least_elements is None else document.least_elements)
        if reason is None:
            key = computation_key(tensor)
            computation = None if key is None else document.computations.get(key)
            stored = None if computation is None else computation.nbytes
            sites.append(Site(name, candidate.graph, tensor, candidate.all_uses(), stored))
        else:
            dtype = FLOATS[tensor.data_type]
            overridable = candidate.is_overridable
            skipped.append(SkippedConstant(name, tuple(tensor.dims), dtype, nbytes(tensor), reason, overridable))
    return sites, skipped


def overridable_weights(skipped: Sequence[SkippedConstant]) -> str:
    """A sentence on the weights among skipped constants that are graph inputs; empty where there are none."""
    count = sum(c.is_overridable and len(c.shape) > 1 for c in skipped)
    return (
        f"{count} weights are graph inputs, which a caller may override: --constant-inputs takes them for constants"
        * (count > 0)
    )


def _collect(
    graph: onnx.GraphProto, outer: dict[str, _PossibleSite], candidates: list[_PossibleSite], ir_version: int
) -> None:
    """Add the float constants of a graph and of those nested in it, with their uses.

    Args:
        graph: the graph.
        outer: constants of the graphs around it, by name.
        candidates: list that they are added to.
        ir_version: the model's IR version, which says whether inputs are constants' defaults.
    """
    names = dict(outer)
    inputs, outputs = {i.name for i in graph.input}, {o.name for o in graph.output}
    for name in (*inputs, *(o for n in graph.node for o in n.output)):
        names.pop(name, None)
    for tensor in graph.initializer:
        if tensor.data_type not in FLOATS:
            names.pop(tensor.name, None)
            continue
        candidate = _PossibleSite(graph, tensor)
        if tensor.name in inputs and ir_version >= 4:
            candidate.is_overridable = True
            candidate.reasons.append(OVERRIDABLE)
        if tensor.name in outputs:
            candidate.reasons.append("is a graph output")
        names[tensor.name] = candidate
        candidates.append(candidate)
    candidates += [
        _PossibleSite(graph, s.values, reasons=["is stored sparse already"])
        for s in graph.sparse_initializer
        if s.values.data_type in FLOATS
    ]
    readers = _readers(graph)
    for index, node in enumerate(graph.node):
        for position, name in enumerate(node.input):
            if name in names:
                _add_use(names[name], _GraphReads(graph, readers, names), _InputPlace(index, position))
        for inner in subgraphs(node):
            _collect(inner, names, candidates, ir_version)
            for output in inner.output:
                if output.name in names:
                    names[output.name].reasons.append("is the output of a nested graph")


@dataclass(frozen=True)
class _InputPlace:
    """A node of a graph, by its place, and the index of its input; -1 and -1: a nested graph, or a caller."""

    index: int
    position: int


_ELSEWHERE = _InputPlace(-1, -1)


def _readers(graph: onnx.GraphProto) -> dict[str, list[_InputPlace]]:
    """The readers of each tensor in this graph."""
    readers: dict[str, list[_InputPlace]] = {}
    for index, node in enumerate(graph.node):
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append(_InputPlace(index, position))
        for inner in subgraphs(node):
            for name in names_read(inner):
                readers.setdefault(name, []).append(_ELSEWHERE)
    for output in graph.output:
        readers.setdefault(output.name, []).append(_ELSEWHERE)
    return readers


@dataclass(frozen=True)
class _GraphReads:
    """Readers and constants of a graph.

    Attributes:
        graph: the graph.
        readers: readers of each tensor in it.
        constants: names of the float constants that its nodes see.
    """

    graph: onnx.GraphProto
    readers: Mapping[str, Sequence[_InputPlace]]
    constants: Collection[str]

    def kind_of(self, kind: UseKind, node: onnx.NodeProto) -> UseKind:
        """The part of a weight that a node needs: all of it for a product with a constant, which is computed at load."""
        return UseKind.DENSE if kind is UseKind.PRODUCT and node.input[0] in self.constants else kind


def _add_use(candidate: _PossibleSite, reads: _GraphReads, reader: _InputPlace) -> None:
    """Add the use of a constant by one reader to those that make it a site, or to the others."""
    graph = reads.graph
    node = graph.node[reader.index]
    shape = tuple(candidate.tensor.dims)
    through = _through_transpose(reads, reader, shape)
    if through:
        candidate.uses += through
        return
    need = classify(node, reader.position, shape)
    if isinstance(need, Refusal):
        same = View(shape, tuple(range(len(shape))))
        role = node.op_type.lower()
        candidate.excuses.append(need.reason)
        candidate.other_uses.append(Use(graph, reader.index, reader.position, role, UseKind.DENSE, same))
    else:
        kind = reads.kind_of(need.kind, node)
        candidate.uses.append(Use(graph, reader.index, reader.position, need.role, kind, need.view))


def _through_transpose(reads: _GraphReads, reader: _InputPlace, shape: tuple[int, ...]) -> list[Use]:
    """MatMuls that read a 2-D weight through a Transpose of its own: exporters write [N, K] weights so."""
    graph = reads.graph
    node = graph.node[reader.index]
    if node.op_type != "Transpose" or reader.position != 0 or len(shape) != 2:
        return []
    if attribute(node, "perm", [1, 0]) != [1, 0]:
        return []
    uses = []
    for after in reads.readers.get(node.output[0], []):
        if after is _ELSEWHERE or after.position != 1:
            return []
        product = graph.node[after.index]
        if product.op_type != "MatMul" or not product.output:
            return []
        kind = reads.kind_of(UseKind.PRODUCT, product)
        uses.append(Use(graph, after.index, 1, "matmul", kind, View(shape, (0, 1)), via=reader.index))
    return uses
