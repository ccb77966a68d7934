"""Losses: the distance of the student's outputs from the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from onnxquant.calibration.feeds.python import resolve
from onnxquant.errors import RecipeError
from onnxquant.modules.node import Node

Values = Mapping[str, Tensor]
Loss = Callable[[Values, Values], Tensor]
"""A loss: takes the outputs of student and teacher by name, returns a scalar."""

_LEAST = 1e-12


class OutputLoss:
    """The mean over outputs of the distance from the teacher's: Kullback-Leibler divergence of probabilities, else squares.

    Squares are divided by the power of the teacher's output around its mean, so that 0.01 are 20 dB.

    Args:
        producers: node that computes each tensor; outputs of a Softmax are probabilities.
        outputs: outputs that count; those of other types than floats do not.
    """

    def __init__(self, producers: Mapping[str, Node], outputs: Sequence[str]) -> None:
        self._outputs = list(outputs)
        self._kinds = {name: producers[name].op if name in producers else "" for name in outputs}

    def __call__(self, student: Values, teacher: Values) -> Tensor:
        """The loss of one batch."""
        terms = [self._term(name, student[name], teacher[name]) for name in self._outputs if name in teacher]
        return torch.stack([term for term in terms if term is not None]).mean()

    def _term(self, name: str, student: Tensor, teacher: Tensor) -> Tensor | None:
        if not teacher.is_floating_point():
            return None
        if self._kinds[name] == "Softmax":
            likelihood = torch.log(student.clamp(min=_LEAST)) - torch.log(teacher.clamp(min=_LEAST))
            return -(teacher * likelihood).sum() / max(teacher.numel() // teacher.shape[-1], 1)
        power = (teacher - teacher.mean()).square().mean() if teacher.numel() > 1 else teacher.square().mean()
        return (student - teacher).square().mean() / power.clamp(min=_LEAST)


def loss_of(function: str | Loss) -> Loss:
    """The user's loss: a function, or ``module:function``.

    Raises:
        RecipeError: it is no function.
    """
    resolved = resolve(function) if isinstance(function, str) else function
    if not callable(resolved):
        raise RecipeError(f"tune_loss {function}: is no function; expected one of two dicts of tensors")
    return cast(Loss, resolved)
