"""MatMul and Gemm around a product op: transposes, alpha, beta and C are kept as nodes of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.node import attribute
from onnxquant.graph.sites import Site, Use

# product(x, output) -> nodes, the last of which makes the output.
Product = Callable[[str, str], list[onnx.NodeProto]]


def lower_product(editor: ModelEditor, site: Site, use: Use, product: Product) -> None:
    """Replace a MatMul or Gemm by ``product`` and what is left of alpha, beta and C."""
    node = use.node
    x, output = node.input[0], node.output[0]
    if node.op_type == "MatMul":
        editor.replace(use, product(x, output))
        return
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    c = node.input[2] if len(node.input) > 2 else ""
    tail: list[tuple[str, str]] = []
    if alpha != 1.0:
        tail.append(("Mul", editor.constant(use.graph, f"{site.name}/alpha", _scalar(alpha, site))))
    if c:
        if beta != 1.0:
            scaled = editor.node(site, "Mul", [c, editor.constant(use.graph, f"{site.name}/beta", _scalar(beta, site))])
            editor.before(use, [scaled])
            c = scaled.output[0]
        tail.append(("Add", c))
    nodes = product(x, editor.name(f"{output}/product") if tail else output)
    for i, (op, operand) in enumerate(tail):
        last = i == len(tail) - 1
        nodes.append(editor.node(site, op, [nodes[-1].output[0], operand], output=output if last else ""))
    editor.replace(use, nodes)


def constant_bias(use: Use, site: Site) -> str:
    """Name of a Gemm's C where it is a plain bias, one constant per channel, that a kernel can add; else empty."""
    node = use.node
    if node.op_type != "Gemm" or len(node.input) < 3 or attribute(node, "alpha", 1.0) != 1.0:
        return ""
    fits = [
        t
        for t in use.graph.initializer
        if t.name == node.input[2] and list(t.dims) == [site.rows] and t.data_type == site.tensor.data_type
    ]
    return str(node.input[2]) if fits and attribute(node, "beta", 1.0) == 1.0 else ""


def _scalar(value: float, site: Site) -> np.generic:
    scalar: np.generic = np.dtype(site.dtype).type(value)
    return scalar
