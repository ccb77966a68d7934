"""Integer codes of a tensor: their type, and the scale and zero point of a range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray

from onnxquant.errors import StatisticsError

# The least distance between codes: below it 1 / scale is no float32 number any more.
_LEAST_SCALE = float(np.finfo(np.float32).tiny) * 4


@dataclass(frozen=True)
class Codes:
    """Integers of some bits, for activations.

    Attributes:
        bits: 2 to 16; 8 and 16 are types of ONNX.
        signed: int8, int16; else uint8, uint16.
        symmetric: whether the zero point is the middle of the codes.

    >>> Codes().parameters(-1.0, 3.0)
    (np.float32(0.015686275), np.uint8(64))
    """

    bits: int = 8
    signed: bool = False
    symmetric: bool = False

    def __post_init__(self) -> None:
        """Check the width."""
        if not 2 <= self.bits <= 16:
            raise StatisticsError(f"bits is {self.bits}, expected 2 to 16")

    @classmethod
    def named(cls, name: str, *, symmetric: bool) -> Self:
        """The codes of a type by its name.

        >>> Codes.named("uint16", symmetric=False)
        Codes(bits=16, signed=False, symmetric=False)
        """
        dtype = np.dtype(name)
        return cls(8 * dtype.itemsize, dtype.kind == "i", symmetric)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type."""
        return np.dtype(f"{'' if self.signed else 'u'}int{8 if self.bits <= 8 else 16}")

    @property
    def elem_type(self) -> int:
        """The ONNX type."""
        return int(onnx.helper.np_dtype_to_tensor_dtype(self.dtype))

    @property
    def lowest(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The largest code."""
        return self.lowest + (1 << self.bits) - 1

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """The values of the outermost codes for a range: half a step off it, as zero points are whole numbers.

        >>> Codes().bounds(-1.0, 1.0)
        (-0.9960784912109375, 1.0039215087890625)
        """
        scale, zero = self.parameters(low, high)
        return float(scale * np.float32(self.lowest - int(zero))), float(scale * np.float32(self.highest - int(zero)))

    def parameters(self, low: float, high: float) -> tuple[np.float32, np.generic]:
        """Scale and zero point for values in [low, high], widened to hold zero, which must be exact.

        Symmetric: scale = max(-low, high) / (2^(bits-1) - 1), the zero point in the middle. Else scale =
        (high - low) / (2^bits - 1) and zero point = round(lowest - low / scale).
        """
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        if self.symmetric:
            half = 1 << (self.bits - 1)
            scale = np.float32(max(-low, high) / (half - 1))
            zero = self.lowest + half
        else:
            scale = np.float32((high - low) / (self.highest - self.lowest))
            zero = 0
        if scale < _LEAST_SCALE:  # a tensor that is always zero: any scale holds it
            scale = np.float32(1.0)
        if not self.symmetric:
            zero = int(np.clip(np.rint(self.lowest - low / float(scale)), self.lowest, self.highest))
        return scale, self.dtype.type(zero)


@dataclass(frozen=True)
class QuantizationParameters:
    """The scale and the zero point of a tensor: value = (code - zero_point) * scale.

    Attributes:
        scale: the step between codes.
        zero_point: the code of zero.
        low: lowest value of the range that they were chosen for; values below it are clipped.
        high: highest value of that range.
        codes: the integers.
    """

    scale: float
    zero_point: int
    low: float
    high: float
    codes: Codes

    @classmethod
    def of(cls, low: float, high: float, codes: Codes) -> Self:
        """The parameters of a range.

        >>> QuantizationParameters.of(-1.0, 3.0, Codes()).zero_point
        64
        """
        scale, zero = codes.parameters(low, high)
        return cls(float(scale), int(zero), low, high, codes)

    def quantize(self, array: ArrayLike) -> NDArray[Any]:
        """Codes of values, rounded to nearest even and clipped, as ONNX's QuantizeLinear does."""
        codes = np.rint(np.asarray(array, np.float32) / np.float32(self.scale)) + np.float32(self.zero_point)
        clipped: NDArray[Any] = np.clip(codes, self.codes.lowest, self.codes.highest).astype(self.codes.dtype)
        return clipped

    def dequantize(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Values of codes, as ONNX's DequantizeLinear gives them."""
        return (codes.astype(np.int32) - np.int32(self.zero_point)).astype(np.float32) * np.float32(self.scale)
