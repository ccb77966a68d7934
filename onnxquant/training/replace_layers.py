"""Layers of a float model, replaced by those that round."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TypeVar

from torch import nn

from onnxquant.errors import RecipeError
from onnxquant.training.attention import QuantizedMultiheadAttention
from onnxquant.training.layers import QuantizedConv2d, QuantizedLinear

_Model = TypeVar("_Model", bound=nn.Module)
_FROM_FLOAT: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Linear: QuantizedLinear.from_float,
    nn.Conv2d: QuantizedConv2d.from_float,
    nn.MultiheadAttention: QuantizedMultiheadAttention.from_float,
}


def quantize_layers(
    model: _Model, *, weight_bits: int = 8, activation_bits: int | None = None, exclude: Container[str] = ()
) -> _Model:
    """Replace the Linear, Conv2d and MultiheadAttention layers inside a model, in place; returns the model.

    Layers of classes derived from these stay. A layer in several places is replaced by one.

    Args:
        model: the model; not a layer itself.
        weight_bits: bits of the weights' codes, 2 to 8.
        activation_bits: bits of the codes of what is read, 2 to 8; None: floats.
        exclude: names of layers that stay, as ``model.named_modules()`` has them.

    Raises:
        RecipeError: nothing is replaced.

    >>> quantize_layers(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), weight_bits=4)[0].rounded_weight.quantizer.step.shape
    torch.Size([2])
    """
    replaced: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules()):
        for child_name, child in list(module._modules.items()):
            from_float = _FROM_FLOAT.get(type(child))
            if child is None or from_float is None or f"{name}.{child_name}".lstrip(".") in exclude:
                continue
            if child not in replaced:
                replaced[child] = from_float(child, weight_bits=weight_bits, activation_bits=activation_bits)
            setattr(module, child_name, replaced[child])
    if not replaced:
        raise RecipeError("the model has no Linear, Conv2d or MultiheadAttention layer inside that is not excluded")
    return model
