"""Sites: where constant weights are consumed, and how each is seen as a matrix [rows, cols]."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.io import Document, nbytes
from onnxquant.graph.traverse import names_read, subgraphs

FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.DOUBLE: "float64",
}
MIN_ELEMENTS = 256


class How(Enum):
    """What a use needs from a weight."""

    PRODUCT = "product"  # X @ W: a kernel may decode it block by block
    LOOKUP = "lookup"  # rows of W by index
    DENSE = "dense"  # the whole tensor, decoded ahead of the op and folded when a session is created


@dataclass(frozen=True)
class View:
    """A tensor seen as a matrix: transpose by ``perm``, then join the first ``split`` axes and the rest.

    >>> View((64, 3, 3, 3), (0, 1, 2, 3), 1).rows
    64
    """

    shape: tuple[int, ...]
    perm: tuple[int, ...]
    split: int = 1

    @property
    def permuted(self) -> tuple[int, ...]:
        """Shape after the transpose."""
        return tuple(self.shape[p] for p in self.perm)

    @property
    def rows(self) -> int:
        """Output channels."""
        return prod(self.permuted[: self.split])

    @property
    def cols(self) -> int:
        """Contracted channels."""
        return prod(self.permuted[self.split :])

    @property
    def inverse(self) -> tuple[int, ...]:
        """The permutation that undoes ``perm``."""
        return tuple(int(i) for i in np.argsort(self.perm))

    def matrix(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """The tensor as [rows, cols]; a view where numpy can."""
        return tensor.transpose(self.perm).reshape(self.rows, self.cols)

    def restore(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """The tensor that a matrix [rows, cols] stands for."""
        return matrix.reshape(self.permuted).transpose(self.inverse)

    def row_vector(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value per row ([rows, 1]) shaped so that it broadcasts against the tensor."""
        leading = self.permuted[: self.split]
        return values.reshape(leading + (1,) * (len(self.shape) - self.split)).transpose(self.inverse)


@dataclass(frozen=True)
class Use:
    """One consumer of a weight.

    Attributes:
        graph: the graph that the node is in.
        index: its place there.
        input: which of its inputs is the weight.
        role: the field's name for it: matmul, gemm, conv, gather, recurrent ...
        how: what the node needs.
        view: the matrix it sees.
        via: place of a Transpose between weight and node, to be dropped with it.
    """

    graph: onnx.GraphProto
    index: int
    input: int
    role: str
    how: How
    view: View
    via: int | None = None

    @property
    def node(self) -> onnx.NodeProto:
        """The consuming node."""
        node: onnx.NodeProto = self.graph.node[self.index]
        return node


@dataclass
class Site:
    """A constant weight with everything that consumes it."""

    name: str
    graph: onnx.GraphProto
    tensor: onnx.TensorProto
    uses: list[Use] = field(default_factory=list)

    @property
    def view(self) -> View:
        """The canonical view: that of the use that gains most from codes in its own order."""
        order = list(How)
        return min(self.uses, key=lambda use: order.index(use.how)).view

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
        """Bytes of the original weight."""
        return nbytes(self.tensor)

    @property
    def role(self) -> str:
        """Roles of the uses, most telling first."""
        order = list(How)
        return "+".join(dict.fromkeys(u.role for u in sorted(self.uses, key=lambda u: order.index(u.how))))

    def folded(self) -> Site:
        """The same site with every use served by the decoded tensor."""
        return Site(self.name, self.graph, self.tensor, [replace(u, how=How.DENSE) for u in self.uses])

    @property
    def has_kernel(self) -> bool:
        """Whether some use can be served by a kernel that reads codes."""
        return bool(self.served(How.PRODUCT) or self.served(How.LOOKUP))

    def served(self, how: How) -> list[Use]:
        """Uses that can be served as ``how`` from the canonical view; DENSE takes all the others."""
        if how is How.DENSE:
            return [u for u in self.uses if not self._direct(u)]
        return [u for u in self.uses if u.how is how and self._direct(u)]

    def _direct(self, use: Use) -> bool:
        # Kernels compute in float32 or float16: other types are decoded ahead of the op.
        kernel = self.tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        return kernel and use.how is not How.DENSE and use.view == self.view


@dataclass(frozen=True)
class Left:
    """A constant that no site could be made of, and why."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    reason: str


@dataclass
class _Constant:
    graph: onnx.GraphProto
    tensor: onnx.TensorProto
    uses: list[Use] = field(default_factory=list)
    others: list[Use] = field(default_factory=list)  # consumers that are no site, served only beside real ones
    reasons: list[str] = field(default_factory=list)
    excuses: list[str] = field(default_factory=list)  # why the others are no site


def find(document: Document) -> tuple[list[Site], list[Left]]:
    """Every constant float weight of a model: as a site, or left alone with the reason."""
    constants: list[_Constant] = []
    _walk(document.proto.graph, {}, constants, document.proto.ir_version)
    sites: list[Site] = []
    left: list[Left] = []
    seen: set[str] = set()
    for constant in constants:
        tensor = constant.tensor
        name, copies = tensor.name, 1
        while name in seen:  # graphs beside each other may use one name twice
            copies += 1
            name = f"{constant.graph.name}/{tensor.name}" + (f"#{copies}" if copies > 2 else "")
        seen.add(name)
        reason = _reason(constant)
        if reason is None:
            sites.append(Site(name, constant.graph, tensor, constant.uses + constant.others))
        else:
            left.append(Left(name, tuple(tensor.dims), FLOATS[tensor.data_type], nbytes(tensor), reason))
    return sites, left


def _reason(constant: _Constant) -> str | None:
    elements = prod(constant.tensor.dims)
    if constant.reasons:
        return constant.reasons[0]
    if len(constant.tensor.dims) < 2:
        return "a vector or scalar (bias, norm, scale): too small to gain, too sensitive to lose"
    if elements < MIN_ELEMENTS:
        return f"only {elements} elements, fewer than {MIN_ELEMENTS}"
    if constant.uses:
        return None
    return constant.excuses[0] if constant.excuses else "nothing consumes it"


def _walk(graph: onnx.GraphProto, outer: dict[str, _Constant], found: list[_Constant], ir_version: int) -> None:
    names = dict(outer)
    for name in [i.name for i in graph.input] + [o for n in graph.node for o in n.output]:
        names.pop(name, None)
    inputs = {i.name for i in graph.input}
    outputs = {o.name for o in graph.output}
    for tensor in graph.initializer:
        if tensor.data_type not in FLOATS:
            names.pop(tensor.name, None)
            continue
        constant = _Constant(graph, tensor)
        if tensor.name in inputs and ir_version >= 4:
            constant.reasons.append("is also a graph input: a caller may override it")
        if tensor.name in outputs:
            constant.reasons.append("is a graph output")
        names[tensor.name] = constant
        found.append(constant)
    found += [
        _Constant(graph, s.values, reasons=["is stored sparse already"])
        for s in graph.sparse_initializer
        if s.values.data_type in FLOATS
    ]
    readers = _readers(graph)
    for index, node in enumerate(graph.node):
        for position, name in enumerate(node.input):
            if name in names:
                _add(names[name], graph, index, position, readers)
        for inner in subgraphs(node):
            _walk(inner, names, found, ir_version)
            for output in inner.output:
                if output.name in names:
                    names[output.name].reasons.append("is the output of a nested graph")


def _readers(graph: onnx.GraphProto) -> dict[str, list[tuple[int, int]]]:
    """Who reads each tensor in this graph; names that nested graphs or outputs read too map to an extra (-1, -1)."""
    readers: dict[str, list[tuple[int, int]]] = {}
    for index, node in enumerate(graph.node):
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((index, position))
        for inner in subgraphs(node):
            for name in names_read(inner):
                readers.setdefault(name, []).append((-1, -1))
    for output in graph.output:
        readers.setdefault(output.name, []).append((-1, -1))
    return readers


def _add(
    constant: _Constant,
    graph: onnx.GraphProto,
    index: int,
    position: int,
    readers: dict[str, list[tuple[int, int]]],
) -> None:
    node = graph.node[index]
    shape = tuple(constant.tensor.dims)
    through = _through_transpose(graph, index, position, shape, readers)
    if through:
        constant.uses += through
        return
    found = classify(node, position, shape)
    if isinstance(found, str):
        same = tuple(range(len(shape)))
        constant.excuses.append(found)
        constant.others.append(Use(graph, index, position, node.op_type.lower(), How.DENSE, View(shape, same)))
    else:
        role, how, view = found
        constant.uses.append(Use(graph, index, position, role, how, view))


def _through_transpose(
    graph: onnx.GraphProto,
    index: int,
    position: int,
    shape: tuple[int, ...],
    readers: dict[str, list[tuple[int, int]]],
) -> list[Use]:
    """MatMuls that read a 2-D weight through a Transpose of its own: exporters write [N, K] weights so."""
    node = graph.node[index]
    if node.op_type != "Transpose" or position != 0 or len(shape) != 2 or list(_ints(node, "perm", [1, 0])) != [1, 0]:
        return []
    uses = []
    for reader, at in readers.get(node.output[0], []):
        if reader < 0 or graph.node[reader].op_type != "MatMul" or at != 1 or not graph.node[reader].output:
            return []
        uses.append(Use(graph, reader, at, "matmul", How.PRODUCT, View(shape, (0, 1)), via=index))
    return uses


# Ops that only move values: a weight under them is decoded ahead and everything up to the real op folds.
_MOVES = {"Slice", "Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "Identity", "Gather", "Flatten"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
_DENSE_CONTRIB = {"FusedConv", "FusedMatMul", "FusedGemm", "Attention"}


def classify(node: onnx.NodeProto, position: int, shape: tuple[int, ...]) -> tuple[str, How, View] | str:
    """Role, need and view of a weight of this shape at this input; or the reason why it is no site."""
    op, rank = node.op_type, len(shape)
    same = tuple(range(rank))
    if rank < 2:
        return "a vector or scalar (bias, norm, scale): too small to gain, too sensitive to lose"
    if 0 in shape:
        return "has no elements"
    if not node.output:
        return f"input {position} of {op}, which makes no output"
    if node.domain in ("", "ai.onnx"):
        if op == "MatMul":
            swapped = (*same[:-2], rank - 1, rank - 2)
            if position == 1 and rank == 2:
                return "matmul", How.PRODUCT, View(shape, swapped)
            return "matmul", How.DENSE, View(shape, swapped if position == 1 else same, rank - 1)
        if op == "Gemm" and position < 2:
            transposed = _int(node, "transA" if position == 0 else "transB", 0)
            rows_first = bool(transposed) == (position == 1)
            view = View(shape, (0, 1) if rows_first else (1, 0))
            product = position == 1 and not _int(node, "transA", 0)
            return "gemm", How.PRODUCT if product else How.DENSE, view
        if op == "Conv" and position == 1:
            return "conv", How.DENSE, View(shape, same)
        if op == "ConvTranspose" and position == 1:
            # [in, out / groups, ...]: with one group the output channels are a clean axis.
            perm = (1, 0, *same[2:]) if _int(node, "group", 1) == 1 else same
            return "conv_transpose", How.DENSE, View(shape, perm)
        if op == "Gather" and position == 0 and rank == 2 and _int(node, "axis", 0) == 0:
            return "gather", How.LOOKUP, View(shape, same)
        if op in _RECURRENT and position in (1, 2):
            return "recurrent", How.DENSE, View(shape, same, 2)
        if op == "Einsum" or (op in _MOVES and position == 0) or op == "Concat":
            return op.lower(), How.DENSE, View(shape, same, rank - 1 if rank < 4 else 1)
    elif node.domain == "com.microsoft" and op in _DENSE_CONTRIB and position == 1:
        return op.lower(), How.DENSE, View(shape, same)
    return f"input {position} of {node.domain + '.' if node.domain else ''}{op}, which is not a site"


def _int(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _ints(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), default)
