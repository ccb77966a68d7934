"""Learned step size quantization of any tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from onnxquant.errors import RecipeError
from onnxquant.tuning.rounding import round_to_levels

_LEAST_STEP = 1e-12


class LearnedStepSize(nn.Module):
    """Rounds a tensor to integers times a step that is learned (LSQ, Esser et al. 2020, arXiv 1902.08153).

    ``clip(round(values / step), -Qn, Qp) * step``, Qn and Qp being 2^(bits - 1) and 2^(bits - 1) - 1 for signed codes, else
    0 and 2^bits - 1. Steps begin at ``2 mean(|values|) / sqrt(Qp)``. Their gradients are scaled by ``1 / sqrt(N Qp)`` for N
    values of a step. The magnitude of a step counts.

    Args:
        values: a tensor where learning begins: the weight, or activations of a batch.
        bits: bits of a code, 2 to 16.
        signed: whether codes have a sign; else values are to be at least zero.
        axis: axis of the channels that have a step each; None: one for all.

    Attributes:
        step: the steps, float32 [channels] or [1].

    Raises:
        RecipeError: the bits or the axis are out of bounds.

    >>> weight = torch.tensor([[-1.0, 0.3], [4.0, 8.0]])
    >>> quantizer = LearnedStepSize(weight, bits=4, axis=0)
    >>> quantizer.step.shape, quantizer(weight).shape
    (torch.Size([2]), torch.Size([2, 2]))
    """

    levels: Tensor

    def __init__(self, values: Tensor, *, bits: int, signed: bool = True, axis: int | None = None) -> None:
        super().__init__()
        if not 2 <= bits <= 16:
            raise RecipeError(f"bits is {bits}, expected 2 to 16")
        if axis is not None and not -values.dim() <= axis < values.dim():
            raise RecipeError(f"axis is {axis}, expected one of the {values.dim()} axes of the values")
        self.axis = axis
        lowest, self._highest = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        self.register_buffer("levels", torch.arange(lowest, self._highest + 1, dtype=torch.float32))
        mean = self._channels(values.detach().float()).abs().mean(-1)
        self.step = nn.Parameter((2 * mean / math.sqrt(self._highest)).clamp(min=_LEAST_STEP))

    def forward(self, values: Tensor) -> Tensor:
        """The values on their grid.

        Args:
            values: floats, with as many channels as steps.
        """
        channels = self._channels(values)
        factor = 1 / math.sqrt(channels.shape[1] * self._highest)
        step = self.step * factor + (self.step * (1 - factor)).detach()
        step = step.abs().clamp(min=_LEAST_STEP)[:, None, None]
        rounded = round_to_levels(channels[:, None].float(), step, torch.zeros_like(step), self.levels)[:, 0]
        if self.axis is None:
            return rounded.reshape(values.shape).to(values.dtype)
        moved = values.movedim(self.axis, 0)
        return rounded.reshape(moved.shape).movedim(0, self.axis).to(values.dtype)

    def _channels(self, values: Tensor) -> Tensor:
        """The values as [steps, values of a step]."""
        return values.reshape(1, -1) if self.axis is None else values.movedim(self.axis, 0).flatten(1)
