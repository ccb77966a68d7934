"""Losses: the distance of the student's outputs from the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from onnxquant.calibration.feeds.python import resolve
from onnxquant.errors import FeedError, ModelError, RecipeError
from onnxquant.modules.node import Node
from onnxquant.tuning.likely import LikelyTokens

Values = Mapping[str, Tensor]
Taught = Mapping[str, Tensor | LikelyTokens]
Loss = Callable[[Values, Taught], Tensor]
"""A loss: takes the outputs of student and teacher by name, returns a scalar."""

_LEAST, _CONSTANT = 1e-12, 1e-4


class OutputLoss:
    """The mean over outputs of their distance from the teacher's: Kullback-Leibler divergence of probabilities, else squares.

    Squares are divided by the power of the teacher's output around its mean, so that 0.01 are 20 dB.

    Args:
        producers: node that computes each tensor; outputs of a Softmax are probabilities.
        outputs: outputs that count; those that the teacher does not have do not.
        logits: those of them that are logits of tokens: if there are any, they alone count, as divergence.
    """

    def __init__(self, producers: Mapping[str, Node], outputs: Sequence[str], logits: Collection[str] = ()) -> None:
        self._outputs = list(logits or outputs)
        self._kinds = {name: producers[name].op if name in producers else "" for name in outputs}

    def __call__(self, student: Values, teacher: Taught) -> Tensor:
        """The loss of one batch."""
        names = [name for name in self._outputs if name in teacher and name in student]
        return torch.stack([self._term(name, student[name], teacher[name]) for name in names]).mean()

    def _term(self, name: str, student: Tensor, teacher: Tensor | LikelyTokens) -> Tensor:
        if student.shape != teacher.shape:
            raise ModelError(
                f"output {name!r} has shape {list(student.shape)}, the float model's {list(teacher.shape)}: it depends on "
                f"values; --tune-loss can take the other outputs alone"
            )
        if isinstance(teacher, LikelyTokens):
            return teacher.divergence(student)
        if self._kinds[name] == "Softmax":
            likelihood = torch.log(student.clamp(min=_LEAST)) - torch.log(teacher.clamp(min=_LEAST))
            return -(teacher * likelihood).sum() / teacher.sum()  # each distribution sums to 1
        student, teacher = (torch.where(torch.isfinite(teacher), side, 0.0) for side in (student, teacher))
        # An output that is nearly constant must not outweigh the others.
        power = (teacher - teacher.mean()).square().mean() + _CONSTANT * teacher.square().mean()
        return (student - teacher).square().mean() / power.clamp(min=_LEAST)


class UsersLoss:
    """A loss of the user's.

    Args:
        function: function of two dicts of tensors, or ``module:function``. It gets all of the teacher's logits.

    Raises:
        RecipeError: it is no function.
    """

    def __init__(self, function: str | Loss) -> None:
        self._name = function if isinstance(function, str) else getattr(function, "__name__", str(function))
        try:
            resolved = resolve(function) if isinstance(function, str) else function
        except FeedError as error:
            raise RecipeError(f"tune_loss {error}") from None
        if not callable(resolved):
            raise RecipeError(f"tune_loss {self._name}: is no function; expected one of two dicts of tensors")
        self._function = cast(Loss, resolved)

    def __call__(self, student: Values, teacher: Taught) -> Tensor:
        """The loss of one batch.

        Raises:
            RecipeError: the function fails, or returns no scalar that gradients reach.
        """
        try:
            loss = self._function(student, teacher)
        except Exception as error:
            raise RecipeError(
                f"tune_loss {self._name}: fails with {type(error).__name__}: {error}; it is called with the outputs of the "
                f"file and of the float model, dicts of tensors by name, and gives a scalar"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise RecipeError(f"tune_loss {self._name}: gives {type(loss).__name__}, expected a scalar tensor")
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise RecipeError(f"tune_loss {self._name}: does not depend on the outputs of the file")
        return loss
