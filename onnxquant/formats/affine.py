"""int8, int4, int2: integer codes on an even grid, the scale rounded to float16 before the codes are chosen.

Symmetric grids store no zero point: value = (code - 2^(bits-1)) * scale, and use the codes -(2^(bits-1) - 1) .. of
the two's complement range, as ONNX Runtime's kernels expect. Below 8 bits the one spare negative code is worth having,
so the extreme of largest magnitude maps to it: scale = extreme / -2^(bits-1). Asymmetric grids widen the range to
hold zero and store the code of zero.

Source of the grids: the RTN quantizers of ONNX Runtime's MatMulNBits (docs/ContribOperators.md), which these match in
codes where the float16 rounding of the scale does not interfere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError
from onnxquant.formats.base import Matrix, Planes, ScaledCodes, chunks

MIN_BLOCK, MAX_BLOCK, DEFAULT_BLOCK = 16, 256, 32


@dataclass(frozen=True)
class Affine(ScaledCodes):
    """Integer codes with one scale per block, channel or tensor.

    Attributes:
        block_size: weights per scale along a row, a power of two from 16 to 256; None: per_channel decides, and where
            that is None too 32.
        per_channel: True: one scale per row; False: one scale for the tensor; None: block-wise.
        symmetric: no zero points.
    """

    block_size: int | None = None
    per_channel: bool | None = None
    symmetric: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.block_size is not None:
            if self.per_channel is not None:
                raise RecipeError("block_size and per_channel exclude each other: a block is its own granularity")
            if self.block_size not in (16, 32, 64, 128, 256):
                raise RecipeError(
                    f"block_size {self.block_size}: expected a power of two from {MIN_BLOCK} to {MAX_BLOCK} "
                    f"(onnxruntime computes garbage above it)"
                )

    @property
    def group(self) -> int | None:
        """Weights per scale; 0: a row; None: the tensor."""
        if self.per_channel is None:
            return self.block_size or DEFAULT_BLOCK
        return 0 if self.per_channel else None

    @property
    def has_zero_points(self) -> bool:
        """Asymmetric grids store one per group."""
        return not self.symmetric

    def folded(self) -> Self:
        """At 8 bits one scale per channel: blocks would cost one more float copy of the weight at load."""
        open_granularity = self.block_size is None and self.per_channel is None
        return self.with_(per_channel=True) if self.bits == 8 and open_granularity else self

    def tensor_statistics(self, weight: NDArray[Any]) -> Matrix | None:
        """Lowest and highest value of the tensor."""
        low, high = np.float32(0), np.float32(0)
        for _, chunk in chunks(weight):
            low, high = min(low, chunk.min(initial=0)), max(high, chunk.max(initial=0))
        return np.array([low, high], np.float32)

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:
        """Round to the nearest code of the float16-rounded scale."""
        if shared is not None:
            low, high = shared[:, None, None, None]
        else:
            low = groups.min(axis=-1, keepdims=True)
            high = groups.max(axis=-1, keepdims=True)
        top = (1 << self.bits) - 1
        if self.symmetric:
            scale = _half(self._symmetric_scale(low, high))
            zero: Any = np.float32(self.offset)
        else:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
            scale = _half((high - low) / np.float32(top))
            with np.errstate(divide="ignore", invalid="ignore"):
                zero = np.where(scale != 0, np.rint(-low / scale.astype(np.float32)), self.offset)
            zero = np.clip(zero, 0, top).astype(np.float32)
        with np.errstate(divide="ignore"):
            inverse = np.where(scale != 0, np.float32(1) / scale.astype(np.float32), np.float32(0))
        scaled = groups * inverse
        np.rint(scaled, out=scaled)
        scaled += zero
        lowest = 1 if self.symmetric and self.bits == 8 else 0
        np.clip(scaled, lowest, top, out=scaled)
        planes: Planes = {"codes": scaled.astype(np.uint8), "scales": scale[..., 0]}
        if not self.symmetric:
            planes["zero_points"] = zero[..., 0].astype(np.uint8)
        return planes

    def _symmetric_scale(self, low: Matrix, high: Matrix) -> Matrix:
        if self.bits == 8:
            scale = np.maximum(-low, high) / np.float32(127)
        else:
            # The negative extreme wins a tie, as in ONNX Runtime.
            scale = np.where(-low >= high, low, high) / np.float32(-self.offset)
        return scale.astype(np.float32, copy=False)


def _half(scale: Matrix) -> NDArray[np.float16]:
    """Scale in float16: what would underflow takes the smallest subnormal, so that no weight becomes zero or Inf."""
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16)
    lost = (half == 0) & (scale != 0)
    if lost.any():
        tiny = np.copysign(np.float16(6e-8), scale.astype(np.float32)).astype(np.float16)
        half = np.where(lost, tiny, half)
    return half


class Int8(Affine):
    """8-bit integers."""

    name = "int8"
    bits = 8


class Int4(Affine):
    """4-bit integers."""

    name = "int4"
    bits = 4


class Int2(Affine):
    """2-bit integers."""

    name = "int2"
    bits = 2


FORMATS = [Int8, Int4, Int2]
