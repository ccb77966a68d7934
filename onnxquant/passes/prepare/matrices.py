"""Einsums and stacks of products with a constant operand as products with one matrix, for which there are kernels."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from onnxquant.graph.computed import computation_key
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.shapes import UNKNOWN, Known, infer
from onnxquant.graph.sites import FLOATS, MIN_ELEMENTS
from onnxquant.passes.base import Pass, PassResult
from onnxquant.passes.prepare.squeeze import squeeze

_ELLIPSIS = "..."


@dataclass(frozen=True)
class MultiplyMatrices(Pass):
    """Makes a MatMul with one matrix of an Einsum, or of a MatMul with a stack of matrices, whose weight is constant.

    1. An Einsum of two operands, no axis of which all three terms share, sums over the axes that its operands share.

           Einsum("bsd,dhk->bshk", x, W)   ->   Reshape(MatMul(x, W'))   with W'[d, hk]

    2. A MatMul with a stack multiplies one matrix with each, where its other operand has length one along the stack.

           MatMul(x[b, 1, s, k], W[h, k, n])   ->   Transpose(Reshape(MatMul(Squeeze(x), W')))   with W'[k, hn]

    3. Transposes stand where the order of axes asks for them; lengths that vary stay so.
    4. All readers of a weight take the same matrix, or it stays.
    """

    name = "multiply-matrices"
    summary = "makes products with a matrix of Einsums and of products with a stack of matrices"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        known: dict[str, Known] | None = None
        count = 0
        for editor in graph_editors(document):
            for tensor in [tensor for tensor in editor.graph.initializer if _is_candidate(editor, tensor)]:
                known = infer(document) if known is None else known
                readers = editor.consumers(tensor.name)
                products = [p for node in readers if (p := _product(node, tensor, known)) is not None]
                if len(products) == len(readers) and len({product.matrix for product in products}) == 1:
                    _make_matrix(document, tensor, products[0].matrix)
                    for node, product in zip(readers, products, strict=True):
                        _replace(editor, node, tensor.name, product, document.opset)
                    count += len(readers)
            editor.apply()
        note = f"{count} Einsums and products with stacks multiply matrices"
        return PassResult(True, (note,)) if count else PassResult()


@dataclass(frozen=True)
class _Matrix:
    """A constant as a matrix.

    Attributes:
        order: axes of the constant, those that are summed over first.
        rows, columns: lengths of the matrix.
    """

    order: tuple[int, ...]
    rows: int
    columns: int


@dataclass(frozen=True)
class _Product:
    """A product with one matrix, and what happens before and after it.

    Attributes:
        operand: index of the input that is no constant.
        matrix: the constant as a matrix.
        dropped: axes of length one that the operand loses.
        order: order of the operand's axes, those that are summed over last.
        summed: number of the axes that are summed over.
        lengths: lengths of the axes that the matrix gives.
        result: order of the axes of the product that is the order of the output's.
    """

    operand: int
    matrix: _Matrix
    order: tuple[int, ...]
    summed: int
    lengths: tuple[int, ...]
    result: tuple[int, ...]
    dropped: tuple[int, ...] = ()

    @property
    def free(self) -> int:
        """Number of the operand's axes that the output has, too."""
        return len(self.order) - self.summed


def _is_candidate(editor: GraphEditor, tensor: onnx.TensorProto) -> bool:
    """Whether a constant is a weight that Einsums, or products with a stack, alone read."""
    dims, name = tensor.dims, tensor.name
    if len(dims) < 2 or tensor.data_type not in FLOATS or prod(dims) < MIN_ELEMENTS:
        return False
    if computation_key(tensor) is not None or name in editor.inputs or not editor.is_private(name):
        return False
    readers = editor.consumers(name)
    return bool(readers) and all(_is_einsum(node, name) or _has_stack(node, tensor) for node in readers)


def _is_einsum(node: onnx.NodeProto, name: str) -> bool:
    return is_op(node, "Einsum") and len(node.input) == 2 and list(node.input).count(name) == 1


def _has_stack(node: onnx.NodeProto, tensor: onnx.TensorProto) -> bool:
    is_product = is_op(node, "MatMul") and node.input[1] == tensor.name != node.input[0]
    return is_product and prod(tensor.dims[:-2]) > 1


def _product(node: onnx.NodeProto, weight: onnx.TensorProto, known: Mapping[str, Known]) -> _Product | None:
    """The product with a matrix that a reader of a weight is; None where it is none."""
    operand, dims = 1 - list(node.input).index(weight.name), weight.dims
    shape = known.get(node.input[operand], UNKNOWN).shape
    if shape is None:
        return None
    if is_op(node, "MatMul"):
        return _of_stack(shape, dims)
    terms = _terms(attribute(node, "equation", b""), operand, len(shape), len(dims))
    return None if terms is None else _of_terms(operand, *terms, dims)


def _terms(equation: bytes | str, operand: int, rank: int, weight_rank: int) -> tuple[str, str, str] | None:
    """A letter for each axis of the operand, the weight and the output; None where the terms are not so plain.

    An ellipsis of the operand and the output becomes capital letters that the equation does not have.
    """
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    inputs, arrow, output = text.partition("->")
    terms = inputs.split(",")
    if len(terms) != 2:
        return None
    x, weight = terms[operand], terms[1 - operand]
    if not arrow:
        once = sorted(c for c in inputs if c.isalpha() and inputs.count(c) == 1)
        output = "".join([_ELLIPSIS if _ELLIPSIS in inputs else "", *once])
    if _ELLIPSIS in x:
        spare = [c for c in string.ascii_uppercase if c not in text][: max(0, rank - len(x) + len(_ELLIPSIS))]
        x, output = (term.replace(_ELLIPSIS, "".join(spare)) for term in (x, output))
    is_plain = all(term.isalpha() and len(set(term)) == len(term) for term in (x, weight, output))
    return (x, weight, output) if is_plain and (len(x), len(weight)) == (rank, weight_rank) else None


def _of_terms(operand: int, x: str, weight: str, output: str, dims: Sequence[int]) -> _Product | None:
    """The product of an equation's terms; None where an axis is in all three, or summed over in one."""
    summed = [c for c in x if c in weight]
    free, columns = [c for c in x if c not in weight], [c for c in output if c in weight]
    if not (summed and free and columns) or set(output) != set(free) | set(columns) or set(summed) & set(output):
        return None
    if len(summed) + len(columns) != len(weight):
        return None
    if [*free, *summed] != list(x):
        free.sort(key=output.index)
    lengths = tuple(dims[weight.index(c)] for c in columns)
    order = tuple(weight.index(c) for c in (*summed, *columns))
    matrix = _Matrix(order, prod(dims[weight.index(c)] for c in summed), prod(lengths))
    axes, before = [*free, *columns], tuple(x.index(c) for c in (*free, *summed))
    return _Product(operand, matrix, before, len(summed), lengths, tuple(map(axes.index, output)))


def _of_stack(shape: Sequence[int | None], dims: Sequence[int]) -> _Product | None:
    """The product of a MatMul with a stack; None where its other operand has more than one matrix along the stack."""
    rank, stack = len(shape), range(len(dims) - 2)
    if rank < 2:
        return None
    place = {axis: axis - len(dims) + rank for axis in stack}  # axis of the operand that an axis of the stack meets
    long = [axis for axis in stack if dims[axis] > 1]
    if any(place[axis] < 0 and dims[axis] == 1 for axis in stack):
        return None
    if any(place[axis] >= 0 and shape[place[axis]] != 1 for axis in long):
        return None
    dropped = tuple(place[axis] for axis in long if place[axis] >= 0)
    left = [axis for axis in range(rank) if axis not in dropped]
    before = max(0, len(dims) - rank)  # axes of the output that the operand lacks
    axes = [  # of the output, in the order in which the product has them
        *(axis + before for axis in left[:-1]),
        *(axis + max(0, rank - len(dims)) for axis in long),
        before + rank - 1,
    ]
    ones = [axis for axis in stack if dims[axis] == 1]
    matrix = _Matrix((len(dims) - 2, *ones, *long, len(dims) - 1), dims[-2], prod(dims) // dims[-2])
    lengths = (*(dims[axis] for axis in long), dims[-1])
    order = tuple(range(len(left)))
    return _Product(0, matrix, order, 1, lengths, tuple(int(i) for i in np.argsort(axes)), dropped)


def _make_matrix(document: Document, tensor: onnx.TensorProto, matrix: _Matrix) -> None:
    """Give a constant the values of its matrix; large ones that lie outside the graph stay outside."""
    values = np.ascontiguousarray(document.array(tensor).transpose(matrix.order)).reshape(matrix.rows, matrix.columns)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        tensor.dims[:] = values.shape
        document.spill(tensor, values)
    else:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _replace(editor: GraphEditor, node: onnx.NodeProto, weight: str, product: _Product, opset: int) -> None:
    """Put a MatMul, and what brings axes in order around it, in the place of a node."""
    output, nodes = node.output[0], list[onnx.NodeProto]()

    def add(op: str, inputs: Sequence[str], label: str, **attributes: Sequence[int]) -> str:
        name = node.name if op == "MatMul" and node.name else editor.names.fresh(f"{output}/{label}")
        step = onnx.helper.make_node(op, inputs, [editor.names.fresh(f"{output}/{label}")], name=name)
        step.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
        nodes.append(step)
        return str(step.output[0])

    def ints(label: str, values: Sequence[int]) -> str:
        return editor.add_constant(f"{output}/{label}", np.array(values, np.int64))

    value = node.input[product.operand]
    if product.dropped:
        nodes.append(squeeze(editor, value, product.dropped, output, opset))
        value = nodes[-1].output[0]
    if product.order != tuple(range(len(product.order))):
        value = add("Transpose", [value], "ordered", perm=product.order)
    if product.summed > 1:
        value = add("Reshape", [value, ints("rows", (*[0] * product.free, product.matrix.rows))], "joined")
    value = add("MatMul", [value, weight], "product")
    if len(product.lengths) > 1:
        value = add("Reshape", [value, ints("lengths", (*[0] * product.free, *product.lengths))], "parted")
    if product.result != tuple(range(len(product.result))):
        value = add("Transpose", [value], "transposed", perm=product.result)
    nodes[-1].output[0] = output
    editor.remove(node)
    editor.insert_before(node, nodes)
