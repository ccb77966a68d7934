"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxquant.modules.node import Node, microsoft, operator


@operator("MatMul")
def product(node: Node, x: Tensor, y: Tensor) -> Tensor:
    """Product of matrices."""
    return torch.matmul(x, y)


@operator("Gemm")
def general_product(node: Node, x: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
    """Product of two matrices, which may be transposed, and a sum."""
    x, y = (x.T if node.get("transA", 0) else x), (y.T if node.get("transB", 0) else y)
    result = _scaled(x @ y, node.get("alpha", 1.0))
    return result if z is None else result + _scaled(z, node.get("beta", 1.0))


@microsoft("FusedMatMul")
def fused_product(node: Node, x: Tensor, y: Tensor) -> Tensor:
    """Product of matrices that may be transposed, times a factor."""
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise node.refuse("a batch axis is transposed", "transBatchA and transBatchB of 0")
    x = x.mT if node.get("transA", 0) and x.dim() > 1 else x
    y = y.mT if node.get("transB", 0) and y.dim() > 1 else y
    return _scaled(torch.matmul(x, y), node.get("alpha", 1.0))


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else (x * factor).to(x.dtype)


@operator("Einsum")
def einsum(node: Node, *terms: Tensor) -> Tensor:
    """Sum of products by an equation."""
    return torch.einsum(node.get("equation", "").replace(" ", ""), *terms)
