"""Rounding that gradients pass: to codes of activations, and to the grid of an encoded weight.

The straight-through estimator takes the derivative of rounding for 1, and that of clipping for what it is. The derivative
by the step is that of LSQ (Esser et al. 2020, "Learned step size quantization"), that by the shift of LSQ+ (Bhalgat et al.
2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers that are rounded at once: their copies stay in the cache, which is several times faster than whole tensors.
_CHUNK = 1 << 16


class _RoundToLevels(torch.autograd.Function):
    """Values on a grid: nearest(levels, (w - shift) / step) * step + shift."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, shift: Tensor, levels: Tensor) -> Tensor:  # noqa: ANN401
        """The values; the context keeps what the derivatives need."""
        ratio = (weight - shift).div_(step)
        nearest = nearest_levels(levels, ratio)
        ctx.save_for_backward(ratio, nearest, levels)
        return (nearest * step).add_(shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Derivatives by weight, step and shift."""
        ratio, nearest, levels = ctx.saved_tensors
        gradient = gradient.contiguous()
        # Its derivative is 0 at the ends themselves, where largest weights of blocks lie.
        below, above = torch.nextafter(levels[[0, -1]], torch.tensor([-torch.inf, torch.inf])).tolist()
        of_weight = torch.ops.aten.hardtanh_backward(gradient, ratio, below, above)
        of_step = _products(gradient, nearest) - _products(of_weight, ratio) if ctx.needs_input_grad[1] else None
        of_shift = (gradient.sum(-1, keepdim=True) - of_weight.sum(-1, keepdim=True)) if ctx.needs_input_grad[2] else None
        return of_weight, of_step, of_shift, None


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Sums of products along the last axis, which stays: without a tensor of the products."""
    sums = torch.bmm(x.reshape(-1, 1, x.shape[-1]), y.reshape(-1, y.shape[-1], 1))
    return sums.reshape(*x.shape[:-1], 1)


def round_to_levels(weight: Tensor, step: Tensor, shift: Tensor, levels: Tensor) -> Tensor:
    """A weight on its grid, with straight-through gradients.

    Args:
        weight: float32 [rows, groups, columns].
        step: distance of levels that are one apart, [rows, groups, 1], not zero.
        shift: value of level 0, in the same shape.
        levels: levels in ascending order.

    >>> round_to_levels(torch.tensor([[[0.4, 2.6]]]), torch.ones(1, 1, 1), torch.zeros(1, 1, 1), torch.arange(-2.0, 2.0))
    tensor([[[0., 1.]]])
    """
    result: Tensor = _RoundToLevels.apply(weight, step, shift, levels)  # type: ignore[no-untyped-call]
    return result


def nearest_levels(levels: Tensor, ratio: Tensor) -> Tensor:
    """The level nearest to each number."""
    if is_even(levels):
        return ratio.round().clamp_(float(levels[0]), float(levels[-1]))
    middles = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(ratio.contiguous(), middles)]


def is_even(levels: Tensor) -> bool:
    """Whether levels are one apart."""
    return bool((levels.diff() == 1).all())


class _RoundToCodes(torch.autograd.Function):
    """Values rounded to codes and back."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        values: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        lowest: int,
        highest: int,
        factor: float,
    ) -> Tensor:
        """The values; the context keeps what the derivatives need."""
        zero = float(zero_point.round())
        ctx.save_for_backward(values, scale)
        ctx.factor, ctx.lowest, ctx.highest = factor, lowest - zero, highest - zero
        values = values.contiguous()
        result = torch.empty_like(values)
        for part, out in zip(*(torch.split(side.view(-1), _CHUNK) for side in (values, result)), strict=True):
            torch.div(part, scale, out=out).round_().clamp_(ctx.lowest, ctx.highest).mul_(scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Derivatives by values, scale and zero point."""
        values, scale = ctx.saved_tensors
        gradient, values = gradient.contiguous(), values.contiguous()
        result = torch.empty_like(gradient)
        parts = [torch.split(side.view(-1), _CHUNK) for side in (gradient, values, result)]
        sums = torch.zeros(4, len(parts[0]))
        buffers = torch.empty(3, min(_CHUNK, values.numel()))
        for number, (outer, part, inner) in enumerate(zip(*parts, strict=True)):
            ratio, rounded, code = buffers[:, : part.numel()]
            torch.round(torch.div(part, scale, out=ratio), out=rounded)
            torch.clamp(rounded, ctx.lowest, ctx.highest, out=code)
            torch.mul(outer, torch.eq(rounded, code, out=rounded), out=inner)  # nothing passes what is clipped
            sums[0, number], sums[1, number] = torch.dot(outer, code), torch.dot(inner, ratio)
            sums[2, number], sums[3, number] = outer.sum(), inner.sum()
        by_code, by_ratio, whole, inside = sums.sum(1, keepdim=True)
        of_scale, of_zero = (by_code - by_ratio) * ctx.factor, (inside - whole) * scale * ctx.factor
        return result, of_scale, of_zero, None, None, None


def fake_quantize(
    values: Tensor, scale: Tensor, zero_point: Tensor, lowest: int, highest: int, *, factor: float = 1.0
) -> Tensor:
    """Values rounded to codes and back, with straight-through gradients.

    ``(clip(round(values / scale) + round(zero_point), lowest, highest) - round(zero_point)) * scale``, as QuantizeLinear and
    DequantizeLinear compute it. Gradients reach the scale and the zero point too.

    Args:
        values: float32, any shape.
        scale: float32 [1], above zero.
        zero_point: float32 [1].
        lowest: smallest code.
        highest: largest code.
        factor: factor of the gradients of the scale and the zero point.

    >>> fake_quantize(torch.tensor([0.12, 9.0]), torch.tensor([0.1]), torch.tensor([0.0]), 0, 15)
    tensor([0.1000, 1.5000])
    """
    result: Tensor = _RoundToCodes.apply(values, scale, zero_point, lowest, highest, factor)  # type: ignore[no-untyped-call]
    return result
