"""Operators of each element: arithmetic, comparisons, activation functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from onnxquant.modules.node import Node, microsoft, operator
from onnxquant.modules.types import torch_type

_OF_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
_OF_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


def _register() -> None:
    for name, of_one in _OF_ONE.items():
        operator(name)(lambda node, x, function=of_one: function(x))
    for name, of_two in _OF_TWO.items():
        operator(name)(lambda node, x, y, function=of_two: function(x, y))


_register()


@operator("Div")
def div(node: Node, x: Tensor, y: Tensor) -> Tensor:
    """Quotient; of integers it is cut off towards zero."""
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


@operator("Mod")
def mod(node: Node, x: Tensor, y: Tensor) -> Tensor:
    """Remainder, with the sign of the divisor, or of the dividend where ``fmod`` is set."""
    return torch.fmod(x, y) if node.get("fmod", 0) else torch.remainder(x, y)


@operator("Pow")
def power(node: Node, x: Tensor, exponent: Tensor) -> Tensor:
    """Power in the type of the base."""
    return torch.pow(x, exponent.item() if exponent.numel() == 1 else exponent).to(x.dtype)


@operator("Sum")
def total(node: Node, *terms: Tensor) -> Tensor:
    """Sum of several tensors."""
    return reduce(torch.add, terms)


@operator("Mean")
def mean(node: Node, *terms: Tensor) -> Tensor:
    """Mean of several tensors."""
    return reduce(torch.add, terms) / len(terms)


@operator("Max")
def largest(node: Node, *terms: Tensor) -> Tensor:
    """Largest of several tensors."""
    return reduce(torch.maximum, terms)


@operator("Min")
def least(node: Node, *terms: Tensor) -> Tensor:
    """Least of several tensors."""
    return reduce(torch.minimum, terms)


@operator("Where")
def where(node: Node, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """One of two tensors by a condition."""
    return torch.where(condition, x, y)


@operator("Clip", numbers=(1, 2))
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Values between bounds, which are attributes before opset 11."""
    least = node.attributes.get("min") if low is None else low.item()
    most = node.attributes.get("max") if high is None else high.item()
    return x if least is None and most is None else torch.clamp(x, least, most)


@operator("LeakyRelu")
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """Negative values shrunk."""
    return F.leaky_relu(x, node.get("alpha", 0.01))


@operator("PRelu")
def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """Negative values times a slope that is learned."""
    return torch.where(x < 0, x * slope, x)


@operator("Elu")
def elu(node: Node, x: Tensor) -> Tensor:
    """Exponential linear unit."""
    return F.elu(x, node.get("alpha", 1.0))


@operator("Celu")
def celu(node: Node, x: Tensor) -> Tensor:
    """Exponential linear unit with a slope of one at zero."""
    return F.celu(x, node.get("alpha", 1.0))


@operator("Shrink")
def shrink(node: Node, x: Tensor) -> Tensor:
    """Zero between bounds, and values drawn towards it outside."""
    bound, step = node.get("lambd", 0.5), node.get("bias", 0.0)
    return torch.where(x < -bound, x + step, torch.where(x > bound, x - step, torch.zeros_like(x)))


@operator("Selu")
def selu(node: Node, x: Tensor) -> Tensor:
    """Scaled exponential linear unit."""
    return node.get("gamma", 1.0507009873554805) * F.elu(x, node.get("alpha", 1.6732632423543772))


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """A line between 0 and 1."""
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """Zero up to a threshold."""
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    """Gaussian error linear unit."""
    return F.gelu(x, approximate=node.get("approximate", "none"))


@microsoft("Gelu")
def gelu_of_onnxruntime(node: Node, x: Tensor) -> Tensor:
    """Gaussian error linear unit by erf."""
    return F.gelu(x)


@microsoft("FastGelu")
def fast_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gaussian error linear unit by tanh, of a sum where there is a bias."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@microsoft("QuickGelu")
def quick_gelu(node: Node, x: Tensor) -> Tensor:
    """Values times the sigmoid of a multiple of them."""
    return x * torch.sigmoid(node.get("alpha", 1.702) * x)


@microsoft("BiasGelu")
def bias_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    """Gelu of a sum."""
    return F.gelu(x + bias)


@operator("Cast")
def cast(node: Node, x: Tensor) -> Tensor:
    """Another type."""
    return x.to(torch_type(node.get("to", 0), node))


@operator("CastLike")
def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    """The type of another tensor."""
    return x.to(like.dtype)
