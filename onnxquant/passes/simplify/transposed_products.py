"""Products with the transpose of a table as Gemms that read the table itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.passes.base import Pass, PassResult

_OPSET = 11  # starts and ends of Slice are inputs, Gemm needs no C


@dataclass(frozen=True)
class ReadTables(Pass):
    """Lets a product with the transpose of a table read the table, so that lookups and the product share its codes.

    1. A MatMul whose weight is the Transpose of a constant matrix that other nodes read, too, becomes a Gemm with transB.
       Rows become one axis around it.

           Gather(E), MatMul(x, Transpose(E))   ->   Gather(E), Reshape(Gemm(Reshape(x), E))
    """

    name = "read-tables"
    summary = "makes Gemms of products with the transpose of a table"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        if document.opset < _OPSET:
            return PassResult()
        editor = GraphEditor(document.proto.graph)
        transposes = [node for node in editor.nodes if _is_tied(editor, node)]
        for node in transposes:
            for product in editor.consumers(node.output[0]):
                _read_table(editor, product, node.input[0])
            editor.remove(node)
        editor.apply()
        count = len(transposes)
        return PassResult(True, (f"{count} tables are multiplied as they are stored",)) if count else PassResult()


def _is_tied(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Whether a node transposes a constant matrix that others read, too, and only products read the result."""
    if (
        not is_op(node, "Transpose")
        or attribute(node, "perm", [1, 0]) != [1, 0]
        or not editor.is_private(node.output[0])
    ):
        return False
    tensor, readers = editor.constant(node.input[0]), editor.consumers(node.output[0])
    if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2 or not readers:
        return False
    is_shared = any(not is_op(reader, "Transpose") for reader in editor.consumers(node.input[0]))
    return is_shared and all(is_op(r, "MatMul") and list(r.input).index(node.output[0]) == 1 for r in readers)


def _read_table(editor: GraphEditor, product: onnx.NodeProto, table: str) -> None:
    """Put a Gemm in the place of a product of any number of axes."""
    tensor = editor.constant(table)
    if tensor is None:
        return
    x, y = product.input[0], product.output[0]

    def name(label: str) -> str:
        return editor.names.fresh(f"{y}/{label}")

    def ints(label: str, *values: int) -> str:
        return editor.add_constant(f"{y}/{label}", np.array(values, np.int64))

    rows, products, shape = name("rows"), name("products"), name("shape")
    lengths = onnx.helper.make_node("Shape", [x], [name("lengths")], name=name("Shape"))
    leading = onnx.helper.make_node(
        "Slice", [lengths.output[0], ints("first", 0), ints("last", -1)], [name("leading")], name=name("Slice")
    )
    nodes = [
        onnx.helper.make_node("Reshape", [x, ints("matrix", -1, tensor.dims[1])], [rows], name=name("Flatten")),
        onnx.helper.make_node("Gemm", [rows, table], [products], name=product.name or name("Gemm"), transB=1),
        lengths,
        leading,
        onnx.helper.make_node(
            "Concat", [leading.output[0], ints("columns", tensor.dims[0])], [shape], name=name("Concat"), axis=0
        ),
        onnx.helper.make_node("Reshape", [products, shape], [y], name=name("Reshape")),
    ]
    editor.remove(product)
    editor.insert_before(product, nodes)
