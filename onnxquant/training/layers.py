"""Layers of torch that round weights, and what they read, as a quantized file will."""

from __future__ import annotations

import math
from typing import Literal, Self, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from onnxquant.errors import FeedError, RecipeError
from onnxquant.observers.codes import Codes
from onnxquant.training.conversions import exported_conversions
from onnxquant.training.learned_step_size import LearnedStepSize
from onnxquant.tuning.rounding import fake_quantize

# Fractions of the largest magnitude of a channel that its step is chosen from.
_FRACTIONS = tuple(place / 16 for place in range(16, 3, -1))
_LEAST_SCALE = 1e-12
_Layer = TypeVar("_Layer", bound=nn.Module)


def _check_bits(name: str, bits: int) -> None:
    if not 2 <= bits <= 8:
        raise RecipeError(f"{name} is {bits}, expected 2 to 8")


class RoundedWeight(nn.Module):
    """Rounds a weight to signed codes with a learned step for each of its outputs, the first axis.

    Steps begin where the weight loses least, and are fitted again with ``fit``.

    Args:
        weight: float32 [outputs, ...].
        bits: bits of a code, 2 to 8. At 8 bits codes are -127 to 127, else -2^(bits - 1) to 2^(bits - 1) - 1.

    Attributes:
        quantizer: the step of each output, with the rounding.
    """

    zero_point: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        _check_bits("weight_bits", bits)
        self.quantizer = LearnedStepSize(weight, bits=bits, axis=0)
        if bits == 8:  # as the format int8 has it
            self.quantizer.levels = self.quantizer.levels[1:]
        zero = torch.zeros(len(weight), dtype=torch.int8, device=weight.device)
        low, high = (self.quantizer.levels[place].to(zero) for place in (0, -1))
        for name, value in (("zero_point", zero), ("low", low), ("high", high)):
            self.register_buffer(name, value, persistent=False)
        self.fit(weight)

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Choose the steps anew: of some fractions of the largest magnitude, the one that loses least.

        Args:
            weight: the weight.
        """
        rows = weight.detach().flatten(1).float()
        largest = rows.abs().amax(1, keepdim=True).clamp(min=_LEAST_SCALE)
        least, best = torch.full_like(largest, math.inf), largest
        for fraction in _FRACTIONS:
            step = largest * fraction / int(self.high)
            rounded = (rows / step).round().clamp(int(self.low), int(self.high)) * step
            error = (rounded - rows).square().sum(1, keepdim=True)
            best, least = torch.where(error < least, step, best), torch.minimum(error, least)
        self.quantizer.step.copy_(best[:, 0])

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on its grid."""
        if not torch.onnx.is_in_onnx_export():
            return self.quantizer(weight)  # type: ignore[no-any-return]  # torch types calls as Any
        return exported_conversions(weight, self.quantizer.step.detach().abs(), self.zero_point, self.low, self.high)


class RoundedInput(nn.Module):
    """Rounds an activation to unsigned codes of a scale and a zero point that are learned.

    They begin with the range of the first batch.

    Args:
        bits: bits of a code, 2 to 8.
        device: place of the parameters.

    Attributes:
        scale: distance of codes, float32 [].
        zero_point: the code of zero, float32 [], rounded where it is used.
        has_range: whether there was a batch; part of the state.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        _check_bits("activation_bits", bits)
        self.codes, self.has_range = Codes(bits), False
        self.scale = nn.Parameter(torch.ones((), device=device))
        self.zero_point = nn.Parameter(torch.zeros((), device=device))
        for name, value in (("low", self.codes.lowest), ("high", self.codes.highest)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.uint8, device=device), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """The values on the grid of the codes.

        Raises:
            FeedError: an exporter runs before any batch.
        """
        codes = self.codes
        if torch.onnx.is_in_onnx_export():
            if not self.has_range:
                raise FeedError("activations have no range yet: run the module on one batch before its export")
            zero = self.zero_point.detach().round().clamp(codes.lowest, codes.highest).to(torch.uint8)
            bounds = (self.low, self.high) if codes.bits < 8 else (None, None)
            return exported_conversions(values, self.scale.detach().abs(), zero, *bounds)
        if not self.has_range and values.numel():
            self.begin(values)
        factor = 1 / math.sqrt(max(values.numel(), 1) * codes.highest)
        scale = self.scale.abs().clamp(min=_LEAST_SCALE)
        return fake_quantize(
            values, scale.reshape(1), self.zero_point.reshape(1), codes.lowest, codes.highest, factor=factor
        )

    @torch.no_grad()
    def begin(self, values: Tensor) -> None:
        """Begin with the range of some values."""
        scale, zero = self.codes.parameters(float(values.min()), float(values.max()))
        self.scale.fill_(float(scale))
        self.zero_point.fill_(float(zero))
        self.has_range = True

    def get_extra_state(self) -> Tensor:
        """Whether there was a batch: a tensor, as exporters expect of a state."""
        return torch.tensor(self.has_range)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over whether there was a batch."""
        self.has_range = bool(state)


def rounded_input(bits: int | None, device: torch.device | str | None) -> nn.Module:
    """The rounding of what a layer reads: none where there are no bits."""
    return nn.Identity() if bits is None else RoundedInput(bits, device)


def _of(quantized: _Layer, layer: nn.Linear | nn.Conv2d) -> _Layer:
    """A layer with the weight and the bias of a float one, in its mode."""
    for name in ("weight", "bias"):
        setattr(quantized, name, getattr(layer, name))
    assert isinstance(quantized.rounded_weight, RoundedWeight)
    quantized.rounded_weight.fit(layer.weight)
    return quantized.train(layer.training)


class QuantizedLinear(nn.Linear):
    """``torch.nn.Linear`` whose weight, and on request what it reads, are rounded as a quantized file does.

    Its parameters are those of the float layer, and the learned steps. ``torch.onnx.export`` writes QuantizeLinear and
    DequantizeLinear.

    Args:
        in_features: numbers of an input.
        out_features: numbers of an output.
        bias: whether it adds a bias.
        device: place of the parameters.
        dtype: type of the parameters.
        weight_bits: bits of the weight's codes, one step for each output, 2 to 8.
        activation_bits: bits of the codes of what it reads, 2 to 8; None: floats. Their range begins with that of the
            first batch.

    Raises:
        RecipeError: the bits are out of bounds.

    >>> layer = QuantizedLinear(16, 4, weight_bits=4)
    >>> len(layer(torch.eye(16)).T[0].unique()) <= 16
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_bits: int = 8,
        activation_bits: int | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.rounded_weight = RoundedWeight(self.weight, weight_bits)
        self.rounded_input = rounded_input(activation_bits, device)

    @classmethod
    def from_float(cls, layer: nn.Linear, *, weight_bits: int = 8, activation_bits: int | None = None) -> Self:
        """A layer with the parameters of a float one, which it shares.

        Args:
            layer: the float layer.
            weight_bits: bits of the weights' codes, 2 to 8.
            activation_bits: bits of the codes of what is read, 2 to 8; None: floats.
        """
        bits = {"weight_bits": weight_bits, "activation_bits": activation_bits}
        size = layer.in_features, layer.out_features, layer.bias is not None
        return _of(cls(*size, layer.weight.device, layer.weight.dtype, **bits), layer)  # type: ignore[arg-type]  # bits

    def forward(self, input: Tensor) -> Tensor:
        """The outputs [..., out_features]."""
        return F.linear(self.rounded_input(input), self.rounded_weight(self.weight), self.bias)


class QuantizedConv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` whose weight, and on request what it reads, are rounded as a quantized file does.

    See ``QuantizedLinear``; the first arguments are those of ``torch.nn.Conv2d``.

    Args:
        weight_bits: bits of the weight's codes, one step for each output channel, 2 to 8.
        activation_bits: bits of the codes of what it reads, 2 to 8; None: floats.

    Raises:
        RecipeError: the bits are out of bounds.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_bits: int = 8,
        activation_bits: int | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self.rounded_weight = RoundedWeight(self.weight, weight_bits)
        self.rounded_input = rounded_input(activation_bits, device)

    @classmethod
    def from_float(cls, layer: nn.Conv2d, *, weight_bits: int = 8, activation_bits: int | None = None) -> Self:
        """A layer with the parameters of a float one, which it shares.

        Args:
            layer: the float layer.
            weight_bits: bits of the weights' codes, 2 to 8.
            activation_bits: bits of the codes of what is read, 2 to 8; None: floats.
        """
        quantized = cls(
            layer.in_channels, layer.out_channels,
            layer.kernel_size, layer.stride, layer.padding, layer.dilation,  # type: ignore[arg-type]  # of any length there
            layer.groups, layer.bias is not None, layer.padding_mode, layer.weight.device, layer.weight.dtype,
            weight_bits=weight_bits, activation_bits=activation_bits,
        )  # fmt: skip
        return _of(quantized, layer)

    def forward(self, input: Tensor) -> Tensor:
        """The outputs [batch, out_channels, height, width]."""
        weight = self.rounded_weight(self.weight)
        return self._conv_forward(self.rounded_input(input), weight, self.bias)  # type: ignore[no-any-return]
