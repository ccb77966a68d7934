"""Products with a bias as one Gemm."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op
from onnxquant.graph.shapes import UNKNOWN, infer
from onnxquant.passes.base import Pass, PassResult

_BROADCASTS = 7  # opset in which Gemm broadcasts its C by itself


@dataclass(frozen=True)
class JoinBiases(Pass):
    """Makes one Gemm of a MatMul of matrices and the bias added to it.

    onnxruntime does the same before it looks for integer kernels (MatMulAddFusion), and has none for a Gemm whose C is
    float: such a product would stay in float. As a Gemm from the start, it is placed, and its bias corrected, like any
    other.

    1. A MatMul of two axes with a constant matrix, and an Add of one constant per column that alone reads it, become a
       Gemm. Both constants are float32; the opset is 7 or newer; nested graphs stay as they are.

           Add(MatMul(x, W), c)   ->   Gemm(x, W, c)
    """

    name = "join-biases"
    summary = "makes one Gemm of a MatMul of matrices and the bias added to it"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        editor = GraphEditor(document.proto.graph)
        if document.opset < _BROADCASTS:
            return PassResult()
        candidates = [
            (n, add) for n in editor.nodes if is_op(n, "MatMul") and (add := _bias_add(editor, n)) is not None
        ]
        if not candidates:
            return PassResult()
        known = infer(document)
        refusals: Counter[str] = Counter()
        for product, add in candidates:
            if known.get(product.input[0], UNKNOWN).rank != 2:
                refusals["not proven to be a product of matrices"] += 1
                continue
            bias = next(name for name in add.input if name != product.output[0])
            product.op_type = "Gemm"
            editor.connect(product, 2, bias)
            editor.bypass(add, product.output[0])
        editor.apply()
        count = len(candidates) - refusals.total()
        notes = (f"biases: {count} added to a MatMul became part of a Gemm",) if count else ()
        return PassResult(bool(count), notes, refusals)


def _bias_add(editor: GraphEditor, product: onnx.NodeProto) -> onnx.NodeProto | None:
    """The Add of one constant per column that alone reads a product with a constant matrix."""
    weight = editor.constant(product.input[1])
    add = editor.single_consumer(product.output[0])
    if weight is None or len(weight.dims) != 2 or weight.data_type != onnx.TensorProto.FLOAT:
        return None
    if add is None or not is_op(add, "Add"):
        return None
    bias = editor.constant(next(name for name in add.input if name != product.output[0]))
    if bias is None or bias.data_type != weight.data_type:
        return None
    return add if list(bias.dims) in ([weight.dims[1]], [1, weight.dims[1]]) else None
