"""Tensors out of numbers: constants, ranges, draws."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor

from onnxquant.modules.node import Node, operator
from onnxquant.modules.numbers import axis_of, integers
from onnxquant.modules.types import torch_type


@operator("ConstantOfShape", numbers=(0,))
def constant_of_shape(node: Node, sizes: Tensor) -> Tensor:
    """One value everywhere."""
    tensor = node.attributes.get("value")
    if tensor is None:
        return torch.zeros(integers(sizes))
    value = np.array(onnx.numpy_helper.to_array(tensor))
    return torch.from_numpy(value).reshape(()).expand(integers(sizes)).clone()


@operator("Range", numbers=(0, 1, 2))
def arithmetic_range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers from a first one on, below a limit."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("EyeLike")
def eye_like(node: Node, x: Tensor) -> Tensor:
    """Ones on a diagonal of a matrix."""
    dtype = torch_type(node.get("dtype", 0), node) if "dtype" in node.attributes else x.dtype
    offset = node.get("k", 0)
    rows, columns = (torch.arange(length) for length in x.shape)
    return (columns - offset == rows.reshape(-1, 1)).to(dtype)


@operator("OneHot", numbers=(0, 1))
def one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """One value where the index along a new axis is that of the input, another elsewhere."""
    count = int(depth.item())
    axis = axis_of(node, -1, indices.dim() + 1)
    places = indices.long().unsqueeze(axis)
    classes = torch.arange(count).reshape(-1, *[1] * (indices.dim() - axis))
    is_hot = (torch.where(places < 0, places + count, places)) == classes
    return torch.where(is_hot, values[1], values[0])


@operator("RandomNormalLike", "RandomUniformLike")
def random_like(node: Node, x: Tensor) -> Tensor:
    """Draws in the shape of a tensor."""
    dtype = torch_type(node.get("dtype", 0), node) if "dtype" in node.attributes else x.dtype
    if node.op == "RandomNormalLike":
        return torch.randn(x.shape, dtype=dtype) * node.get("scale", 1.0) + node.get("mean", 0.0)
    low, high = node.get("low", 0.0), node.get("high", 1.0)
    return torch.rand(x.shape, dtype=dtype) * (high - low) + low
