"""GPTQ: codes chosen one column after the other; each corrects the rounding error of the previous columns.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv 2210.17323:
(W - Q) H (W - Q)^T is minimized per row, H the Gram matrix of the inputs. Columns of large diagonal come first, 1 % of the
mean diagonal is added to it, and later columns are updated in blocks of 128. The code follows the form of Chee et al. 2023,
arXiv 2307.13304 ("QuIP", section 3.1 and theorem 6): with H = R R^T, R upper triangular, column k is rounded to the code
nearest to

    W[:, k] + (W - Q)[:, :k] R[:k, k] / R[k, k]

which needs no inverse of H.

Few inputs say little about later ones. More is then added to the diagonal: H is shrunk towards a multiple of the identity,
for which nearest codes are best, by the share that estimates covariances best (Chen et al. 2010, "Shrinkage Algorithms for
MMSE Covariance Estimation", arXiv 0907.4698, equation 23: OAS). Without it, codes that fit 64 inputs of 256 white columns
have 2.3 times the error of nearest codes on other inputs.

A column has the scale of its own group wherever it stands in the order ("static groups"). Scales are chosen before: by
``mse`` with the energy of inputs, or by rounding to nearest where a format's scales cannot be chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.grid import FloatArray, LevelGrid, nearest_indices, nearest_level
from onnxquant.formats.matrix import Matrix
from onnxquant.native import dispatch
from onnxquant.numerics.arrays import Doubles
from onnxquant.numerics.rows import RowSplit
from onnxquant.solvers.base import Inputs, Solver, best_rows, losses
from onnxquant.solvers.mse import LeastSquares

# From the values of one column of every group [groups, rows] and its index [groups] to the nearest values that codes have.
Nearest = Callable[[Doubles, NDArray[np.intp]], Doubles]
DAMPING = 0.01
# Largest share of the identity: the factor is then diagonal, except for rounding.
_MOST = 1 - 1e-9
_BLOCK = 128
# Rows that are solved at a time: bounds the memory for tall weights.
_ROWS = 256


@dataclass(frozen=True)
class Gptq(Solver):
    """GPTQ: column after column; each corrects the rounding error of the previous columns."""

    name = "gptq"
    needs_inputs = True
    serves_static_activations = True

    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        inputs = self._required(inputs).cleaned
        candidates = [dispatch.rounded_to_nearest(form, weight) if start is None else start]
        if start is None and not LeastSquares().refusal(form):
            candidates.insert(0, LeastSquares(split=self.split).solve(form, weight, inputs))
        # Factors are as large as the Gram matrix: they are freed before the losses are computed.
        factors = Factors(inputs, keeps_zeros=self.keeps_zeros)
        candidates.append(_descended(candidates[0], weight, factors, self.split))
        return best_rows(candidates, [losses(weight, dispatch.decode(e), inputs, self.split) for e in candidates])


def _descended(start: Encoded, weight: Matrix, factors: Factors, split: RowSplit) -> Encoded:
    """The weight with codes chosen column by column on its grid."""
    grid = start.format.grid(start)
    out = np.empty(weight.shape, np.uint8)
    rows = len(weight)
    step = _ROWS if factors.groups == 1 else rows
    for first in range(0, rows, step):
        part = slice(first, first + step)
        chosen = factors.descend(weight[part], _nearest(grid, part, factors.groups))
        out[part] = nearest_indices(grid.rows(part), chosen, split)
    return start.format.place(start, out)


def _nearest(grid: LevelGrid, part: slice, groups: int) -> Nearest:
    """The search for nearest values in some rows of a grid, split over groups of inputs."""
    step, shift = (_by_column(side, part, 1 if grid.of_tensor else groups) for side in (grid.step, grid.shift))
    divisor = np.where(step == 0, np.inf, step)
    each = np.arange(len(step))

    def values(goals: Doubles, columns: NDArray[np.intp]) -> Doubles:
        at = each, columns[: len(each)] // grid.group
        return nearest_level(grid.levels, (goals - shift[at]) / divisor[at]) * step[at] + shift[at]

    return values


def _by_column(side: FloatArray, part: slice, groups: int) -> Doubles:
    """Steps [rows, groups of columns] as [groups of rows, groups of columns, rows of a group]."""
    own = side if side.shape == (1, 1) else side[part]
    split = own.astype(np.float64).reshape(groups, -1, side.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2))


class Factors:
    """Gram matrices [groups, cols, cols], factored in the order in which columns are rounded.

    The columns of a group without usable inputs are rounded by themselves.

    Args:
        inputs: inputs that a weight is multiplied with.
        keeps_zeros: whether weights that are zero stay zero; the others correct the error without them.
    """

    def __init__(self, inputs: Inputs, *, keeps_zeros: bool = False) -> None:
        self._keeps_zeros = keeps_zeros
        gram = inputs.gram
        self.groups = len(gram)
        energy = np.maximum(inputs.energy, 0)
        self._order = np.argsort(-energy, axis=1, kind="stable")
        self._feedback = [
            _feedback(one, order, inputs.count) if usable else np.eye(len(order))
            for one, order, usable in zip(gram, self._order, inputs.usable, strict=True)
        ]

    def descend(self, weight: Matrix, nearest: Nearest) -> Doubles:
        """Values that codes have, [rows, cols].

        Args:
            weight: a part of a weight with as many rows of every group.
            nearest: search for nearest values.
        """
        goals = self._ordered(weight)
        error = np.empty_like(goals)
        for start in range(0, goals.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            corrected = goals[:, block].copy()
            for g, feedback in enumerate(self._feedback if start else ()):
                corrected[g] += feedback[:start, block].T @ error[g, :start]
            within = np.stack([f[block, block].T for f in self._feedback])
            for i in range(corrected.shape[1]):
                k = start + i
                correction = within[:, i, None, :i] @ error[:, start:k]
                error[:, k] = goals[:, k] - nearest(corrected[:, i] + correction[:, 0], self._order[:, k])
                if self._keeps_zeros:
                    error[:, k][goals[:, k] == 0] = 0
        goals -= error
        np.put_along_axis(error, self._order[:, :, None], goals, 1)  # the memory of the errors is free now
        return error.swapaxes(1, 2).reshape(weight.shape)

    def _ordered(self, weight: Matrix) -> Doubles:
        """The weight as [groups, cols, rows of a group], columns in the order of rounding."""
        columns = weight.reshape(self.groups, -1, weight.shape[1]).swapaxes(1, 2)
        return np.take_along_axis(columns, self._order[:, :, None], 1).astype(np.float64)


def _feedback(gram: Doubles, order: NDArray[np.intp], samples: int | None) -> Doubles:
    """Weights of the errors of previous columns: R with a diagonal of ones, for the matrix in an order of columns."""
    from scipy.linalg import cholesky  # here, because loading it takes a fifth of the time a command needs to start

    # Cholesky's factor from the last column on, written over the one copy of the matrix: matrices may be large.
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
        except np.linalg.LinAlgError:
            damping *= 10
            continue
        factor /= np.diagonal(factor).copy()
        return factor[::-1, ::-1]


def shrinkage(grams: Doubles, samples: int | None) -> Doubles:
    """Weight of the identity, for each group, when a Gram matrix is shrunk to (1 - share) H + share tr(H) / p."""
    if samples is None:
        return np.zeros(len(grams))
    p = grams.shape[1]
    trace, squares = np.einsum("gkk->g", grams), np.einsum("gkl,gkl->g", grams, grams)
    evidence = (1 - 2 / p) * squares + trace**2
    unequal = (samples + 1 - 2 / p) * (squares - trace**2 / p)
    share: Doubles = np.full_like(trace, _MOST)
    np.divide(evidence, unequal, out=share, where=_MOST * unequal > evidence)
    return share
