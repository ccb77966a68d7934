"""hqq: shifts that keep large errors few, without any inputs.

Badri & Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models", https://mobiusml.github.io/hqq_blog. The
sum of |w - q|^p, p < 1, is minimized: outliers may be far off if that lets the other weights be near. With e for the part of
the error that is accepted, two steps alternate, each with a closed form:

    e = sign(w - q) max(0, |w - q| - |w - q|^(p - 1) / beta)
    shift = mean over the group of (w - e) - level * step

and beta grows by kappa. The step is that of rounding to nearest. A group stops when its sum does not fall any more, and keeps
the shift before. Numbers are float32, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.grid import FloatArray, LevelGrid, nearest_level
from onnxquant.formats.matrix import Matrix
from onnxquant.native import dispatch
from onnxquant.numerics.arrays import Doubles
from onnxquant.numerics.rows import RowSplit, by_rows
from onnxquant.solvers.base import Inputs, Solver, best_rows, rounded
from onnxquant.solvers.columns import GroupColumns, better_units, each_part

P = 0.7
BETA, KAPPA = 10.0, 1.01
ITERATIONS = 20


@dataclass(frozen=True)
class Hqq(Solver):
    """Half-quadratic quantization: shifts of a block that keep large errors few, without data."""

    name = "hqq"

    def refusal(self, form: Format) -> str | None:
        """The reason why shifts cannot be chosen in a format."""
        if reason := form.why_scales_fixed:
            return reason
        return None if form.shifts else "it has no minimum or zero point, which is what hqq chooses"

    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        before = dispatch.rounded_to_nearest(form, weight) if start is None else start
        after = before
        if start is None and form.grid(before).of_tensor:
            after = _shifted(before, weight.reshape(-1, 1))
        elif start is None:
            after = each_part(before, lambda part, encoded: _of_rows(encoded, weight[part]), self.split)
        candidates = [before, rounded(after, weight, self.split)]
        return best_rows(candidates, [powers(weight, dispatch.decode(e), self.split) for e in candidates])


def powers(weight: Matrix, decoded: Matrix, split: RowSplit | None = None) -> Doubles:
    """The sum of |w - q|^p of each row."""

    def work(part: slice) -> Doubles:
        return np.asarray((np.abs(weight[part].astype(np.float64) - decoded[part]) ** P).sum(axis=1))

    rows, cols = weight.shape
    return np.concatenate(by_rows(rows, cols, work, split))


def _of_rows(before: Encoded, weight: Matrix) -> Encoded:
    """Some rows on a grid with better shifts; their ``codes`` are placeholders."""
    columns = GroupColumns(weight, np.ones((1, weight.shape[1])), before.format.grid(before).group)
    return _shifted(before, columns.x.astype(np.float32), columns.h.astype(np.float32))


def _shifted(before: Encoded, x: Matrix, real: Matrix | None = None) -> Encoded:
    """The weight on a grid with better shifts; its ``codes`` are placeholders.

    Args:
        before: the weight rounded to nearest.
        x: its groups, [weights of a group, groups].
        real: 0 where a short group was filled up, else 1; None: nothing was filled up.
    """
    form, first = before.format, before.format.grid(before)
    real = np.ones_like(x) if real is None else real
    shift = half_quadratic(x, first, real).reshape(first.step.shape)
    # The stored shift is rounded, and groups that share a scale may need different ones.
    after = form.fit(before, first.step, shift)
    grids = first, form.grid(after)
    errors = [_errors(x, g, real)[0].astype(np.float64).reshape(first.step.shape) for g in grids]
    return better_units((before, after), errors, first.groups_sharing_a_scale)


def half_quadratic(x: Matrix, grid: LevelGrid, real: Matrix) -> FloatArray:
    """The shifts [groups] of columns x [weights of a group, groups] with the least sum of all iterations."""
    count, beta = real.sum(axis=0), np.float32(BETA)
    shift: FloatArray = grid.shift.reshape(-1)
    best, least = shift, np.full(shift.shape, np.inf, np.float32)
    for _ in range(ITERATIONS):
        total, off, powered = _errors(x, replace(grid, shift=shift), real)
        falls = total < least
        if not falls.any():
            break
        best, least = np.where(falls, shift, best), np.where(falls, total, least)
        size = np.abs(off)
        # Zero residuals stay zero: fmax picks the number where 0 / 0 is NaN. Padding is absorbed completely, so it does not
        # move the shift.
        with np.errstate(invalid="ignore"):
            accepted = np.copysign(np.fmax(size - powered / size / beta, np.float32(0)), off)
        # x - level * step is the residual plus the shift.
        moved = shift + (off - accepted).sum(axis=0) / count
        shift = np.where(falls, moved, shift)
        # A group that stopped has the sum that it had, which does not fall again.
        beta *= np.float32(KAPPA)
    return best


def _errors(x: Matrix, grid: LevelGrid, real: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """The sum of |x - q|^p of each group, q the nearest levels of a grid; the residuals x - q; and |x - q|^p."""
    step, shift = (side.astype(np.float32).reshape(-1) for side in (grid.step, grid.shift))
    off: Matrix = x - shift
    off -= nearest_level(grid.levels, off / np.where(step == 0, np.float32(np.inf), step)) * step
    with np.errstate(divide="ignore"):
        powered: Matrix = np.exp(np.float32(P) * np.log(np.abs(off)))
    powered *= real
    return powered.sum(axis=0), off, powered
