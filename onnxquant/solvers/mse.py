"""mse: the scales, and minima where a format has them, of least squared error when weights are rounded to the nearest code.

Per group the sum of h (w - q)^2 is minimized, h the energy of the input that a weight is multiplied with (the importance
matrix of llama.cpp's quantizers; Banner et al. 2018, arXiv 1810.05723, for clipping), or 1. This sum has many local minima as
a function of the step. So the range of rounding to nearest is shrunk, and widened a little, in a fixed series of shares. For
each share weights are rounded to nearest; the candidate is the step, and the shift, of least squares for those codes (Lloyd
1982, "Least squares quantization in PCM"), as the format can store them. A finer series around the best candidate of each
group follows, and then the same two steps alternate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.grid import LevelGrid
from onnxquant.formats.matrix import Matrix
from onnxquant.native import dispatch
from onnxquant.numerics.arrays import Doubles
from onnxquant.numerics.rows import RowSplit, by_rows
from onnxquant.solvers.base import Inputs, Solver, best_rows, rounded, weighted
from onnxquant.solvers.columns import GroupColumns, Sums, better_units, each_part

Measure = Callable[[LevelGrid], Sums]
# Shares of the range; small ones are best for rows of thousands of weights.
_SHARES = (*np.arange(1.2, 0.66, -0.08), *np.geomspace(0.65, 0.15, 10))
# Shares with the sign changed, for levels that reach further on one side: nf4 gains 0.2 dB, integers of 2 bits 0.05.
_MIRRORED = (-1.1, -1.0, -0.9, -0.8)
# The finer series. It takes 1 % off the error of 8-bit rows, whose minima are the narrowest.
_NEAR = (0.94, 0.96, 0.98, 0.99, 1.01, 1.02, 1.04, 1.06)
_REFITS = 2


@dataclass(frozen=True)
class LeastSquares(Solver):
    """Least squared error, weighted by the energy of inputs where it is known: scales that clip and refit."""

    name = "mse"

    def refusal(self, form: Format) -> str | None:
        """The reason why scales cannot be chosen in a format."""
        return form.why_scales_fixed or None

    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        importance = np.ones((1, weight.shape[1])) if inputs is None else inputs.importance
        before = dispatch.rounded_to_nearest(form, weight) if start is None else start
        after = before if start is not None else _fitted(before, weight, importance, self.split)
        candidates = [before, rounded(after, weight, self.split)]
        losses = [weighted(weight, dispatch.decode(e), importance, self.split) for e in candidates]
        return best_rows(candidates, losses)


def _fitted(before: Encoded, weight: Matrix, importance: Doubles, split: RowSplit) -> Encoded:
    """The weight re-fitted to a better grid; its ``codes`` are placeholders."""
    grid = before.format.grid(before)
    rows_per_group = before.rows // len(importance)

    def columns(part: slice) -> GroupColumns:
        rows = np.arange(part.start, part.stop) // rows_per_group
        own = importance[rows] if len(importance) > 1 else importance
        return GroupColumns(weight[part], own, grid.group)

    if not grid.of_tensor:
        return each_part(before, lambda part, encoded: fit_grid(encoded, columns(part).sums), split)

    def measure(grid: LevelGrid) -> Sums:
        parts = by_rows(before.rows, before.cols, lambda part: columns(part).sums(_of_rows(grid, part)), split)
        # Exact sums of rows do not depend on their order.
        named = ((f, np.concatenate([getattr(p, f) for p in parts])) for f in Sums.__dataclass_fields__)
        return Sums(**{f: np.full((1, 1), math.fsum(rows[:, 0])) for f, rows in named})

    return fit_grid(before, measure)


def _of_rows(grid: LevelGrid, part: slice) -> LevelGrid:
    """The grid of a tensor, in the shape of a grid of some of its rows."""
    shape = part.stop - part.start, 1
    return replace(grid, step=np.broadcast_to(grid.step, shape), shift=np.broadcast_to(grid.shift, shape))


def fit_grid(before: Encoded, measure: Measure) -> Encoded:
    """An encoded weight on the grid of the least squared error that the search meets.

    Args:
        before: the weight rounded to nearest.
        measure: function from a grid to the sums of the levels nearest on it.
    """
    form, first = before.format, before.format.grid(before)
    at_first = measure(first)
    best = _Best(before, first.step, first.shift, at_first.error(first.step, first.shift))
    best.improve(at_first, first)
    for grid in _scaled_grids(first, _SHARES if first.shifts else (*_SHARES, *_MIRRORED)):
        best.improve(measure(grid), grid)
    for grid in _scaled_grids(form.grid(best.encoded()), _NEAR):
        best.improve(measure(grid), grid)
    for _ in range(_REFITS):
        grid = form.grid(best.encoded())
        best.improve(measure(grid), grid)
    # Where groups share a scale, the best for each may not be the best for all.
    after = best.encoded()
    last = form.grid(after)
    errors = at_first.error(first.step, first.shift), measure(last).error(last.step, last.shift)
    return better_units((before, after), errors, first.groups_sharing_a_scale)


class _Best:
    """The best step and shift of each group so far, before rounding to the stored type, and their error as stored."""

    def __init__(self, before: Encoded, step: Matrix, shift: Matrix, error: Doubles) -> None:
        self._before = before
        self.step, self.shift, self.error = step.astype(np.float64), shift.astype(np.float64), error

    def encoded(self) -> Encoded:
        """Best grid as planes; ``codes`` are placeholders."""
        return self._before.format.fit(self._before, self.step, self.shift)

    def improve(self, sums: Sums, grid: LevelGrid) -> None:
        """Take the step and shift of least squares for the nearest levels on a grid, where they are better.

        Args:
            sums: sums of the nearest levels.
            grid: the grid.
        """
        form = self._before.format
        for step, shift in _proposals(form, self._before, sums, grid):
            stored = form.grid(form.fit(self._before, step, shift))
            error = sums.error(stored.step, stored.shift)
            better = error < self.error
            self.step, self.shift = np.where(better, step, self.step), np.where(better, shift, self.shift)
            self.error = np.where(better, error, self.error)


def _proposals(form: Format, before: Encoded, sums: Sums, grid: LevelGrid) -> Iterator[tuple[Doubles, Doubles]]:
    """Steps and shifts that lower the squared error of the current codes, one pair after the other."""
    if not grid.shifts:
        step = sums.best_step(grid.step)
        yield step, np.zeros_like(step)
        return
    step, shift = sums.best(grid.step)
    yield step, shift
    # Where shifts are whole steps: the step of least squares for the shift that is stored.
    stored = form.grid(form.fit(before, step, shift))
    ratio = np.divide(stored.shift, stored.step, out=np.zeros_like(step), where=stored.step != 0)
    step = sums.best_step(grid.step, ratio)
    yield step, ratio * step


def _scaled_grids(grid: LevelGrid, shares: Sequence[float]) -> Iterator[LevelGrid]:
    """Grids with shares of the range; where the shift can be chosen, around the middle of the range and around 0.

    The first are better for blocks of 32 weights between a minimum and a maximum; the second for rows with outliers on one
    side, and where shifts are whole steps.
    """
    step, shift = grid.step.astype(np.float64), grid.shift.astype(np.float64)
    middle = shift + (float(grid.levels[0]) + float(grid.levels[-1])) / 2 * step
    for share in shares:
        for centre in (middle, 0.0) if grid.shifts else (0.0,):
            yield replace(grid, step=step * share, shift=centre + (shift - centre) * share)
