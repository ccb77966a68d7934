"""Constants that are the transpose of another one, as which exporters write a table tied to the last product."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from onnxquant.graph.computed import computation_key
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.sites import FLOATS, MIN_ELEMENTS
from onnxquant.graph.traverse import replace_field
from onnxquant.passes.base import Pass, PassResult


@dataclass(frozen=True)
class ShareTransposes(Pass):
    """Stores a weight once that a graph holds twice, as it is and transposed.

    1. The weight of a product that is the transpose of a table, or of the weight of a Gemm with transB, is read through a
       Transpose; a Gemm reads it with transB.

           Gather(E), MatMul(x, E')   ->   Gather(E), MatMul(x, Transpose(E))   with E' = Transpose(E)

    2. So is the transpose that a nested graph holds of a weight of the graphs around it.
    3. Inputs, outputs, and what nested graphs read stay, and what nodes compute at load.
    """

    name = "share-transposes"
    summary = "stores a weight once that is there a second time as its transpose"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        shared = 0
        for editor in graph_editors(document):
            pairs = list(_pairs(document, editor))
            for rows_first, other in pairs:
                _read_transposed(editor, rows_first.name, other.name)
            if pairs:
                editor.apply()
            shared += len(pairs)
        return PassResult(True, (f"{shared} transposes of weights are stored once",)) if shared else PassResult()


@dataclass(frozen=True)
class ReadTransposes(Pass):
    """Lets a Gemm read a constant matrix itself in the place of its transpose.

    1. The attribute transB says then what the Transpose did.

           Gemm(x, Transpose(W))   ->   Gemm(x, W, transB=1)

    2. A MatMul has no such attribute: its Transpose goes with the weight when that is encoded.
    """

    name = "read-transposes"
    summary = "lets Gemms read a constant matrix in the place of its transpose"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        count = 0
        for editor in graph_editors(document):
            for node in [node for node in editor.nodes if is_op(node, "Gemm")]:
                maker = editor.producer(node.input[1])
                if maker is not None and _transposes_constant(editor, maker):
                    editor.connect(node, 1, maker.input[0])
                    _set_transb(node, 1 - attribute(node, "transB", 0))
                    count += 1
                    if not editor.is_read(maker.output[0]):
                        editor.remove(maker)
            editor.apply()
        return PassResult(True, (f"{count} Gemms read a weight as it is stored",)) if count else PassResult()


def _transposes_constant(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Whether a node transposes a constant matrix."""
    tensor = editor.constant(node.input[0]) if is_op(node, "Transpose") else None
    return tensor is not None and len(tensor.dims) == 2 and list(attribute(node, "perm", [1, 0])) == [1, 0]


def _set_transb(node: onnx.NodeProto, value: int) -> None:
    others = [a for a in node.attribute if a.name != "transB"]
    replace_field(node.attribute, [*others, onnx.helper.make_attribute("transB", value)])


def _pairs(document: Document, editor: GraphEditor) -> Iterator[tuple[onnx.TensorProto, onnx.TensorProto]]:
    """Weights that are read row by row, each with its transpose, which only products read."""
    alike: dict[tuple[int, int, int], list[onnx.TensorProto]] = defaultdict(list)
    for tensor in editor.graph.initializer:
        if _is_plain(editor, tensor) and all(
            _reads_columns(node, tensor.name) for node in editor.consumers(tensor.name)
        ):
            alike[tensor.data_type, tensor.dims[1], tensor.dims[0]].append(tensor)
    for tensor in _rows_first(editor) if alike else ():
        dims = tuple(tensor.dims)
        if len(dims) != 2 or not alike.get((tensor.data_type, *dims)):
            continue
        others = alike[tensor.data_type, dims[0], dims[1]]
        for other in [o for o in others if _is_transpose(document, tensor, o)]:
            others.remove(other)
            yield tensor, other


def _rows_first(editor: GraphEditor) -> Iterator[onnx.TensorProto]:
    """Constants of a graph, and those that it sees of the graphs around it, which their own graph reads row by row."""
    holder: GraphEditor | None = editor
    while holder is not None:
        for tensor in holder.graph.initializer:
            readers = holder.consumers(tensor.name)
            if editor.constant(tensor.name) is tensor and all(_reads_rows(node, tensor.name) for node in readers):
                yield tensor
        holder = holder.outer


def _is_plain(editor: GraphEditor, tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is a weight that nodes of this graph alone read."""
    is_weight = tensor.data_type in FLOATS and len(tensor.dims) == 2 and prod(tensor.dims) >= MIN_ELEMENTS
    is_free = tensor.name not in editor.inputs and editor.is_private(tensor.name) and computation_key(tensor) is None
    return is_weight and is_free and bool(editor.consumers(tensor.name))


def _reads_columns(node: onnx.NodeProto, name: str) -> bool:
    """Whether a node multiplies with [K, N] here, and does nothing else with it."""
    is_product = is_op(node, "MatMul") or (is_op(node, "Gemm") and not attribute(node, "transB", 0))
    return is_product and list(node.input).count(name) == 1 and node.input[1] == name


def _reads_rows(node: onnx.NodeProto, name: str) -> bool:
    """Whether a node looks rows up, or multiplies with their transpose."""
    if is_op(node, "Gemm"):
        return bool(attribute(node, "transB", 0)) and list(node.input).index(name) == 1
    is_lookup = is_op(node, "Gather") and attribute(node, "axis", 0) == 0
    return node.input[0] == name and (
        is_lookup or (is_op(node, "Transpose") and attribute(node, "perm", [1, 0]) == [1, 0])
    )


def _is_transpose(document: Document, tensor: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    if computation_key(tensor) is not None:
        return False
    a, b = document.array(tensor), document.array(other)
    return bool(np.array_equal(a[0], b[:, 0]) and np.array_equal(a, b.T))


def _read_transposed(editor: GraphEditor, name: str, other: str) -> None:
    """Let the products that read a weight's transpose read the weight itself."""
    products = [node for node in editor.consumers(other) if is_op(node, "MatMul")]
    for gemm in editor.consumers(other):
        if is_op(gemm, "Gemm"):
            editor.connect(gemm, 1, name)
            _set_transb(gemm, 1)
    if not products:
        return
    transposed = editor.names.fresh(f"{name}/transposed")
    node = onnx.helper.make_node(
        "Transpose", [name], [transposed], name=editor.names.fresh(f"{name}/Transpose"), perm=[1, 0]
    )
    editor.insert_after(None, [node])
    for product in products:
        editor.connect(product, 1, transposed)
