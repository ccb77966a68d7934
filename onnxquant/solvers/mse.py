"""mse: scales, and minima where a format has them, that lose least when weights are rounded to the nearest code.

Per group the sum of h (w - q)^2 is made small, h the energy of the input that a weight is multiplied with (the importance
matrix of llama.cpp's quantizers; Banner et al. 2018, arXiv 1810.05723, for clipping as such), or 1. As a function of the step
it has many local minima. So the range that rounding to nearest has is shrunk, and widened a little, on a ladder; on each
rung weights are rounded to nearest, and the step, and the shift, of least squares for those codes (Lloyd 1982, "Least
squares quantization in PCM") are the candidate, as the format can store them. Around the best of a group finer rungs follow,
and the same two steps in turn.
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
from onnxquant.numerics.rows import Split, by_rows
from onnxquant.solvers.base import Doubles, Inputs, Solver, best_rows, rounded, weighted
from onnxquant.solvers.columns import Columns, Sums, better_units, each_part

Measure = Callable[[LevelGrid], Sums]
# Shares of the range: rows of thousands of weights want small ones.
_SHARES = (*np.arange(1.2, 0.66, -0.08), *np.geomspace(0.65, 0.15, 10))
# The other way round, for levels that reach further on one side: nf4 gains 0.2 dB, integers of 2 bits 0.05.
_MIRRORED = (-1.1, -1.0, -0.9, -0.8)
# Around the best of these: 1 % of the error of 8-bit rows, whose minima are the narrowest.
_NEAR = (0.94, 0.96, 0.98, 0.99, 1.01, 1.02, 1.04, 1.06)
_REFITS = 2


@dataclass(frozen=True)
class Mse(Solver):
    """Least squared error, weighted by the energy of inputs where that is known: scales that clip and refit."""

    name = "mse"

    def refusal(self, form: Format) -> str | None:
        """It chooses scales."""
        return form.why_scales_fixed or None

    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        importance = np.ones((1, weight.shape[1])) if inputs is None else inputs.importance
        before = dispatch.rounded_to_nearest(form, weight) if start is None else start
        after = before if start is not None else _fitted(before, weight, importance, self.split)
        tried = [before, rounded(after, weight, self.split)]
        return best_rows(tried, [weighted(weight, dispatch.decode(e), importance, self.split) for e in tried])


def _fitted(before: Encoded, weight: Matrix, importance: Doubles, split: Split) -> Encoded:
    """The weight on other grids; its codes have no meaning yet."""
    grid = before.format.grid(before)
    of_group = before.rows // len(importance)

    def columns(part: slice) -> Columns:
        rows = np.arange(part.start, part.stop) // of_group
        own = importance[rows] if len(importance) > 1 else importance
        return Columns(weight[part], own, grid.group)

    if not grid.of_tensor:
        return each_part(before, lambda part, encoded: fit_grid(encoded, columns(part).sums), split)

    def measure(grid: LevelGrid) -> Sums:
        parts = by_rows(before.rows, before.cols, lambda part: columns(part).sums(_of_rows(grid, part)), split)
        # Exact sums of rows do not depend on their order.
        named = ((f, np.concatenate([getattr(p, f) for p in parts])) for f in Sums.__dataclass_fields__)
        return Sums(**{f: np.full((1, 1), math.fsum(rows[:, 0])) for f, rows in named})

    return fit_grid(before, measure)


def _of_rows(grid: LevelGrid, part: slice) -> LevelGrid:
    """The grid of a tensor as that of some of its rows."""
    shape = part.stop - part.start, 1
    return replace(grid, step=np.broadcast_to(grid.step, shape), shift=np.broadcast_to(grid.shift, shape))


def fit_grid(before: Encoded, measure: Measure) -> Encoded:
    """An encoded weight on the grid of least squared error that is found.

    Args:
        before: the weight rounded to nearest.
        measure: sums of the levels that are nearest on a grid.
    """
    form, first = before.format, before.format.grid(before)
    at_first = measure(first)
    best = _Best(before, first.step, first.shift, at_first.error(first.step, first.shift))
    best.improve(at_first, first)
    for tried in _ladder(first, _SHARES if first.shifts else (*_SHARES, *_MIRRORED)):
        best.improve(measure(tried), tried)
    for tried in _ladder(form.grid(best.encoded()), _NEAR):
        best.improve(measure(tried), tried)
    for _ in range(_REFITS):
        tried = form.grid(best.encoded())
        best.improve(measure(tried), tried)
    # Where groups are stored together, what was best for each may not be for all.
    after = best.encoded()
    last = form.grid(after)
    errors = at_first.error(first.step, first.shift), measure(last).error(last.step, last.shift)
    return better_units((before, after), errors, first.groups_sharing_a_scale)


class _Best:
    """Per group the best step and shift found so far, as wanted and not as stored, and their error as stored."""

    def __init__(self, before: Encoded, step: Matrix, shift: Matrix, error: Doubles) -> None:
        self._before = before
        self.step, self.shift, self.error = step.astype(np.float64), shift.astype(np.float64), error

    def encoded(self) -> Encoded:
        """The best as the format holds it; its codes have no meaning."""
        return self._before.format.fit(self._before, self.step, self.shift)

    def improve(self, sums: Sums, grid: LevelGrid) -> None:
        """Take the step and shift of least squares for levels found on a grid, where they are better."""
        form = self._before.format
        for step, shift in _proposals(form, self._before, sums, grid):
            stored = form.grid(form.fit(self._before, step, shift))
            error = sums.error(stored.step, stored.shift)
            better = error < self.error
            self.step, self.shift = np.where(better, step, self.step), np.where(better, shift, self.shift)
            self.error = np.where(better, error, self.error)


def _proposals(form: Format, before: Encoded, sums: Sums, grid: LevelGrid) -> Iterator[tuple[Doubles, Doubles]]:
    if not grid.shifts:
        step = sums.best_step(grid.step)
        yield step, np.zeros_like(step)
        return
    step, shift = sums.best(grid.step)
    yield step, shift
    # Where shifts are whole steps, the step of least squares for the one that is stored.
    stored = form.grid(form.fit(before, step, shift))
    ratio = np.divide(stored.shift, stored.step, out=np.zeros_like(step), where=stored.step != 0)
    step = sums.best_step(grid.step, ratio)
    yield step, ratio * step


def _ladder(grid: LevelGrid, shares: Sequence[float]) -> Iterator[LevelGrid]:
    """Grids of shares of the range; where the shift can be chosen, about the middle of the range and about 0.

    Of 32 weights between a minimum and a maximum the first are better; of rows with outliers on one side, and where shifts
    are whole steps, the second.
    """
    step, shift = grid.step.astype(np.float64), grid.shift.astype(np.float64)
    middle = shift + (float(grid.levels[0]) + float(grid.levels[-1])) / 2 * step
    for share in shares:
        for about in (middle, 0.0) if grid.shifts else (0.0,):
            yield replace(grid, step=step * share, shift=about + (shift - about) * share)
