"""Shapes: reading them, and other arrangements of the same elements."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from onnxquant.modules.node import Node, Result, operator
from onnxquant.modules.numbers import axis_of, integers, integers_or


@operator("Shape")
def shape(node: Node, x: Tensor) -> Tensor:
    """The shape, or a part of it."""
    return torch.tensor(list(x.shape)[node.get("start", 0) : node.get("end", x.dim())], dtype=torch.int64)


@operator("Size")
def size(node: Node, x: Tensor) -> Tensor:
    """Number of elements."""
    return torch.tensor(x.numel())


@operator("Reshape", numbers=(1,))
def reshape(node: Node, x: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Another shape: 0 takes the length that the axis has, -1 what is left."""
    lengths = integers_or(node, "shape", sizes) or []
    if not node.get("allowzero", 0):
        lengths = [length or x.shape[axis] for axis, length in enumerate(lengths)]
    return x.reshape(lengths)


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    """Two axes: those before ``axis``, and the others."""
    axis = node.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    """Axes in another order."""
    return x.permute(node.get("perm", list(range(x.dim()))[::-1]))


@operator("Squeeze", numbers=(1,))
def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without axes of one element."""
    chosen = integers_or(node, "axes", axes)
    if chosen is None:
        return x.squeeze()
    if wrong := [axis for axis in chosen if x.shape[axis] != 1]:
        raise node.refuse(f"axis {wrong[0]} of {list(x.shape)} has more elements than one", "axes of one element")
    return x.squeeze(chosen)


@operator("Unsqueeze", numbers=(1,))
def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """With new axes of one element."""
    chosen = integers_or(node, "axes", axes) or []
    for axis in sorted(axis % (x.dim() + len(chosen)) for axis in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(node: Node, *parts: Tensor) -> Tensor:
    """Tensors behind each other along an axis."""
    return torch.cat(parts, node.get("axis", 0))


@operator("Split", numbers=(1,))
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> Result:
    """Parts along an axis: of sizes, or equal ones but for the last."""
    axis, count = axis_of(node, 0, x.dim()), len(node.outputs)
    each = -(-x.shape[axis] // count)
    rest = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    return tuple(x.split_with_sizes(integers_or(node, "split", sizes) or rest, axis))


@operator("Expand", numbers=(1,))
def expand(node: Node, x: Tensor, sizes: Tensor) -> Tensor:
    """Repeated along axes of one element, as arithmetic does it."""
    return x.expand(np.broadcast_shapes(x.shape, tuple(integers(sizes))))


@operator("Tile", numbers=(1,))
def tile(node: Node, x: Tensor, counts: Tensor) -> Tensor:
    """Repeated along each axis."""
    return x.repeat(integers(counts))


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Blocks of pixels out of channels."""
    b, (n, c, h, w) = node.get("blocksize", 1), x.shape
    if node.get("mode", "DCR") == "DCR":
        parts = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // b**2, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Channels out of blocks of pixels."""
    b, (n, c, h, w) = node.get("blocksize", 1), x.shape
    parts = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * b**2, h // b, w // b)
