"""Codes that index a table of values: value = table[code] * scale."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import PerBlock, PerRow
from onnxquant.formats.grid import FloatArray, Indices, LevelGrid
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.native_job import NativeJob
from onnxquant.formats.planes import Plane, Planes
from onnxquant.numerics.casts import narrowed


@dataclass(frozen=True)
class TableCodes(Format):
    """Base of the formats whose weights are ``table[code] * scale``."""

    # A float type of numpy or ml_dtypes, such as float8_e8m0fnu for powers of two.
    scale_dtype: ClassVar[DTypeLike] = np.float32

    @property
    @abstractmethod
    def granularity(self) -> PerRow | PerBlock:
        """The weights that share a scale."""

    @classmethod
    @abstractmethod
    def table(cls) -> Matrix:
        """The value of each code, float32 [2^bits]."""

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        scale_bits = 8 * np.dtype(self.scale_dtype).itemsize
        return self.bits + (scale_bits / self.granularity.size if isinstance(self.granularity, PerBlock) else 0)

    @property
    def native_job(self) -> NativeJob:  # noqa: D102
        return NativeJob(table=full_table(type(self)))

    def scales(self, encoded: Encoded) -> Matrix:
        """Scales as they are used, float32 [rows, groups]."""
        return self.unnest(encoded.planes)["scales"].astype(np.float32, copy=False)

    # ---- the grid that solvers see ----

    @property
    def why_not_solvable(self) -> str:  # noqa: D102
        return ""

    @property
    def why_scales_fixed(self) -> str:  # noqa: D102
        return self.why_not_solvable

    def levels(self) -> tuple[Matrix, Indices]:  # noqa: D102
        return levels_of(type(self))

    def grid(self, encoded: Encoded) -> LevelGrid:  # noqa: D102
        step = self.scales(encoded)
        return LevelGrid(self.levels()[0], step, np.zeros_like(step), self.granularity.columns(encoded.cols))

    def scale_planes(self, step: FloatArray, shift: FloatArray) -> Planes:  # noqa: D102
        return {"scales": narrowed(step, self.scale_dtype, overflow="largest")}

    # ---- planes ----

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:  # noqa: D102
        scales = Plane.of("scales", self.granularity.shape(rows, cols), self.scale_dtype)
        return [Plane.of("codes", (rows, cols), np.uint8, bits=self.bits), scales]

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:  # noqa: D102
        values = self.table()[planes["codes"]]
        values *= self.granularity.expand(planes["scales"], cols).astype(np.float32, copy=False)
        return values


@cache
def levels_of(form: type[TableCodes]) -> tuple[Matrix, Indices]:
    """Distinct finite values in ascending order, and the lowest code of each (of fp4's two zeros the positive one)."""
    levels, codes = np.unique(form.table(), return_index=True)
    finite = np.isfinite(levels)
    return levels[finite], codes[finite].astype(np.uint8)


@cache
def midpoints_of(form: type[TableCodes]) -> Matrix:
    """Middles between neighbouring levels."""
    levels = levels_of(form)[0]
    return ((levels[1:] + levels[:-1]) / np.float32(2)).astype(np.float32)


@cache
def full_table(form: type[TableCodes]) -> Matrix:
    """The value of each code, and zeros up to 256 values."""
    table = np.zeros(256, np.float32)
    table[: len(form.table())] = form.table()
    return table
