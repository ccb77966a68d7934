"""Operators on codes. Rounding has no gradient: what lies before it is not trained."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxquant.modules.node import Node, Result, microsoft, operator
from onnxquant.modules.numbers import axis_of
from onnxquant.modules.operators import recurrent
from onnxquant.modules.operators.convolution import convolution
from onnxquant.modules.types import torch_type

_BOUNDS = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 65535),
    torch.int16: (-32768, 32767),
}


def _spread(node: Node, values: Tensor, x: Tensor) -> Tensor:
    """Scales or zero points of a tensor, of each place along an axis or of blocks, as they apply to its elements."""
    if values.numel() == 1:
        return values.reshape(())
    axis, block = axis_of(node, 1, x.dim()), node.get("block_size", 0)
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return values.reshape(-1, *[1] * (x.dim() - axis - 1))


@operator("QuantizeLinear")
@microsoft("QuantizeLinear")
def quantize_linear(node: Node, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Codes of values."""
    dtype = torch.uint8 if zero_point is None else zero_point.dtype
    if zero_point is None and node.get("output_dtype", 0):
        dtype = torch_type(node.get("output_dtype", 0), node)
    if dtype not in _BOUNDS:
        raise node.refuse(f"its codes are {dtype}", "codes of 8 or 16 bits")
    codes = torch.round(x / _spread(node, scale, x))
    if zero_point is not None:
        codes = codes + _spread(node, zero_point.to(codes.dtype), x)
    return codes.clamp(*_BOUNDS[dtype]).to(dtype)


@operator("DequantizeLinear")
@microsoft("DequantizeLinear")
def dequantize_linear(node: Node, codes: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Values of codes."""
    values = codes.to(scale.dtype)
    if zero_point is not None:
        values = values - _spread(node, zero_point.to(scale.dtype), codes)
    return values * _spread(node, scale, codes)


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(node: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of values in their own range, with scale and zero point."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = torch.round((-low / scale).clamp(0, 255))
    codes = (torch.round(x / scale) + zero_point).clamp(0, 255)
    return codes.to(torch.uint8), scale, zero_point.to(torch.uint8)


def _rounded(x: Tensor) -> Tensor:
    """Values as 8-bit codes of their own range give them back."""
    codes, scale, zero_point = dynamic_quantize_linear(_NO_NODE, x)
    return (codes.to(x.dtype) - zero_point.to(x.dtype)) * scale


_NO_NODE = Node("DynamicQuantizeLinear", "", "", (), (), 11)


def _centered(codes: Tensor, zero_point: Tensor | None) -> Tensor:
    """Codes less their zero point, in a type whose sums are exact."""
    return codes.double() if zero_point is None else codes.double() - zero_point.double()


def _of_rows(values: Tensor | None) -> Tensor | None:
    """Numbers of each row of a matrix, or of all of it, as they apply to its elements."""
    return values.unsqueeze(-1) if values is not None and values.dim() == 1 and values.numel() > 1 else values


def _of_columns(values: Tensor | None) -> Tensor | None:
    """Numbers of each column of matrices, or of all of them, as they apply to their elements."""
    return values.unsqueeze(-2) if values is not None and values.dim() > 1 and values.shape[-2] != 1 else values


@operator("MatMulInteger")
def integer_product(
    node: Node, x: Tensor, y: Tensor, x_zero: Tensor | None = None, y_zero: Tensor | None = None
) -> Tensor:
    """Product of codes less their zero points, as integers."""
    return _product(x, y, x_zero, y_zero).to(torch.int32)


def _product(x: Tensor, y: Tensor, x_zero: Tensor | None, y_zero: Tensor | None) -> Tensor:
    return torch.matmul(_centered(x, _of_rows(x_zero)), _centered(y, _of_columns(y_zero)))


@operator("ConvInteger")
def integer_convolution(
    node: Node, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, weight_zero: Tensor | None = None
) -> Tensor:
    """Convolution of codes less their zero points, as integers."""
    of_channels = None if weight_zero is None else weight_zero.reshape(-1, *[1] * (weight.dim() - 1))
    return convolution(node, _centered(x, x_zero), _centered(weight, of_channels)).to(torch.int32)


@microsoft("MatMulIntegerToFloat")
def product_to_float(
    node: Node,
    x: Tensor,
    y: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    x_zero: Tensor | None = None,
    y_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Product of codes as values."""
    result = _product(x, y, x_zero, y_zero).to(x_scale.dtype) * (x_scale * y_scale)
    return result if bias is None else result + bias


@microsoft("DynamicQuantizeMatMul")
def dynamic_product(
    node: Node,
    x: Tensor,
    y: Tensor,
    y_scale: Tensor,
    y_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Product of values, which become codes in their own range, and codes."""
    codes, scale, zero_point = dynamic_quantize_linear(node, x)
    return product_to_float(node, codes, y, scale, y_scale, zero_point, y_zero, bias)


@microsoft("DynamicQuantizeLSTM", numbers=(4,))
def dynamic_lstm(
    node: Node,
    x: Tensor,
    of_input: Tensor,
    of_state: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    peepholes: Tensor | None,
    *quantization: Tensor,
) -> Result:
    """An LSTM whose weights are codes [directions, inputs, gates * hidden], and whose products round what they read."""
    input_scale, input_zero, state_scale, state_zero = quantization
    weights = [
        ((codes.to(scale.dtype) - _of_directions(zero).to(scale.dtype)) * _of_directions(scale)).mT
        for codes, scale, zero in ((of_input, input_scale, input_zero), (of_state, state_scale, state_zero))
    ]
    return recurrent.run(node, "LSTM", x, (*weights, bias, peepholes), lengths, (hidden, cell), _rounded)


def _of_directions(values: Tensor) -> Tensor:
    """Numbers of each direction, or of each of its columns, as they apply to [directions, inputs, columns]."""
    return values.reshape(values.shape[0], 1, -1)
