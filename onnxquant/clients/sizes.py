"""Sizes of products and convolutions, by which integers are faster or slower than floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx

from onnxquant.graph.node import attribute

Shapes = Mapping[str, tuple[int | None, ...] | None]
_PRODUCTS = ("MatMul", "DynamicQuantizeMatMul")


@dataclass(frozen=True)
class Size:
    """The size of a product or a convolution.

    Attributes:
        inputs: number of products that each output is the sum of.
        outputs: outputs of a row.
        rows: rows that meet the weight in one call; None: the model does not say it.
    """

    inputs: int
    outputs: int
    rows: int | None = None


def size_of(node: onnx.NodeProto, activations: Shapes, weights: Shapes) -> Size | None:
    """The size of a node; None where it is neither a product nor a convolution, or its weight's shape is not known.

    Args:
        node: the node.
        activations: shapes of tensors, for the first input.
        weights: shapes of tensors, for the second input.
    """
    if len(node.input) < 2:
        return None
    weight, x = weights.get(node.input[1]), activations.get(node.input[0])
    if weight is None or None in weight:
        return None
    dims = [length for length in weight if length is not None]
    if node.op_type == "Conv" and len(dims) > 2:
        return Size(prod(dims[1:]), dims[0])
    if node.op_type == "Gemm" and len(dims) == 2:
        inputs, outputs = reversed(dims) if attribute(node, "transB", 0) else dims
        lengths = None if x is None or len(x) != 2 else x[1:] if attribute(node, "transA", 0) else x[:1]
        return Size(inputs, outputs, _product(lengths))
    if node.op_type in _PRODUCTS and len(dims) == 2:
        return Size(dims[0], dims[1], _product(None if x is None else x[:-1]))
    return None


def _product(lengths: tuple[int | None, ...] | None) -> int | None:
    """The product of lengths; None where one is not known."""
    known = [length for length in lengths or () if length is not None]
    return prod(known) if lengths is not None and len(known) == len(lengths) else None
