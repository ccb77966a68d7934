"""Products with a bias as one Gemm."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.shapes import UNKNOWN, infer
from onnxquant.passes.base import Pass, PassResult

_BROADCASTS = 7  # opset in which Gemm broadcasts its C by itself


@dataclass(frozen=True)
class JoinBiases(Pass):
    """Makes one Gemm of a MatMul and the bias added to it, and gives each Gemm a C of one axis.

    onnxruntime does the same before it looks for integer kernels (MatMulAddFusion), and has none for a Gemm whose C is
    float: such a product would stay in float. As a Gemm from the start, it is placed, and its bias corrected, like any
    other.

    1. A MatMul of two axes with a constant matrix, and an Add of one constant per column that alone reads it, become a
       Gemm. Both constants are float32; the opset is 7 or newer; nested graphs stay as they are.

           Add(MatMul(x, W), c)   ->   Gemm(x, W, c)

    2. With more axes, of which at most one has an open length, rows become one axis around the Gemm. This happens only
       where the sum goes to another product with a constant matrix, perhaps through Relu or Clip: elsewhere floats follow.

           MatMul(Relu(Add(MatMul(x, W), c)), V)   ->   MatMul(Relu(Reshape(Gemm(Reshape(x), W, c))), V)

    3. A constant C of one value, or [1, N], of a Gemm becomes [N], the only shape that onnxruntime's integer Gemm takes.
    """

    name = "join-biases"
    summary = "makes one Gemm of a MatMul and the bias added to it"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        if document.opset < _BROADCASTS:
            return PassResult()
        editor = GraphEditor(document.proto.graph)
        candidates = [(n, add) for n in editor.nodes if (add := _bias_add(editor, n)) is not None]
        known = infer(document) if candidates else {}
        refusals: Counter[str] = Counter()
        for product, add in candidates:
            shape = known.get(product.input[0], UNKNOWN).shape
            if shape is not None and len(shape) == 2:
                _join(editor, product, add)
            elif (rows := _Rows.of(editor, product, add, shape)) is not None:
                rows.join(editor)
            else:
                refusals["not proven to be a product of matrices"] += 1
        count = len(candidates) - refusals.total()
        widened = sum(_widen_bias(document, editor, node) for node in list(editor.nodes) if is_op(node, "Gemm"))
        editor.apply()
        notes = [f"biases: {count} added to a MatMul became part of a Gemm"] if count else []
        if widened:
            notes.append(f"biases: {widened} of a Gemm written as one constant per column")
        return PassResult(bool(notes), tuple(notes), refusals)


def _bias_add(editor: GraphEditor, product: onnx.NodeProto) -> onnx.NodeProto | None:
    """The Add of one constant per column that alone reads a product with a constant matrix."""
    if not is_op(product, "MatMul"):
        return None
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


def _clamps_to_product(editor: GraphEditor, add: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """The clamps between a sum and the product with a constant matrix that alone reads it; None: something else reads it."""
    clamps: list[onnx.NodeProto] = []
    reader = editor.single_consumer(add.output[0])
    while reader is not None and is_op(reader, "Relu", "Clip"):
        clamps.append(reader)
        reader = editor.single_consumer(reader.output[0])
    is_product = reader is not None and is_op(reader, "MatMul") and editor.constant(reader.input[1]) is not None
    return clamps if is_product else None


def _join(editor: GraphEditor, product: onnx.NodeProto, add: onnx.NodeProto) -> None:
    bias = next(name for name in add.input if name != product.output[0])
    product.op_type = "Gemm"
    editor.connect(product, 2, bias)
    editor.bypass(add, product.output[0])


@dataclass(frozen=True)
class _Rows:
    """A product of more than two axes that becomes a Gemm.

    Attributes:
        product: the MatMul.
        add: the Add of its bias.
        clamps: the clamps behind it.
        lengths: lengths of the product's output, -1 for the open one.
        contracted: length of the axis that is summed over.
    """

    product: onnx.NodeProto
    add: onnx.NodeProto
    clamps: list[onnx.NodeProto]
    lengths: list[int]
    contracted: int

    @classmethod
    def of(
        cls, editor: GraphEditor, product: onnx.NodeProto, add: onnx.NodeProto, shape: tuple[int | None, ...] | None
    ) -> Self | None:
        """The product with its surroundings; None where rows need not or cannot become one axis."""
        clamps, weight = _clamps_to_product(editor, add), editor.constant(product.input[1])
        if shape is None or len(shape) < 3 or shape.count(None) > 1 or clamps is None or weight is None:
            return None
        lengths = [-1 if length is None else length for length in shape[:-1]]
        return cls(product, add, clamps, [*lengths, weight.dims[1]], weight.dims[0]) if 0 not in lengths else None

    def join(self, editor: GraphEditor) -> None:
        """Make the Gemm, between a Reshape before it and one behind its clamps."""
        _join(editor, self.product, self.add)
        x, y = self.product.input[0], self.product.output[0]
        rows = editor.names.fresh(f"{y}/rows_before")
        editor.insert_before(self.product, [_reshape(editor, x, [-1, self.contracted], rows)])
        editor.connect(self.product, 0, rows)
        # Tensors get new names: files state the shapes that those of the old names have.
        chain = [self.product, *self.clamps]
        for node, reader in zip(chain, [*self.clamps, None], strict=True):
            name = node.output[0]
            editor.rename_output(node, name, renamed := editor.names.fresh(f"{name}/rows"))
            if reader is not None:
                editor.connect(reader, 0, renamed)
            else:
                editor.insert_after(node, [_reshape(editor, renamed, self.lengths, name)])


def _reshape(editor: GraphEditor, x: str, shape: list[int], output: str) -> onnx.NodeProto:
    constant = editor.add_constant(f"{output}/shape", np.array(shape, np.int64))
    return onnx.helper.make_node("Reshape", [x, constant], [output], name=editor.names.fresh(f"{output}/Reshape"))


def _widen_bias(document: Document, editor: GraphEditor, gemm: onnx.NodeProto) -> bool:
    """Give a Gemm one constant per column as C where one value, or an axis more, says the same."""
    bias = editor.constant(gemm.input[2]) if len(gemm.input) > 2 and gemm.input[2] else None
    weight = editor.constant(gemm.input[1])
    if bias is None or weight is None or len(weight.dims) != 2:
        return False
    columns = weight.dims[0 if attribute(gemm, "transB", 0) else 1]
    dims = list(bias.dims)
    if dims == [columns] or (dims != [1, columns] and any(n != 1 for n in dims)):
        return False
    values = document.array(bias).reshape(-1)
    editor.set_constant(gemm, 2, np.ascontiguousarray(np.broadcast_to(values, (columns,))))
    return True
