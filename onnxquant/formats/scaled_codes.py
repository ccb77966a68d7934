"""Codes with a scale and a zero point: value[r, c] = (codes[r, c] - zero[r, g]) * scale[r, g].

This data model is that of MatMulNBits: unsigned codes with an offset. ``g`` is the group that the weight ``(r, c)``
belongs to; the granularity of a format says which groups there are.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded, Format, Prepared
from onnxquant.formats.granularity import Granularity, PerBlock
from onnxquant.formats.grid import FloatArray, Indices, LevelGrid
from onnxquant.formats.matrix import Matrix, split
from onnxquant.formats.native_job import NativeJob, ZeroPoint
from onnxquant.formats.planes import Plane, Planes
from onnxquant.numerics.casts import narrowed


@dataclass(frozen=True)
class ScaledCodes(Format):
    """Base of the formats whose weights are ``(code - zero) * scale``."""

    @property
    def scale_dtype(self) -> type[np.floating[Any]]:
        """Type that scales are stored in."""
        return np.float16

    @property
    @abstractmethod
    def granularity(self) -> Granularity:
        """The weights that share a scale."""

    @abstractmethod
    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:
        """Codes, scales and zero points of some groups.

        Args:
            groups: finite float32 [rows, groups, weights of a group].
            shared: the numbers of the whole tensor that ``prepare`` gives, if any.
        """

    @property
    def zero_type(self) -> ZeroPoint:
        """Type of the zero points that each group stores; without them the code ``offset`` is zero."""
        return ZeroPoint.NONE

    @property
    def has_zero_points(self) -> bool:
        """Whether each group stores a zero point."""
        return self.zero_type is not ZeroPoint.NONE

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        granularity = self.granularity
        if not isinstance(granularity, PerBlock):
            return float(self.bits)
        zero = {ZeroPoint.NONE: 0, ZeroPoint.CODE: self.bits, ZeroPoint.FLOAT16: 16}[self.zero_type]
        return self.bits + (np.dtype(self.scale_dtype).itemsize * 8 + zero) / granularity.size

    @property
    def offset(self) -> int:
        """The code that stands for zero where no zero point is stored."""
        return 1 << (self.bits - 1)

    @property
    def bottom(self) -> int:
        """The smallest code that is written."""
        return 0

    @property
    def top(self) -> int:
        """The largest code that is written."""
        return (1 << self.bits) - 1

    @property
    def native_job(self) -> NativeJob:  # noqa: D102
        return NativeJob(self.zero_type)

    def zero_points(self, encoded: Encoded) -> NDArray[Any] | None:  # noqa: D102
        return encoded.planes["zero_points"] if self.has_zero_points else super().zero_points(encoded)

    def minima(self, encoded: Encoded) -> Matrix | None:  # noqa: D102
        return None

    # ---- the grid that solvers see ----

    @property
    def why_not_solvable(self) -> str:  # noqa: D102
        return ""

    @property
    def why_scales_fixed(self) -> str:  # noqa: D102
        return self.why_not_solvable

    @property
    def shifts(self) -> bool:  # noqa: D102
        return self.has_zero_points

    def levels(self) -> tuple[Matrix, Indices]:  # noqa: D102
        codes = np.arange(self.bottom, self.top + 1, dtype=np.uint8)
        return codes.astype(np.float32) - np.float32(0 if self.has_zero_points else self.offset), codes

    def grid(self, encoded: Encoded) -> LevelGrid:  # noqa: D102
        step = encoded.planes["scales"].astype(np.float32)
        zero = encoded.planes.get("zero_points")
        shift = np.zeros_like(step) if zero is None else zero.astype(np.float32) * -step
        return LevelGrid(self.levels()[0], step, shift, self.granularity.columns(encoded.cols), shifts=self.shifts)

    def scale_planes(self, step: FloatArray, shift: FloatArray) -> Planes:  # noqa: D102
        scales = narrowed(step, self.scale_dtype, overflow="largest")
        if not self.has_zero_points:
            return {"scales": scales}
        wide = scales.astype(np.float64)
        zero = np.divide(-shift, wide, out=np.full(wide.shape, float(self.offset)), where=wide != 0)
        if self.zero_type is ZeroPoint.FLOAT16:
            return {"scales": scales, "zero_points": narrowed(zero, overflow="largest")}
        return {"scales": scales, "zero_points": np.clip(np.rint(zero), 0, self.top).astype(np.uint8)}

    # ---- planes ----

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:  # noqa: D102
        groups = self.granularity.shape(rows, cols)
        codes = Plane.of("codes", (rows, cols), np.uint8, bits=self.bits)
        scales = Plane.of("scales", groups, self.scale_dtype)
        if self.zero_type is ZeroPoint.FLOAT16:
            return [codes, scales, Plane.of("zero_points", groups, np.float16)]
        if self.zero_type is ZeroPoint.CODE:
            return [codes, scales, Plane.of("zero_points", groups, np.uint8, bits=self.bits)]
        return [codes, scales]

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        rows, cols = chunk.shape
        planes = self.encode_groups(split(chunk, self.granularity.columns(cols)), prepared.shared)
        shape = self.granularity.shape(rows, cols)
        codes = planes.pop("codes").reshape(rows, -1)[:, :cols]
        return {"codes": codes, **{name: side.reshape(shape) for name, side in planes.items()}}

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:  # noqa: D102
        scale = self.granularity.expand(planes["scales"], cols).astype(np.float32)
        zero: Any = np.float32(self.offset)
        if "zero_points" in planes:
            zero = self.granularity.expand(planes["zero_points"], cols)
        values: Matrix = np.subtract(planes["codes"], zero, dtype=np.float32)
        values *= scale
        return values
