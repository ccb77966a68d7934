"""GPTQ: codes chosen one column after the other, each making up for what the columns before it were rounded wrongly by.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv 2210.17323:
least (W - Q) H (W - Q)^T per row, H the Gram matrix of the inputs; columns of large diagonal first, 1 % of the mean diagonal
added to it, updates of later columns in blocks of 128. Written as Chee et al. 2023, arXiv 2307.13304 ("QuIP", section
3.1 and theorem 6), show it to be: with H = R R^T, R upper triangular, column k is rounded to the code nearest to

    W[:, k] + (W - Q)[:, :k] R[:k, k] / R[k, k]

which needs no inverse of H.

Few inputs say little of those to come. What is added to the diagonal is then more: as much as shrinks H towards a multiple
of the identity, under which nearest codes are best, by the share that estimates covariances best (Chen et al. 2010,
"Shrinkage Algorithms for MMSE Covariance Estimation", arXiv 0907.4698, equation 23: OAS). Without that, codes that fit 64
inputs of 256 white columns have 2.3 times the error of nearest ones on others.

Scales are those of the column's own group wherever it stands in the order ("static groups"), and are chosen beforehand: by
``mse`` with the energy of inputs, or as rounding to nearest has them where a format's cannot be chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.grid import Floats, LevelGrid, nearest, nearest_level
from onnxquant.formats.matrix import Matrix
from onnxquant.native import dispatch
from onnxquant.numerics.rows import Split
from onnxquant.solvers.base import Doubles, Inputs, Solver, best_rows, losses
from onnxquant.solvers.mse import Mse

# Values of one column of every group [groups, rows] and which column that is [groups] -> the nearest ones that codes have.
Nearest = Callable[[Doubles, NDArray[np.intp]], Doubles]
DAMPING = 0.01
# Share of the identity where nothing else is known: the factor is then diagonal, but for rounding.
_MOST = 1 - 1e-9
_BLOCK = 128
# Rows that are solved at a time: bounds the memory for tall weights.
_ROWS = 256


@dataclass(frozen=True)
class Gptq(Solver):
    """GPTQ: column after column, each making up for what the columns before it were rounded wrongly by."""

    name = "gptq"
    needs_inputs = True

    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        assert inputs is not None
        inputs = inputs.known
        tried = [dispatch.rounded_to_nearest(form, weight) if start is None else start]
        if start is None and not Mse().refusal(form):
            tried.insert(0, Mse(split=self.split).solve(form, weight, inputs))
        # Factors are as large as the Gram matrix: they are there while they are needed, and no longer.
        tried.append(_descended(tried[0], weight, Factors(inputs), self.split))
        return best_rows(tried, [losses(weight, dispatch.decode(e), inputs, self.split) for e in tried])


def _descended(start: Encoded, weight: Matrix, factors: Factors, split: Split) -> Encoded:
    """Other codes on the grid of an encoded weight."""
    grid = start.format.grid(start)
    out = np.empty(weight.shape, np.uint8)
    rows = len(weight)
    step = _ROWS if factors.groups == 1 else rows
    for first in range(0, rows, step):
        part = slice(first, first + step)
        found = factors.descend(weight[part], _nearest(grid, part, factors.groups))
        out[part] = nearest(grid.rows(part), found, split)
    return start.format.place(start, out)


def _nearest(grid: LevelGrid, part: slice, groups: int) -> Nearest:
    """Of some rows of a grid, split over groups of inputs."""
    step, shift = (_by_column(side, part, 1 if grid.of_tensor else groups) for side in (grid.step, grid.shift))
    divisor = np.where(step == 0, np.inf, step)
    each = np.arange(len(step))

    def values(goals: Doubles, columns: NDArray[np.intp]) -> Doubles:
        at = each, columns[: len(each)] // grid.group
        return nearest_level(grid.levels, (goals - shift[at]) / divisor[at]) * step[at] + shift[at]

    return values


def _by_column(side: Floats, part: slice, groups: int) -> Doubles:
    """Steps [rows, groups of columns] as [groups of rows, groups of columns, rows of a group]."""
    own = side if side.shape == (1, 1) else side[part]
    split = own.astype(np.float64).reshape(groups, -1, side.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2))


class Factors:
    """Gram matrices [groups, cols, cols], factored in the order in which columns are rounded.

    The columns of a group that says nothing are rounded by themselves.

    Args:
        inputs: what a weight is multiplied with.
    """

    def __init__(self, inputs: Inputs) -> None:
        gram = inputs.gram
        self.groups = len(gram)
        energy = np.maximum(inputs.energy, 0)
        self._order = np.argsort(-energy, axis=1, kind="stable")
        self._feedback = [
            _feedback(one, order, inputs.count) if told else np.eye(len(order))
            for one, order, told in zip(gram, self._order, inputs.told, strict=True)
        ]

    def descend(self, weight: Matrix, nearest: Nearest) -> Doubles:
        """Values that codes have, [rows, cols], for a part of a weight: as many rows of every group."""
        goals = self._ordered(weight)
        error = np.empty_like(goals)
        for start in range(0, goals.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            wanted = goals[:, block].copy()
            for g, feedback in enumerate(self._feedback if start else ()):
                wanted[g] += feedback[:start, block].T @ error[g, :start]
            within = np.stack([f[block, block].T for f in self._feedback])
            for i in range(wanted.shape[1]):
                k = start + i
                made_up = within[:, i, None, :i] @ error[:, start:k]
                error[:, k] = goals[:, k] - nearest(wanted[:, i] + made_up[:, 0], self._order[:, k])
        goals -= error
        np.put_along_axis(error, self._order[:, :, None], goals, 1)  # its room is free now
        return error.swapaxes(1, 2).reshape(weight.shape)

    def _ordered(self, weight: Matrix) -> Doubles:
        """As [groups, cols, rows of a group]: a column of all rows is what is worked on."""
        columns = weight.reshape(self.groups, -1, weight.shape[1]).swapaxes(1, 2)
        return np.take_along_axis(columns, self._order[:, :, None], 1).astype(np.float64)


def _feedback(gram: Doubles, order: NDArray[np.intp], samples: int | None) -> Doubles:
    """What each column is told of the errors before it: R with a diagonal of ones, of the matrix in an order of columns."""
    # Cholesky's factor from the last column on, in the place of the one copy that is made: matrices may be large.
    backwards = order[::-1]
    damping = 0.0
    while True:
        matrix = gram[np.ix_(backwards, backwards)]
        matrix /= np.diagonal(matrix).max()
        if not damping:
            share = float(shrinkage(matrix[None], samples)[0])
            damping = max(DAMPING, share / (1 - share)) * float(np.maximum(np.diagonal(matrix), 0).mean())
        np.einsum("kk->k", matrix)[...] += damping
        try:
            factor: Doubles = cholesky(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            damping *= 10
            continue
        factor /= np.diagonal(factor).copy()
        return factor[::-1, ::-1]


def shrinkage(grams: Doubles, samples: int | None) -> Doubles:
    """Of the identity in the shrunk matrix (1 - share) H + share tr(H) / p, per group, from p and how unequal H is."""
    if samples is None:
        return np.zeros(len(grams))
    p = grams.shape[1]
    trace, squares = np.einsum("gkk->g", grams), np.einsum("gkl,gkl->g", grams, grams)
    evidence = (1 - 2 / p) * squares + trace**2
    unequal = (samples + 1 - 2 / p) * (squares - trace**2 / p)
    share: Doubles = np.full_like(trace, _MOST)
    np.divide(evidence, unequal, out=share, where=_MOST * unequal > evidence)
    return share
