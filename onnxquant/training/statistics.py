"""Figures of the layers of a module in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxquant.tuning.quantizers import ActivationQuantizer, WeightQuantizer
from onnxquant.tuning.student import Student


@dataclass(frozen=True)
class LayerStatistics:
    """Figures of one rounded tensor.

    Attributes:
        name: name of the weight, or of the tensor that activations are.
        format: format of the weight, or type of the codes.
        scale: scale; the mean magnitude of the steps where there are several.
        zero_point: zero point of activations; None for weights.
        low, high: extremes of the weight, or the range of activations.
        error_db: ratio of the values and their rounding error, in decibels; None: activations of which no values are known.
    """

    name: str
    format: str
    scale: float
    zero_point: int | None
    low: float
    high: float
    error_db: float | None


def decibels(values: Tensor, rounded: Tensor) -> float:
    """The ratio of values and their rounding error."""
    error = (rounded.double() - values.double()).square().sum().clamp(min=1e-30)
    return float(10 * torch.log10(values.double().square().sum().clamp(min=1e-30) / error))


@torch.no_grad()
def layer_statistics(student: Student, feeds: Mapping[str, Tensor] | None) -> list[LayerStatistics]:
    """The figures of weights, then those of activations.

    Args:
        student: the module, rounding, in evaluation mode.
        feeds: inputs by name, on which activations are judged; None: they are not.
    """
    errors = {} if feeds is None else _errors(student, feeds)
    return [
        *(_of_weight(name, quantizer, student.module.constant(name)) for name, quantizer in student.weights.items()),
        *(_of_activation(name, quantizer, errors.get(name)) for name, quantizer in student.ranges.items()),
    ]


def _of_weight(name: str, quantizer: WeightQuantizer, weight: Tensor) -> LayerStatistics:
    low, high = (float(extreme) for extreme in weight.aminmax())
    form, scale = quantizer.encoded.format.name, float(quantizer.step.abs().mean())
    return LayerStatistics(name, form, scale, None, low, high, _decibels(weight, quantizer(weight)))


def _of_activation(name: str, quantizer: ActivationQuantizer, error_db: float | None) -> LayerStatistics:
    scale, zero = float(quantizer.scale), round(float(quantizer.zero_point))
    return LayerStatistics(name, str(quantizer.codes.dtype), scale, zero, *quantizer.range, error_db)


def _errors(student: Student, feeds: Mapping[str, Tensor]) -> dict[str, float]:
    """The error of activations on inputs, in decibels."""
    errors: dict[str, float] = {}

    def note(name: str, values: Tensor, rounded: Tensor) -> None:
        errors[name] = _decibels(values, rounded)

    hooks = [
        quantizer.register_forward_hook(lambda _, inputs, output, name=name: note(name, inputs[0], output))
        for name, quantizer in student.ranges.items()
    ]
    try:
        student(feeds)
    finally:
        for hook in hooks:
            hook.remove()
    return errors


def _decibels(values: Tensor, rounded: Tensor) -> float:
    """The ratio of values and their rounding error."""
    values = values.double()
    power, noise = (side.square().sum().clamp(min=1e-30) for side in (values, rounded.double() - values))
    return float(10 * torch.log10(power / noise))
