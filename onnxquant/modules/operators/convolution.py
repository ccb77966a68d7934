"""Convolutions and pools over windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from onnxquant.modules.node import Node, Result, operator
from onnxquant.modules.operators.padding import padded

T = TypeVar("T")

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_LARGEST: dict[int, Callable[..., tuple[Tensor, Tensor]]] = {
    1: F.max_pool1d_with_indices,
    2: F.max_pool2d_with_indices,
    3: F.max_pool3d_with_indices,
}


@dataclass(frozen=True)
class Window:
    """A window that moves over the spatial axes of a tensor.

    Attributes:
        kernel: its size along each axis.
        strides: steps of it.
        dilations: distance of its elements.
        begins: padding before each axis; negative: elements that are left out.
        ends: padding behind each axis.
        rests: padding behind that, which ``ceil_mode`` adds.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    rests: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, kernel: Sequence[int], sizes: Sequence[int]) -> Window:
        """The window of a node.

        Args:
            node: the node.
            kernel: size of the window.
            sizes: lengths of the spatial axes of its input.
        """
        rank = len(kernel)
        strides = node.get("strides", [1] * rank)
        dilations = node.get("dilations", [1] * rank)
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = node.get("pads", [0] * 2 * rank)
        automatic = node.get("auto_pad", "NOTSET")
        if automatic == "VALID":
            pads = [0] * 2 * rank
        elif automatic != "NOTSET":
            needed = [max((-(-n // s) - 1) * s + span - n, 0) for n, s, span in zip(sizes, strides, spans, strict=True)]
            halves = [total // 2 for total in needed]
            rests = [total - half for total, half in zip(needed, halves, strict=True)]
            pads = halves + rests if automatic == "SAME_UPPER" else rests + halves
        begins, ends = pads[:rank], pads[rank:]
        more = [0] * rank
        if node.get("ceil_mode", 0):
            padded = [n + b + e for n, b, e in zip(sizes, begins, ends, strict=True)]
            steps = [-(-(n - span) // s) for n, span, s in zip(padded, spans, strides, strict=True)]
            # A window that would begin in the padding behind the input is none.
            steps = [c - 1 if c * s >= n + b else c for c, s, n, b in zip(steps, strides, sizes, begins, strict=True)]
            more = [max(c * s + span - n, 0) for c, s, span, n in zip(steps, strides, spans, padded, strict=True)]
        return cls(*map(tuple, (kernel, strides, dilations, begins, ends, more)))

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    def padded(self, x: Tensor, value: float = 0.0, *, with_rests: bool = True) -> Tensor:
        """A tensor with the padding around it."""
        ends = [e + r if with_rests else e for e, r in zip(self.ends, self.rests, strict=True)]
        return padded(x, self.begins, ends, value)

    def views(self, x: Tensor) -> Tensor:
        """The elements of each window: [batch, channels, *places, *kernel] of a padded tensor."""
        for axis in range(self.rank):
            span = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            x = x.unfold(2 + axis, span, self.strides[axis])[..., :: self.dilations[axis]]
        return x

    @property
    def kernel_axes(self) -> list[int]:
        """Axes of the window in ``views``."""
        return list(range(-self.rank, 0))


def _function(node: Node, functions: dict[int, Callable[..., T]], rank: int) -> Callable[..., T]:
    if rank not in functions:
        raise node.refuse(f"it has {rank} spatial axes", "one to three of them")
    return functions[rank]


@operator("Conv")
def convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution."""
    window = Window.of(node, weight.shape[2:], x.shape[2:])
    function = _function(node, _CONVOLUTIONS, window.rank)
    padding: tuple[int, ...] = window.begins
    if window.begins != window.ends or min(padding, default=0) < 0:
        x, padding = window.padded(x), (0,) * window.rank
    return function(x, weight, bias, window.strides, padding, window.dilations, node.get("group", 1))


@operator("ConvTranspose")
def transposed_convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution: all of it, then what the padding takes away."""
    rank, kernel, sizes = x.dim() - 2, weight.shape[2:], x.shape[2:]
    strides = node.get("strides", [1] * rank)
    dilations = node.get("dilations", [1] * rank)
    more = node.get("output_padding", [0] * rank)
    lengths = [
        (n - 1) * s + (k - 1) * d + 1 + m for n, s, k, d, m in zip(sizes, strides, kernel, dilations, more, strict=True)
    ]
    begins, ends = _taken_away(node, lengths, [n * s for n, s in zip(sizes, strides, strict=True)])
    function = _function(node, _TRANSPOSED, rank)
    y = function(x, weight, None, strides, 0, 0, node.get("group", 1), dilations)
    y = padded(y, [-b for b in begins], [m - e for m, e in zip(more, ends, strict=True)])
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _taken_away(node: Node, lengths: Sequence[int], same: Sequence[int]) -> tuple[list[int], list[int]]:
    """Numbers of elements that the padding of a transposed convolution takes away before and behind each axis.

    Args:
        node: the node.
        lengths: lengths of the whole output.
        same: lengths that ``auto_pad`` asks for.
    """
    rank, automatic = len(lengths), node.get("auto_pad", "NOTSET")
    wanted_lengths = node.get("output_shape", list(same) if automatic.startswith("SAME") else [])[-rank:]
    if not wanted_lengths:
        pads = [0] * 2 * rank if automatic == "VALID" else node.get("pads", [0] * 2 * rank)
        return pads[:rank], pads[rank:]
    totals = [max(whole - length, 0) for whole, length in zip(lengths, wanted_lengths, strict=True)]
    halves = [total // 2 for total in totals]
    rests = [total - half for total, half in zip(totals, halves, strict=True)]
    return (halves, rests) if automatic == "SAME_UPPER" else (rests, halves)


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> Result:
    """Largest element of each window, and its place in the input where that is read."""
    if node.get("storage_order", 0):
        raise node.refuse("storage_order is 1", "0")
    window = Window.of(node, node.get("kernel_shape", []), x.shape[2:])
    function = _function(node, _LARGEST, window.rank)
    values = window.padded(x if x.is_floating_point() else x.float(), -inf)
    y, places = function(values, window.kernel, window.strides, 0, window.dilations)
    if len(node.outputs) == 1:
        return y.to(x.dtype)
    coordinates = torch.unravel_index(places, values.shape[2:])
    flat = torch.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * window.rank)
    for size, coordinate, begin in zip(x.shape[2:], coordinates, window.begins, strict=True):
        flat = flat * size + coordinate - begin
    return y.to(x.dtype), flat


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    """Mean of each window; padding counts where ``count_include_pad`` is set."""
    window = Window.of(node, node.get("kernel_shape", []), x.shape[2:])
    total = window.views(window.padded(x)).sum(window.kernel_axes)
    counted = torch.ones_like(x[:1, :1])
    if node.get("count_include_pad", 0):
        counted = torch.ones_like(window.padded(counted, with_rests=False))
        counted = padded(counted, [0] * window.rank, window.rests)
    else:
        counted = window.padded(counted)
    return total / window.views(counted).sum(window.kernel_axes)


@operator("LpPool")
def norm_pool(node: Node, x: Tensor) -> Tensor:
    """Norm of each window."""
    window = Window.of(node, node.get("kernel_shape", []), x.shape[2:])
    norm: Tensor = torch.linalg.vector_norm(window.views(window.padded(x)), node.get("p", 2), window.kernel_axes)
    return norm


@operator("GlobalAveragePool")
def global_average_pool(node: Node, x: Tensor) -> Tensor:
    """Mean of each channel."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, x: Tensor) -> Tensor:
    """Largest element of each channel."""
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def global_norm_pool(node: Node, x: Tensor) -> Tensor:
    """Norm of each channel."""
    norm: Tensor = torch.linalg.vector_norm(x, node.get("p", 2), tuple(range(2, x.dim())), keepdim=True)
    return norm
