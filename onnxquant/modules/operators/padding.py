"""Elements before and behind the axes of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from onnxquant.modules.node import Node, operator
from onnxquant.modules.numbers import integers, integers_or


def padded(x: Tensor, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Tensor:
    """A tensor with its last axes padded; negative numbers take elements away."""
    if not (any(begins) or any(ends)):
        return x
    return F.pad(x, [n for pair in zip(reversed(begins), reversed(ends), strict=True) for n in pair], value=value)


@operator("Pad", numbers=(1, 2, 3))
def pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Elements before and behind each axis; negative numbers take elements away."""
    amounts = integers_or(node, "pads", pads) or []
    chosen = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in integers(axes)]
    begins, ends = [0] * x.dim(), [0] * x.dim()
    for position, axis in enumerate(chosen):
        begins[axis], ends[axis] = amounts[position], amounts[position + len(chosen)]
    mode = node.get("mode", "constant")
    if mode == "constant":
        constant = node.get("value", 0.0) if value is None else value.item()
        return padded(x, begins, ends, constant)
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin or end:
            x = x.index_select(axis, _sources(mode, torch.arange(-begin, x.shape[axis] + end), x.shape[axis]))
    return x


def _sources(mode: str, places: Tensor, length: int) -> Tensor:
    """Indices of the elements that stand at places inside and outside of an axis."""
    if mode == "edge":
        return places.clamp(0, length - 1)
    if mode == "wrap":
        return places % length
    period = max(2 * (length - 1), 1)
    places = places % period
    return torch.minimum(places, period - places) if length > 1 else torch.zeros_like(places)
