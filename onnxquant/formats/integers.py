"""int8 .. int2: integer codes on an even grid, the scale rounded to float16 before the codes are chosen.

A weight that lies on such a grid already keeps its codes and its scales, which are float32 then.

Symmetric grids store no zero point: value = (code - 2^(bits-1)) * scale. At 8 bits the lowest code is not used, as ONNX
Runtime's kernels expect. Below 8 bits it is worth having, so the extreme of largest magnitude maps to it: scale = extreme /
-2^(bits-1). Asymmetric grids widen the range to
hold zero and store the code of zero.

Float zero points lie on the range as it is, min to max: scale = max((max - min) / top, max|x| / 1024) in float16, zero =
-min / scale in float16, code = clip(round-half-even(x * (1 / scale) + zero)). The second bound of the scale is for
blocks that lie far from zero compared with their width: beyond 1024 steps float16 no longer tells steps apart.

Source of the grids: the RTN quantizers of ONNX Runtime's MatMulNBits (docs/ContribOperators.md), which these match in
codes where the float16 rounding of the scale does not interfere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError
from onnxquant.formats.base import Prepared
from onnxquant.formats.facts import Facts
from onnxquant.formats.granularity import Granularity, PerBlock, PerRow, PerTensor
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.native_job import ZeroPoint
from onnxquant.formats.parameters import INTERNAL, parameter
from onnxquant.formats.planes import Planes
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.formats.survey import Survey, Surveyed
from onnxquant.numerics.casts import narrowed

MIN_BLOCK, MAX_BLOCK, DEFAULT_BLOCK = 16, 256, 32


@dataclass(frozen=True)
class Integers(ScaledCodes):
    """Integer codes with one scale per block, channel or tensor.

    Attributes:
        block_size: weights per scale along a row, a power of two from 16 to 256; None: per_channel decides, and where
            that is None too 32.
        per_channel: True: one scale per row; False: one scale for the tensor; None: block-wise.
        symmetric: no zero points.
        zero_point: type of the zero points of an asymmetric grid: "int", a code, or "float", a float16.
        wide_scales: scales are float32: those of a weight that lay on a grid before it was encoded.
    """

    source = "round to nearest of ONNX Runtime's MatMulNBits quantizers"

    block_size: int | None = parameter(
        None,
        "Weights per scale along a row: a power of two from 16 to 256; nf4, fp4 and dynamic8: from 32 to 4096.",
        samples=(32, 128),
    )
    per_channel: bool | None = parameter(
        None, "One scale per output channel, or one per tensor.", "--per-channel/--per-tensor", samples=(True, False)
    )
    symmetric: bool = parameter(True, "Without or with zero points.", "--symmetric/--asymmetric", samples=(False,))
    zero_point: str = parameter(
        "int", "Type of zero points: a code, or a float16.", choices=("int", "float"), samples=("float",)
    )

    wide_scales: bool = field(default=False, kw_only=True, metadata=INTERNAL)

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
            if self.block_size < DEFAULT_BLOCK and self.bits in (3, 5):
                raise RecipeError(
                    f"block_size {self.block_size}: expected {DEFAULT_BLOCK} or more for {self.name}, whose high bits are "
                    f"stored 32 at a time"
                )
        if self.symmetric and self.zero_point == "float":
            raise RecipeError("zero_point 'float' needs zero points: add symmetric=False (--asymmetric)")

    @property
    def granularity(self) -> Granularity:  # noqa: D102
        if self.per_channel is None:
            return PerBlock(self.block_size or DEFAULT_BLOCK)
        return PerRow() if self.per_channel else PerTensor()

    @property
    def scale_dtype(self) -> type[np.floating[Any]]:  # noqa: D102
        return np.float32 if self.wide_scales else np.float16

    @property
    def is_compiled(self) -> bool:  # noqa: D102
        return not self.wide_scales

    @property
    def zero_type(self) -> ZeroPoint:
        """Type of the zero points; a symmetric grid stores none."""
        if self.symmetric:
            return ZeroPoint.NONE
        return ZeroPoint.FLOAT16 if self.zero_point == "float" else ZeroPoint.CODE

    def for_decoding_at_load(self) -> Self:
        """The format with one scale per channel at 8 bits: blocks would cost one more float copy of the weight at load."""
        open_granularity = self.block_size is None and self.per_channel is None
        return self.with_(per_channel=True) if self.bits == 8 and open_granularity else self

    @property
    def surveyed(self) -> Surveyed:  # noqa: D102
        return Surveyed.TENSOR if isinstance(self.granularity, PerTensor) else Surveyed.NOTHING

    def prepare(self, survey: Survey | None) -> Prepared:
        """One scale for the tensor follows from its lowest and highest value."""
        return Prepared(self, None if survey is None else np.array([survey.low, survey.high], np.float32))

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:
        """Round to the nearest code of the float16-rounded scale."""
        if shared is not None:
            low, high = shared[:, None, None, None]
        else:
            low = groups.min(axis=-1, keepdims=True)
            high = groups.max(axis=-1, keepdims=True)
        # Of two zeros of both signs numpy may take either as the extreme: it is made positive.
        low, high = low + np.float32(0), high + np.float32(0)
        scale, zero = self._grid(low, high)
        with np.errstate(divide="ignore"):
            inverse = np.where(scale != 0, np.float32(1) / scale.astype(np.float32), np.float32(0))
        codes = groups * inverse
        if self.zero_type is ZeroPoint.FLOAT16:
            codes += zero
            np.rint(codes, out=codes)
        else:
            np.rint(codes, out=codes)
            codes += zero
        np.clip(codes, self.bottom, self.top, out=codes)
        planes: Planes = {"codes": codes.astype(np.uint8), "scales": scale[..., 0]}
        if not self.symmetric:
            dtype = np.float16 if self.zero_type is ZeroPoint.FLOAT16 else np.uint8
            planes["zero_points"] = zero[..., 0].astype(dtype)
        return planes

    @property
    def bottom(self) -> int:
        """The smallest code that is written."""
        return 1 if self.symmetric and self.bits == 8 else 0

    def _stored(self, scale: Matrix) -> NDArray[Any]:
        """Scales as they are stored; those that would underflow stay above zero: no weight becomes zero or infinite."""
        return narrowed(scale, self.scale_dtype, overflow="infinity", underflow="smallest")

    def _grid(self, low: Matrix, high: Matrix) -> tuple[NDArray[Any], Any]:
        """Scale and zero point (float32) of groups between these values."""
        if self.symmetric:
            return self._stored(self._symmetric_scale(low, high)), np.float32(self.offset)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.zero_type is ZeroPoint.FLOAT16:
                step = (high - low) / np.float32(self.top)
                least = np.maximum(np.abs(low), np.abs(high)) * np.float32(2**-10)
                scale = self._stored(np.maximum(step, least))
                exact = -low / scale.astype(np.float32)
                return scale, np.where(scale != 0, exact, self.offset).astype(np.float16).astype(np.float32)
            low, high = np.minimum(low, 0), np.maximum(high, 0)
            scale = self._stored((high - low) / np.float32(self.top))
            zero = np.where(scale != 0, np.rint(-low / scale.astype(np.float32)), self.offset)
        return scale, np.clip(zero, 0, self.top).astype(np.float32)

    def _symmetric_scale(self, low: Matrix, high: Matrix) -> Matrix:
        """Scale of groups between these values, so that code ``offset`` is zero.

        At 8 bits both signs reach 127. At fewer bits the larger magnitude takes the lowest code, of which there is one more,
        and a scale is negative where that magnitude is positive.
        """
        if self.bits == 8:
            scale = np.maximum(-low, high) / np.float32(127)
        else:
            # The negative extreme wins a tie, as in ONNX Runtime.
            scale = np.where(-low >= high, low, high) / np.float32(-self.offset)
        return scale.astype(np.float32, copy=False)


class Int8(Integers):
    """8-bit integers."""

    name = "int8"
    bits = 8
    facts = Facts(rmse=0.00536, drift=0.001)


class Int6(Integers):
    """6-bit integers."""

    name = "int6"
    bits = 6
    facts = Facts(rmse=0.02132)


class Int5(Integers):
    """5-bit integers."""

    name = "int5"
    bits = 5
    facts = Facts(rmse=0.0428)


class Int4(Integers):
    """4-bit integers."""

    name = "int4"
    bits = 4
    facts = Facts(rmse=0.0861)


class Int3(Integers):
    """3-bit integers."""

    name = "int3"
    bits = 3
    facts = Facts(rmse=0.1743)


class Int2(Integers):
    """2-bit integers."""

    name = "int2"
    bits = 2
    facts = Facts(rmse=0.3618)
