"""Adam whose steps are counted in a unit of each parameter's own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from onnxquant.tuning.quantizers import Learned

_MEAN, _SQUARE, _LEAST = 0.9, 0.99, 1e-12
# The part of a run in which the rate rises, and the rate at its end as a part of the largest.
_RISE, _LAST = 0.05, 0.02


def rate_factor(done: float) -> float:
    """The rate where a part of a run is done, 0 to 1, as a part of the largest: it rises at first, then falls as a cosine."""
    return min(1.0, (done + 0.01) / _RISE) * (_LAST + (1 - _LAST) * (1 + math.cos(math.pi * done)) / 2)


class UnitAdam:
    """Adam (Kingma and Ba 2015) on parameters that are divided by their units: weights of any size learn at one rate.

    Args:
        learned: parameters with their units.
    """

    def __init__(self, learned: Iterable[Learned]) -> None:
        self._learned = list(learned)
        self.reset()

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters."""
        return [entry.values for entry in self._learned]

    def reset(self) -> None:
        """Forget all earlier steps."""
        self._means = [torch.zeros_like(entry.values) for entry in self._learned]
        self._squares = [torch.zeros_like(entry.values) for entry in self._learned]
        self._count = 0

    @torch.no_grad()
    def step(self, rate: float, quantizer_rate: float | None = None) -> None:
        """Change the parameters by their gradients.

        Args:
            rate: about the largest change, in units.
            quantizer_rate: the same of steps, shifts, scales and zero points; None: as of the others.
        """
        quantizer_rate = rate if quantizer_rate is None else quantizer_rate
        self._count += 1
        for_mean, for_square = 1 - _MEAN**self._count, 1 - _SQUARE**self._count
        for entry, mean, square in zip(self._learned, self._means, self._squares, strict=True):
            values = entry.values
            if values.grad is None:
                continue
            gradient = values.grad * entry.unit
            mean.lerp_(gradient, 1 - _MEAN)
            square.mul_(_SQUARE).addcmul_(gradient, gradient, value=1 - _SQUARE)
            change = mean / ((square / for_square).sqrt_().add_(_LEAST))
            largest = quantizer_rate if entry.of_quantizer else rate
            values.sub_(change.mul_(entry.unit).mul_(largest / for_mean))
            values.grad = None

    def state(self) -> dict[str, Any]:
        """The numbers that a later run goes on from."""
        return {"means": self._means, "squares": self._squares, "count": self._count}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the state of an earlier run."""
        self._means, self._squares, self._count = state["means"], state["squares"], state["count"]
