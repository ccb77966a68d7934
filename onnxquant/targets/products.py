"""Operators around a product or lookup: alpha, beta and C of a Gemm, and further axes of a table, are nodes of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.sites import Site, Use
from onnxquant.targets.node_builder import GraphNodes

Product = Callable[[GraphNodes, str, str], None]
"""Adds the nodes that compute a product, or look rows up: product(nodes, x, output)."""


def lower_product(editor: ModelEditor, site: Site, use: Use, product: Product) -> None:
    """Replace a MatMul or Gemm by a product, and by nodes for its alpha, beta and C."""
    node, nodes = use.node, GraphNodes(editor, site)
    x, output = node.input[0], node.output[0]
    tail = [] if node.op_type == "MatMul" else _after_product(editor, site, use)
    product(nodes, x, editor.name(f"{output}/product") if tail else output)
    for i, (op, operand) in enumerate(tail):
        nodes.op(op, nodes.nodes[-1].output[0], operand, output=output if i == len(tail) - 1 else "")
    editor.replace(use, nodes.nodes)


def lower_lookup(editor: ModelEditor, site: Site, use: Use, lookup: Product) -> None:
    """Replace a Gather by a lookup, whose rows get the axes that the table has behind the first one."""
    nodes = GraphNodes(editor, site)
    indices, output = use.node.input[1], use.node.output[0]
    if len(site.shape) == 2:
        lookup(nodes, indices, output)
    else:
        rows = editor.name(f"{output}/rows")
        lookup(nodes, indices, rows)
        shape = nodes.op("Concat", nodes.op("Shape", indices), nodes.ints(*site.shape[1:]), axis=0)
        nodes.op("Reshape", rows, shape, output=output)
    editor.replace(use, nodes.nodes)


def _after_product(editor: ModelEditor, site: Site, use: Use) -> list[tuple[str, str]]:
    """Operators and operands that a Gemm adds to its product: alpha, and C times beta."""
    node = use.node
    alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
    scalar, tail = np.dtype(site.dtype).type, []
    if alpha != 1.0:
        tail.append(("Mul", editor.constant(use.graph, f"{site.name}/alpha", scalar(alpha))))
    c = node.input[2] if len(node.input) > 2 else ""
    if c and beta != 1.0:
        scaled = GraphNodes(editor, site)
        c = scaled.op("Mul", c, editor.constant(use.graph, f"{site.name}/beta", scalar(beta)))
        editor.before(use, scaled.nodes)
    return [*tail, ("Add", c)] if c else tail


def constant_bias(use: Use, site: Site) -> str:
    """Name of a Gemm's C where a kernel can add it: one constant per channel, alpha and beta 1; else empty."""
    node = use.node
    if node.op_type != "Gemm" or len(node.input) < 3:
        return ""
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return ""
    shape, elem_type = [site.rows], site.tensor.data_type
    constants = (t for t in use.graph.initializer if list(t.dims) == shape and t.data_type == elem_type)
    return str(node.input[2]) if any(t.name == node.input[2] for t in constants) else ""


@dataclass(frozen=True)
class JoinedBias:
    """A bias that a kernel adds.

    Attributes:
        bias: the constant, one value per channel.
        output: the tensor with the sum.
    """

    bias: str
    output: str


def take_bias(editor: ModelEditor, use: Use, site: Site) -> JoinedBias | None:
    """Take over the bias of a product: a Gemm's C, or the constant of an Add behind a MatMul; that Add is removed.

    None where a kernel cannot add it: it is not one constant per channel, or the product is read elsewhere.
    """
    if use.node.op_type == "Gemm":
        bias = constant_bias(use, site)
        return JoinedBias(bias, use.node.output[0]) if bias else None
    graph_editor = editor.editor(use.graph)
    add = graph_editor.single_consumer(use.node.output[0])
    if add is None or not is_op(add, "Add"):
        return None
    bias = next(name for name in add.input if name != use.node.output[0])
    tensor = graph_editor.constant(bias)
    if tensor is None or list(tensor.dims) != [site.rows] or tensor.data_type != site.tensor.data_type:
        return None
    graph_editor.remove(add)
    return JoinedBias(bias, add.output[0])
