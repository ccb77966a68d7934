"""adaround: learned rounding, up or down on the grid, so that the products of a weight come out right.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568, equations 21 to 25: per
weight a variable V with ``h = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)``, zeta = 1.1, gamma = -0.1, is how far it goes
from one neighbour on the grid to the other; Adam minimizes the error of the outputs plus ``lambda sum (1 - |2 h - 1|^beta)``,
whose beta falls from a value that lets h be to one that drives it to 0 or 1. The Gram matrix H of the inputs has all there is
to know of the data: the error of a row is e H e^T, and its gradient by e is 2 e H. It is divided by what flipping a weight
of the row costs on average, so that one lambda suits all layers.

Other than in the paper, V starts at the distance to the nearest neighbour, so nothing is drawn; beta falls from 8 from the
first iteration on, as tens of iterations are afforded instead of thousands; and afterwards single weights are flipped, the
one that gains most first, until none gains. That ends in a local minimum of whatever it starts from, so what was learned is
compared with what comes of the nearest neighbours in the same way, row by row. On 10 columns, where all roundings can be
tried, the better of the two loses 5 % more than the best (nearest: 90 %) where inputs have full rank.

Few inputs say little of those to come: H is shrunk as for GPTQ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.grid import Grid, Indices, nearest, spread, values
from onnxquant.formats.matrix import Matrix
from onnxquant.solvers.base import Inputs, Solver, better_rows, losses, rounded
from onnxquant.solvers.gptq import _share
from onnxquant.solvers.mse import Mse

_SCALES = Mse()
ZETA, GAMMA = 1.1, -0.1
_LAMBDA = 0.2
_FIRST_BETA, _LAST_BETA = 8.0, 2.0
# Adam's step is this over the number of iterations: how far V can come does not depend on it.
_REACH = 20.0
_DECAYS = 0.9, 0.999
# Multiplications that the gradients of one weight may take: 64 iterations at 4096 x 4096.
_WORK = 1 << 42
_FEWEST, _MOST = 32, 400
# Weights worked on together: some arrays of float32 stay in cache.
_TOGETHER = 1 << 20
# A flip gains if it gains more than this share of what a flip costs on average: float32 knows no better.
_GAIN = 1e-5


@dataclass(frozen=True)
class AdaRound(Solver):
    """Learned rounding up or down (AdaRound), by the inputs' Gram matrix.

    Iterations are as many as take 2^42 multiplications, rows times cols squared each, but at least 32 and at most 400.
    """

    name = "adaround"
    needs_inputs = True

    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        assert inputs is not None  # it needs them
        if start is not None:
            bases = [start, rounded(start, weight)]
        else:
            bases = [form.encode(weight)]
            if not _SCALES.refusal(form):
                bases = [_SCALES.solve(form, weight, inputs), *bases]
        found = self._on_the_grid_of(bases[0], weight, inputs)
        lost = losses(weight, form.decode(found), inputs)
        for base in bases:
            kept = losses(weight, form.decode(base), inputs)
            found, lost = better_rows(base, found, kept, lost), np.minimum(kept, lost)
        return found

    def _on_the_grid_of(self, start: Encoded, weight: Matrix, inputs: Inputs) -> Encoded:
        grid = start.format.grid(start)
        near = nearest(grid, weight)
        below = values(grid, near)
        other = _others(grid, near, weight > below)
        task = _Task(weight - below, values(grid, other) - below)
        moved = np.zeros(weight.shape, bool)
        of_group = len(weight) // len(inputs.gram)
        step = max(1, _TOGETHER // weight.shape[1])
        for group, gram in enumerate(_shrunk(inputs)):
            last = (group + 1) * of_group
            for first in range(group * of_group, last if gram.any() else 0, step):
                part = slice(first, min(first + step, last))
                moved[part] = task.rows(part).solve(gram, of_group)
        return start.format.place(start, np.where(moved, other, near))


def _shrunk(inputs: Inputs) -> Matrix:
    """Gram matrices in float32, the largest element of each diagonal 1; zeros where one says nothing."""
    gram = inputs.gram
    largest = inputs.energy.max(axis=1)
    told = np.isfinite(gram).all(axis=(1, 2)) & (largest > 0)
    unit = np.divide(gram, largest[:, None, None], out=np.zeros_like(gram), where=told[:, None, None])
    share = _share(unit, inputs.count)
    mean = np.einsum("gkk->gk", unit).mean(axis=1)
    np.einsum("gkk->gk", unit)[...] += np.where(told, share / (1 - share) * mean, 0)[:, None]
    return unit.astype(np.float32)


def _others(grid: Grid, near: Indices, above: NDArray[np.bool_]) -> Indices:
    """The level next to the nearest on the side of the weight, which is ``above`` or not; inwards from the ends."""
    step, _ = spread(grid, slice(None), near.shape[1])
    up = (above == (step > 0)) | (near == 0)
    up &= near != len(grid.levels) - 1
    return np.where(up, near + 1, near - (near > 0)).astype(np.uint8)


@dataclass(frozen=True)
class _Task:
    """Errors of the nearest values of rows, float32 [rows, cols], and what moving to the others takes off them."""

    error: Matrix
    move: Matrix

    def rows(self, part: slice) -> _Task:
        return replace(self, error=self.error[part], move=self.move[part])

    def solve(self, gram: Matrix, rows: int) -> NDArray[np.bool_]:
        """Which weights move; ``rows``: how many share the work."""
        iterations = min(max(_WORK // (rows * gram.size), _FEWEST), _MOST)
        learned, lost = self._descend(self._learn(gram, iterations), gram)
        plain, kept = self._descend(np.zeros(self.error.shape, bool), gram)
        return np.where((lost < kept)[:, None], learned, plain)

    def _costs(self, gram: Matrix) -> Matrix:
        """What each move alone costs, from an error of zero."""
        return np.square(self.move) * np.diagonal(gram)

    def _learn(self, gram: Matrix, iterations: int) -> NDArray[np.bool_]:
        """Which weights move, by gradient."""
        cost = self._costs(gram).mean(axis=1, keepdims=True)
        pull = 2 * self.move / np.where(cost > 0, cost, 1)
        start = np.divide(self.error, self.move, out=np.zeros_like(self.error), where=self.move != 0)
        variable = -np.log((ZETA - GAMMA) / (np.clip(start, 0, 1) - GAMMA) - 1)
        mean, square = np.zeros_like(variable), np.zeros_like(variable)
        rate = _REACH / iterations
        for i in range(1, iterations + 1):
            sigmoid = 1 / (1 + np.exp(-variable))
            open_ = sigmoid * np.float32(ZETA - GAMMA) + np.float32(GAMMA)
            h = np.clip(open_, 0, 1)
            gradient = ((self.move * h - self.error) @ gram) * pull
            beta = _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * (1 + np.cos(np.pi * i / iterations)) / 2
            side = 2 * h - 1
            gradient -= np.copysign(np.float32(2 * _LAMBDA * beta) * np.abs(side) ** np.float32(beta - 1), side)
            gradient *= (ZETA - GAMMA) * sigmoid * (1 - sigmoid) * (h == open_)
            for moment, decay, power in ((mean, _DECAYS[0], gradient), (square, _DECAYS[1], np.square(gradient))):
                moment *= decay
                moment += (1 - decay) * power
            size = np.sqrt(square / (1 - _DECAYS[1] ** i)) + np.float32(1e-8)
            variable -= rate / (1 - _DECAYS[0] ** i) * mean / size
        return variable > 0

    def _descend(self, moved: NDArray[np.bool_], gram: Matrix) -> tuple[NDArray[np.bool_], Matrix]:
        """Flip the weight of each row that gains most until none gains: which move, and what each row loses."""
        moved, cost, rows = moved.copy(), self._costs(gram), np.arange(len(moved))
        error = self.error - self.move * moved
        # What a flip adds to the error, and what the error is multiplied with once.
        flip, product = np.where(moved, self.move, -self.move), error @ gram
        least = -_GAIN * cost.mean(axis=1)
        for _ in range(moved.shape[1]):
            gain = 2 * flip * product + cost
            best = gain.argmin(axis=1)
            active = rows[gain[rows, best] < least]
            if not active.size:
                break
            column = best[active]
            by = flip[active, column]
            error[active, column] += by
            product[active] += by[:, None] * gram[column]
            flip[active, column] = -by
            moved[active, column] ^= True
        return moved, np.einsum("rk,rk->r", error, error @ gram)
