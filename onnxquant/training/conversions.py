"""Rounding to codes and back as an exported ONNX file does it: QuantizeLinear, Clip, DequantizeLinear.

Both exporters of torch know these nodes by other means: that of TorchScript by ``symbolic`` of a function, the one of
``torch.export`` by ``torch.onnx.ops.symbolic``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# The opset in which DequantizeLinear takes an axis.
_OPSET = 13


class _Conversions(torch.autograd.Function):
    """The nodes for the exporter of TorchScript; what they compute for its trace."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        values: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        low: Tensor | None,
        high: Tensor | None,
        axis: int,
    ) -> Tensor:
        shape = [-1 if place == axis else 1 for place in range(values.dim())] if scale.dim() else []
        step, zero = scale.reshape(shape), zero_point.reshape(shape).to(values.dtype)
        bounds = torch.iinfo(zero_point.dtype)
        least, most = (bounds.min, bounds.max) if low is None or high is None else (int(low), int(high))
        codes = (torch.round(values / step) + zero).clamp(least, most)
        return (codes - zero) * step

    @staticmethod
    def symbolic(
        g: Any,  # noqa: ANN401
        values: Any,  # noqa: ANN401
        scale: Any,  # noqa: ANN401
        zero_point: Any,  # noqa: ANN401
        low: Any,  # noqa: ANN401
        high: Any,  # noqa: ANN401
        axis: int,
    ) -> Any:  # noqa: ANN401
        codes = g.op("QuantizeLinear", values, scale, zero_point, axis_i=axis)
        if low is not None:
            codes = g.op("Clip", codes, low, high)
        return g.op("DequantizeLinear", codes, scale, zero_point, axis_i=axis).setType(values.type())


def exported_conversions(
    values: Tensor, scale: Tensor, zero_point: Tensor, low: Tensor | None, high: Tensor | None, axis: int = 0
) -> Tensor:
    """Values rounded to codes and back, as nodes of the file that ``torch.onnx.export`` is writing.

    Args:
        values: floats.
        scale: float32, a scalar or one number for each place along the axis.
        zero_point: int8 or uint8 in the same shape; its type is that of the codes.
        low: the smallest code, a scalar of that type; None: the type bounds codes on both sides.
        high: the largest code, or None.
        axis: the axis.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # torch leaves it out of its types
        result: Tensor = _Conversions.apply(values, scale, zero_point, low, high, axis)  # type: ignore[no-untyped-call]
        return result
    attributes: dict[str, Any] = {"axis": axis} if scale.dim() else {}
    symbolic, shape = torch.onnx.ops.symbolic, values.shape
    codes = symbolic(
        "QuantizeLinear", (values, scale, zero_point), attributes, dtype=zero_point.dtype, shape=shape, version=_OPSET
    )
    if low is not None:
        codes = symbolic("Clip", (codes, low, high), dtype=zero_point.dtype, shape=shape, version=_OPSET)
    back: Tensor = symbolic(
        "DequantizeLinear", (codes, scale, zero_point), attributes, dtype=values.dtype, shape=shape, version=_OPSET
    )
    return back
