"""float16 values of constants, and the digits lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.node import STANDARD
from onnxquant.numerics.decibels import decibels
from onnxquant.numerics.score import GOOD_DB

LARGEST, SMALLEST, SMALLEST_NORMAL = 65504.0, 2.0**-24, 2.0**-14
# From here on rounding to nearest gives infinity.
OVERFLOW = 65520.0
# Beyond this a constant stands for infinity (attention masks); between, it is a number that float16 does not have.
STANDS_FOR_INFINITY = 1e9
Store = Callable[[onnx.TensorProto, NDArray[Any]], None]


@dataclass
class ConvertedConstant:
    """One float32 constant after the conversion.

    Attributes:
        name: name of the tensor.
        shape: shape of the tensor.
        half: whether it is float16 now.
        clamped: number of values beyond float16's range that became its largest.
        flushed: number of values other than zero that became zero.
        subnormal: number of values below float16's smallest normal number that lost digits.
        squared_error: sum of the squared errors.
        power: sum of the squared values.
    """

    name: str
    shape: tuple[int, ...]
    half: bool = True
    clamped: int = 0
    flushed: int = 0
    subnormal: int = 0
    squared_error: float = 0.0
    power: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in decibels."""
        return decibels(self.power, self.squared_error)


def store_inline(tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
    """Put values into a tensor itself."""
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = values.tobytes()


def to_half(values: NDArray[Any], name: str) -> tuple[NDArray[np.float16], ConvertedConstant]:
    """Values in float16 with what was lost: finite ones stay finite, and a single one that is not zero stays so."""
    constant = ConvertedConstant(name, values.shape)
    clamped = np.clip(values, -LARGEST, LARGEST, where=np.isfinite(values), out=np.array(values, np.float32))
    with np.errstate(over="ignore", under="ignore"):
        half = clamped.astype(np.float16)
    size = np.abs(values)
    if values.size == 1 and size.flat[0] > 0 and not half.any():  # a guard against division by zero, say
        half = np.copysign(np.float16(SMALLEST), values).astype(np.float16)
    constant.clamped = int(((size >= OVERFLOW) & np.isfinite(values)).sum())
    constant.flushed = int(((size > 0) & (half == 0)).sum())
    small = (size > 0) & (size < SMALLEST_NORMAL)
    constant.subnormal = int((small & (half.astype(np.float32) != values)).sum())
    finite = np.isfinite(values)
    exact, error = values[finite].astype(np.float64), half[finite].astype(np.float64)
    constant.squared_error, constant.power = float(((error - exact) ** 2).sum()), float((exact**2).sum())
    return half, constant


def beyond(values: NDArray[Any]) -> bool:
    """Whether an array holds numbers that float16 has not, and that do not stand for infinity."""
    size = np.abs(values)
    return bool(((size >= OVERFLOW) & (size < STANDS_FOR_INFINITY)).any())


def too_small(values: NDArray[Any]) -> bool:
    """Whether most of the signal of an array lies below what float16 holds."""
    return bool(np.abs(values).max(initial=0) < SMALLEST_NORMAL) and to_half(values, "")[1].sqnr_db < GOOD_DB


def unfit(values: NDArray[Any]) -> str:
    """The reason why float16 cannot stand for an array, as the end of a sentence; empty where it can."""
    if beyond(values):
        return "holds numbers beyond 65504"
    return "holds numbers too small for float16" if too_small(values) else ""


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node, if it is a dense tensor or floats."""
    if node.op_type != "Constant" or node.domain not in STANDARD or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    if attribute.name in ("value_float", "value_floats"):
        value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        return onnx.numpy_helper.from_array(np.array(value, np.float32))
    return None
