"""Grids: the values that an encoded weight can take while its scales stay as they are. Solvers choose codes on them.

Every format whose weights are codes times a scale, plus a minimum or not, is one grid: ``levels[i] * step + shift``, where
``step`` and ``shift`` belong to a group of columns, and columns are in the order in which they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import WeightError
from onnxquant.formats.matrix import Matrix, expand
from onnxquant.numerics.rows import RowSplit, by_rows

FloatArray = NDArray[np.floating]
Indices = NDArray[np.uint8]
F = TypeVar("F", bound=np.floating[Any])


@dataclass(frozen=True)
class LevelGrid:
    """Values of a weight [rows, cols].

    Attributes:
        levels: levels in ascending order, float32 [at most 256]; one apart where codes are integers.
        step: steps, float32 [rows, groups] or [1, 1]; zero where a group is constant, negative in some formats.
        shift: shifts, float32 in the same shape.
        group: columns per step; the last group of a row may be shorter.
        groups_sharing_a_scale: consecutive groups of a row whose steps and shifts are stored as factors of one scale.
        shifts: whether ``shift`` can be chosen; else it is a fixed multiple of ``step``.
    """

    levels: FloatArray
    step: FloatArray
    shift: FloatArray
    group: int
    groups_sharing_a_scale: int = 1
    shifts: bool = False

    @property
    def is_even(self) -> bool:
        """Whether levels are one apart."""
        return is_even(self.levels)

    @property
    def of_tensor(self) -> bool:
        """Whether all rows share one step."""
        return self.step.shape == (1, 1)

    def rows(self, part: slice) -> LevelGrid:
        """The grid of some rows."""
        return self if self.of_tensor else replace(self, step=self.step[part], shift=self.shift[part])


def is_even(levels: FloatArray) -> bool:
    """Whether levels are one apart."""
    return bool((np.diff(levels) == 1).all())


def values(grid: LevelGrid, indices: Indices, split: RowSplit | None = None) -> Matrix:
    """Values of the levels with these indices: float32 [rows, cols], one rounding per operation."""
    rows, cols = indices.shape
    out = np.empty((rows, cols), np.float32)

    def work(part: slice) -> None:
        step, shift = steps_and_shifts(grid, part, cols)
        np.multiply(grid.levels.astype(np.float32).take(indices[part]), step, out=out[part])
        out[part] += shift

    by_rows(rows, cols, work, split)
    return out


def nearest_indices(grid: LevelGrid, weight: FloatArray, split: RowSplit | None = None) -> Indices:
    """Indices of the levels nearest to a weight [rows, cols]; where a step is 0, of the level nearest to 0."""
    rows, cols = weight.shape
    out = np.empty((rows, cols), np.uint8)

    def work(part: slice) -> None:
        step, shift = steps_and_shifts(grid, part, cols)
        with np.errstate(over="ignore"):
            ratio = (weight[part].astype(np.float32) - shift) / np.where(step == 0, np.float32(np.inf), step)
        out[part] = nearest_index(grid.levels, ratio)

    by_rows(rows, cols, work, split)
    return out


def steps_and_shifts(grid: LevelGrid, part: slice, cols: int) -> tuple[Matrix, Matrix]:
    """Step and shift of each weight of some rows."""
    step, shift = (
        side.astype(np.float32) if grid.of_tensor else expand(side[part].astype(np.float32), grid.group, cols)
        for side in (grid.step, grid.shift)
    )
    return step, shift


def nearest_index(levels: FloatArray, ratio: NDArray[F]) -> NDArray[Any]:
    """Index of the level nearest to each number, which is not NaN."""
    if is_even(levels):
        return (nearest_level(levels, ratio) - ratio.dtype.type(levels[0])).astype(np.uint8)
    first, middles = _lookup(levels.astype(np.float32).tobytes())
    short = ratio.astype(np.float32, copy=False)
    below = first.take(np.ascontiguousarray(short).view(np.uint32) >> np.uint32(16))
    return below + (short > middles.take(below))


def nearest_level(levels: FloatArray, ratio: NDArray[F]) -> NDArray[F]:
    """The level nearest to each number, which is not NaN, in the type of the numbers."""
    if not is_even(levels):
        of_table: NDArray[F] = levels.astype(ratio.dtype).take(nearest_index(levels, ratio))
        return of_table
    rounded: NDArray[F] = np.rint(ratio)
    np.clip(rounded, levels[0], levels[-1], out=rounded)
    return rounded


@lru_cache(32)
def _lookup(levels: bytes) -> tuple[Indices, Matrix]:
    """The middles between levels, and the number of middles below all float32 with each upper half.

    Numbers with the same upper half differ by a 128th at most: no table of 256 values has two middles so close.
    """
    known = np.frombuffer(levels, np.float32)
    middles = ((known[1:] + known[:-1]) / np.float32(2)).astype(np.float32)
    halves = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    ends = np.stack([halves.view(np.float32), (halves | np.uint32(0xFFFF)).view(np.float32)])
    # Numbers that are NaN in their lower half count as infinite, beyond every middle on their side.
    ends = np.where(np.isnan(ends), np.copysign(np.float32(np.inf), ends), ends)
    lowest, highest = ends.min(axis=0), ends.max(axis=0)
    first = np.searchsorted(middles, lowest)
    if (np.searchsorted(middles, highest) > first + 1).any():
        raise WeightError("levels of a table lie nearer to each other than a 128th of their size")
    return first.astype(np.uint8), np.append(middles, np.float32(np.inf))
