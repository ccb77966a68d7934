"""A loop of training with what most models need, and a loss that draws weights to their grids."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxquant.errors import FeedError, RecipeError, WeightError
from onnxquant.recipe.progress import Progress, silent
from onnxquant.training.module import QuantizedModule
from onnxquant.training.schedule import Schedule
from onnxquant.training.statistics import LayerStatistics
from onnxquant.tuning.finite import first_not_finite
from onnxquant.tuning.optimizer import UnitAdam, rate_factor

Batch = Mapping[str, Tensor]
Loss = Callable[[Mapping[str, Tensor], Batch], Tensor]
Watch = Callable[[int, list[LayerStatistics]], None]


@dataclass(frozen=True)
class History:
    """The course of training.

    Attributes:
        losses: loss of each step.
        seconds: time that it took.
    """

    losses: tuple[float, ...]
    seconds: float

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.losses)


def qat_loss(task_loss: Tensor, module: QuantizedModule, weight: float) -> Tensor:
    """The loss of a task plus a penalty on the rounding of weights.

    The penalty is ``sum((w - q)^2) / sum(w^2)``, the mean over the weights that are rounded. Its gradient draws each weight
    to the value that it is rounded to, and leaves grids as they are.

    Args:
        task_loss: a scalar.
        module: the module.
        weight: factor of the penalty.

    >>> module = prepare("models/default.onnx", format="int4")
    >>> bool(qat_loss(torch.tensor(1.0), module, 0.1) > 1)
    True
    """
    penalties = []
    for name, quantizer in module.student.weights.items():
        values = module.student.module.constant(name)
        noise = (values - quantizer(values).detach()).square().sum()
        penalties.append(noise / values.detach().square().sum().clamp(min=1e-30))
    return task_loss + weight * torch.stack(penalties).mean() if penalties else task_loss


def train(
    module: QuantizedModule,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    rate: float = 1e-3,
    quantizer_rate: float | None = None,
    max_norm: float | None = None,
    schedule: Schedule | None = None,
    watch: Watch | None = None,
    watch_every: int = 100,
    progress: Progress = silent,
) -> History:
    """Train a module with ``UnitAdam``. Rates rise for a twentieth of the time, then fall as a cosine.

    The module is in evaluation mode then, and rounds as its file will, even where the time was over before the schedule.

    Args:
        module: the module.
        batches: tensors by name: the inputs, and all that the loss takes, such as labels. Once they are over they are
            iterated again: a list, a ``DataLoader``, or a generator without end.
        loss: function of the outputs by name and the batch; returns a scalar.
        steps: number of steps.
        seconds: time; what is over first ends training.
        rate: largest change of a weight or bias in one step, in its unit, which is about its size.
        quantizer_rate: the same of steps, shifts, scales and zero points; None: as of weights.
        max_norm: bound of the norm of all gradients, to which larger ones are scaled; None: none.
        schedule: rounding and learning by the step.
        watch: function that is called with the number of steps and the module's statistics.
        watch_every: number of steps between its calls.
        progress: display of the part that is done.

    Raises:
        RecipeError: no end is named, the schedule does not fit the steps or the model, or the loss has no gradients.
        FeedError: there are no batches, or no more.
        WeightError: the loss is no number any more; the message names the step and the first node.

    >>> module = prepare("models/default.onnx", format="int4")
    >>> batch = {"image": torch.zeros(2, 1, 28, 28), "label": torch.tensor([3, 8])}
    >>> train(module, [batch], lambda out, b: F.cross_entropy(out["logits"], b["label"]), steps=3).steps
    3
    """
    schedule = schedule or Schedule()
    _check(steps, seconds, schedule)
    optimizer, losses, begin = UnitAdam(module.learned()), list[float](), time.monotonic()
    endless = _endless(batches)
    module.train()
    while (done := _done(len(losses), time.monotonic() - begin, steps, seconds)) < 1:
        module.follow(schedule, len(losses))
        batch = next(endless)
        value = _value(loss, module, batch, len(losses))
        value.backward()  # type: ignore[no-untyped-call]
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(optimizer.parameters, max_norm)
        factor = rate_factor(done)
        optimizer.step(rate * factor, None if quantizer_rate is None else quantizer_rate * factor)
        module.constrain()
        losses.append(float(value.detach()))
        progress(f"training: loss {losses[-1]:.3g}", done)
        if watch is not None and len(losses) % watch_every == 0:
            watch(len(losses), module.statistics(_inputs(module, batch)))
    module.round_as_exported()
    module.eval()
    return History(tuple(losses), time.monotonic() - begin)


def _check(steps: int | None, seconds: float | None, schedule: Schedule) -> None:
    """Refuse a run without an end, or one that ends before its schedule.

    Raises:
        RecipeError: it is one of them.
    """
    if steps is None and seconds is None:
        raise RecipeError("train: neither steps nor seconds are given; expected one of them")
    if any(number is not None and number <= 0 for number in (steps, seconds)):
        raise RecipeError(f"train: steps is {steps}, seconds is {seconds}; expected numbers above 0")
    if steps is not None and schedule.last_change >= steps:
        raise RecipeError(
            f"train: the schedule changes what is rounded at step {schedule.last_change}, of {steps} steps from 0; expected "
            f"more steps, or an earlier change"
        )


def _done(count: int, passed: float, steps: int | None, seconds: float | None) -> float:
    """The part of training that is done."""
    return max(0.0 if steps is None else count / steps, 0.0 if seconds is None else passed / seconds)


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches again and again.

    Raises:
        FeedError: there are none, or no more.
    """
    count = 0
    while True:
        before = count
        for batch in batches:
            count += 1
            yield batch
        if count == before:
            problem = f"are over after {count} steps and cannot be iterated again" if count else "there are none"
            raise FeedError(f"batches: {problem}; expected a list, a DataLoader or a generator without end")


def _inputs(module: QuantizedModule, batch: Batch) -> dict[str, Tensor]:
    """The tensors of a batch that are inputs of the model."""
    return {name: batch[name] for name in module.student.module.inputs if name in batch}


def _value(loss: Loss, module: QuantizedModule, batch: Batch, step: int) -> Tensor:
    """The loss of a batch.

    Raises:
        RecipeError: it is no scalar with gradients.
        WeightError: it is no number.
    """
    inputs = _inputs(module, batch)
    value = loss(module(inputs), batch)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        shown = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise RecipeError(f"train: the loss gives {shown}, expected a scalar tensor that depends on the outputs")
    if not math.isfinite(float(value.detach())):
        raise WeightError(f"train: the loss is not finite at step {step}{first_not_finite(module.student.module, inputs)}")
    return value
