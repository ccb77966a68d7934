"""Blocks of a weight, arranged so that sums over each block are vectorised over rows, in parts that stay in cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxquant.formats.base import Encoded
from onnxquant.formats.grid import FloatArray, LevelGrid, nearest_level
from onnxquant.formats.matrix import Matrix, split
from onnxquant.numerics.arrays import Doubles
from onnxquant.numerics.rows import RowSplit, by_rows


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over each group: weights x with importance h, and their levels l. They give the error for any step and shift.

    Attributes:
        h: sum of h.
        hx: sum of h * x.
        hxx: sum of h * x * x.
        hl: sum of h * l.
        hll: sum of h * l * l.
        hlx: sum of h * l * x.
    """

    h: Doubles
    hx: Doubles
    hxx: Doubles
    hl: Doubles
    hll: Doubles
    hlx: Doubles

    def error(self, step: FloatArray, shift: FloatArray) -> Doubles:
        """The sum of h * (x - (l * step + shift))^2."""
        s, t = step.astype(np.float64), shift.astype(np.float64)
        fixed = self.hxx - 2 * t * self.hx + t * t * self.h
        return np.asarray(fixed + s * (s * self.hll + 2 * (t * self.hl - self.hlx)))

    def best(self, step: FloatArray) -> tuple[Doubles, Doubles]:
        """The step and shift of least error; ``step`` and its shift where every step has the same error."""
        across = self.h * self.hll - self.hl**2
        determined = across > 1e-12 * self.h * self.hll
        s = np.divide(self.h * self.hlx - self.hx * self.hl, across, out=step.astype(np.float64), where=determined)
        return s, (self.hx - s * self.hl) / self.h

    def best_step(self, step: FloatArray, ratio: FloatArray | float = 0.0) -> Doubles:
        """The step of least error with a shift of ``ratio`` steps; ``step`` where every step has the same error."""
        out = step.astype(np.float64)
        across = self.hll + ratio * (2 * self.hl + ratio * self.h)
        return np.divide(self.hlx + ratio * self.hx, across, out=out, where=across > 1e-12 * self.h)


class GroupColumns:
    """Some rows of a weight, a group per column.

    Attributes:
        x: weights [weights of a group, rows * groups]; a short last group of a row is filled up with its last weight.
        h: importance of each weight, 0 for filling. In a group without any importance all weights have 1.
        shape: rows and groups.
    """

    def __init__(self, weight: Matrix, importance: Doubles, group: int) -> None:
        rows, cols = weight.shape
        count = -(-cols // group)
        self.shape = rows, count
        self.x = _turned(split(weight, group))
        padded = np.zeros((len(importance), count * group))
        padded[:, :cols] = importance
        groups = padded.reshape(-1, count, group)
        some = groups.any(axis=2, keepdims=True)
        real = (np.arange(count * group) < cols).reshape(count, group)
        self.h = _turned(np.broadcast_to(np.where(some, groups, real), (rows, count, group)))
        self._hx = self.h * self.x
        self._fixed = [self._rows(v) for v in (self.h.sum(axis=0), self._hx.sum(axis=0))]
        self._fixed.append(self._rows(_dot(self._hx, self.x)))

    def levels(self, grid: LevelGrid) -> Doubles:
        """The nearest levels."""
        step, shift = (side.astype(np.float64).reshape(-1) for side in (grid.step, grid.shift))
        ratio = self.x - shift if grid.shifts else self.x
        return nearest_level(grid.levels, ratio / np.where(step == 0, np.inf, step))

    def sums(self, grid: LevelGrid) -> Sums:
        """Sums of the levels nearest on a grid, [rows, groups]."""
        levels = self.levels(grid)
        hl = self.h * levels
        of_levels = (hl.sum(axis=0), _dot(hl, levels), _dot(self._hx, levels))
        return Sums(*self._fixed, *(self._rows(v) for v in of_levels))

    def _rows(self, values: Doubles) -> Doubles:
        return values.reshape(self.shape)


def better_units(pair: Sequence[Encoded], errors: Sequence[Doubles], groups_of_unit: int) -> Encoded:
    """The second of two where its error is smaller, else the first, decided for each unit of groups that share a scale.

    Args:
        pair: a weight encoded twice in one format. Codes are taken from the first, and are placeholders where scales are
            taken from the second.
        errors: error of each group, [rows, groups], for both.
        groups_of_unit: number of consecutive groups that share a scale.
    """
    first, second = pair
    starts = np.arange(0, errors[0].shape[1], groups_of_unit)
    old, new = (np.add.reduceat(e, starts, axis=1) for e in errors)
    # Each plane has as many numbers for one unit as for another.
    planes = {
        name: np.where(np.repeat(new < old, plane.shape[1] // len(starts), axis=1), second.planes[name], plane)
        for name, plane in first.planes.items()
        if name != "codes"
    }
    return replace(first, planes={**first.planes, **planes})


def part_of(encoded: Encoded, part: slice) -> Encoded:
    """Some rows of an encoded weight whose planes all have one row per row."""
    planes = {name: plane[part] for name, plane in encoded.planes.items()}
    count = len(planes["codes"])
    return replace(encoded, rows=count, planes=planes, shape=(count, encoded.cols))


def each_part(encoded: Encoded, work: Callable[[slice, Encoded], Encoded], split: RowSplit | None = None) -> Encoded:
    """An encoded weight whose planes all have one row per row, changed part by part.

    Args:
        encoded: the weight.
        work: function of a range of rows, and of these rows encoded.
        split: parts of rows, and threads.
    """
    parts = by_rows(encoded.rows, encoded.cols, lambda part: work(part, part_of(encoded, part)), split)
    planes = {name: np.concatenate([p.planes[name] for p in parts]) for name in encoded.planes}
    return replace(encoded, planes=planes)


def _turned(groups: FloatArray) -> Doubles:
    """GroupColumns [weights of a group, rows * groups] from [rows, groups, weights of a group]."""
    return np.ascontiguousarray(groups.transpose(2, 0, 1), np.float64).reshape(groups.shape[2], -1)


def _dot(a: Doubles, b: Doubles) -> Doubles:
    products: Doubles = np.einsum("kn,kn->n", a, b)
    return products
