"""Super-blocks of 256 weights whose sub-blocks have small integer scales: base of ggml's K-quants.

The encoders are our own; the bytes are ggml's. Every step is float32 with one rounding per operation (no FMA), and every
sum of fractions over the n elements of a sub-block is taken in halves, so that any vector width gives the same bits:
while n > 1, s[i] = s[i] + s[i + n/2] for i < n/2, then n = n/2 (``halving_sum``). Sums of codes are exact in any order. A
quotient that is not finite counts as 0 (``quotient``). A float16 scale that would round to zero takes the smallest
subnormal, 2^-24, with its sign (``half_scale``). "rint" is round-half-even.

A row that is no multiple of 256 is padded for encoding with copies of its last value; their codes are not stored, the
scales of sub-blocks beyond the end are.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.factors import Factors
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.grid import FloatArray, LevelGrid
from onnxquant.formats.matrix import Matrix, split
from onnxquant.formats.planes import Plane, Planes
from onnxquant.numerics.casts import narrowed

SUPER = 256


@dataclass(frozen=True)
class SuperBlocks(ggml.Blocks):
    """Base of ggml's K-quants."""

    block = SUPER
    why_not_solvable = ""
    why_scales_fixed = ""
    # Weights of a sub-block.
    sub_block: ClassVar[int]
    factors: ClassVar[Factors]

    @property
    def granularity(self) -> PerBlock:  # noqa: D102
        return PerBlock(SUPER, SUPER // self.sub_block)

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        return 8 * self.with_(permuted=False).nbytes(1, SUPER) / SUPER

    @abstractmethod
    def steps(self, planes: Planes) -> tuple[Matrix, Matrix]:
        """Step and shift of each sub-block [rows, sub-blocks], those beyond the end of a row included."""

    def grid(self, encoded: Encoded) -> LevelGrid:  # noqa: D102
        count = -(-encoded.cols // self.sub_block)
        step, shift = (side[:, :count] for side in self.steps(encoded.planes))
        return LevelGrid(self.levels()[0], step, shift, self.sub_block, self.granularity.sub_blocks, self.shifts)

    def whole(self, side: FloatArray) -> Matrix:
        """A side of sub-blocks [rows, sub-blocks] as [super-blocks, sub-blocks of one], zeros beyond the end of a row."""
        per_super = SUPER // self.sub_block
        side = narrowed(side, np.float32, overflow="largest")
        return np.pad(side, ((0, 0), (0, -side.shape[1] % per_super))).reshape(-1, per_super)

    def per_super(self, name: str, rows: int, cols: int, dtype: type, count: int = 1, bits: int = 0) -> Plane:
        """A plane of ``count`` values per super-block."""
        return Plane.of(name, (rows, count * -(-cols // SUPER)), dtype, bits=bits)

    def columns(self, chunk: Matrix) -> Matrix:
        """Sub-blocks as the columns of a matrix [weights of a sub-block, sub-blocks]: sums then run over rows."""
        return np.ascontiguousarray(split(chunk, SUPER).reshape(-1, self.sub_block).T)

    def rows_of(self, codes: Matrix, rows: int, cols: int) -> NDArray[np.uint8]:
        """Codes [rows, cols] of such columns."""
        return np.ascontiguousarray(codes.T.astype(np.uint8).reshape(rows, -1)[:, :cols])

    def spread(self, side: Matrix, cols: int) -> Matrix:
        """One value per weight from one per sub-block [rows, sub-blocks]."""
        return np.repeat(side, self.sub_block, axis=1)[:, :cols]


def halving_sum(values: Matrix) -> Matrix:
    """Sums over the first axis (a power of two long), in halves."""
    while len(values) > 1:
        half = len(values) // 2
        values = values[:half] + values[half:]
    total: Matrix = values[0]
    return total


def quotient(a: Matrix | np.float32, b: Matrix) -> Matrix:
    """The ratio a / b, 0 where that is not finite."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratio = a / b
    return np.where(np.isfinite(ratio), ratio, np.float32(0))


def half_scale(scale: Matrix) -> NDArray[np.float16]:
    """The scale of a super-block in float16; one that is not zero stays so."""
    return narrowed(scale, overflow="infinity", underflow="smallest")
