"""adaround: learned rounding up or down on the grid, for the least error of the products of a weight.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568, equations 21 to 25: per
weight a variable V with ``h = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)``, zeta = 1.1, gamma = -0.1, is the position
between its two neighbours on the grid. Adam minimizes the error of the outputs plus ``lambda sum (1 - |2 h - 1|^beta)``; beta
falls from a value at which h is free to one at which h is driven to 0 or 1. The Gram matrix H of the inputs replaces the
data: the error of a row is e H e^T, and its gradient by e is 2 e H. It is divided by the average cost of flipping a weight
of the row, so that one lambda suits all layers.

The differences from the paper: V starts at the distance to the nearest neighbour, so nothing is random; beta falls from 8
from the first iteration on, because there are tens of iterations instead of thousands; and a tabu search follows (Glover,
Kochenberger & Alidaee 1998, "Adaptive Memory Tabu Search for Binary Quadratic Programs"). It flips the weight of a row whose
flip gains most, or costs least, except for those flipped last, and keeps the best result. On 9 columns, where all roundings
can be tried, its loss is 0 to 4 % above the best, where rounding to nearest loses twice as much.

Few inputs say little about later ones: H is shrunk towards its diagonal's mean, as for GPTQ.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.grid import Indices, LevelGrid, nearest_indices, steps_and_shifts, values
from onnxquant.formats.matrix import Matrix
from onnxquant.native import dispatch
from onnxquant.numerics.arrays import Doubles
from onnxquant.numerics.rows import in_threads
from onnxquant.solvers.base import Inputs, Solver, best_rows, losses, rounded
from onnxquant.solvers.gptq import shrinkage
from onnxquant.solvers.mse import LeastSquares

ZETA, GAMMA = 1.1, -0.1
_LAMBDA = 0.2
_FIRST_BETA, _LAST_BETA = 8.0, 2.0
# Adam's step times the number of iterations, so that the range of V does not depend on their number.
_REACH = 20.0
_DECAYS = 0.9, 0.999
# Multiplications that the gradients of one weight may take: 16 iterations at 4096 x 4096.
_WORK = 1 << 40
_FEWEST, _MOST = 16, 64
# Weights worked on together: some arrays of float32 stay in cache.
_TOGETHER = 1 << 17
# Least gain that counts, as a share of the average cost of a flip: less is within the rounding of float32.
_GAIN = 1e-4
# The last 4 flips may not be undone; a row is done after 60 flips without improvement, or after 2 flips per column.
_TENURE, _PATIENCE, _FLIPS = 4, 60, 2


@dataclass(frozen=True)
class AdaRound(Solver):
    """Learned rounding up or down (AdaRound), by the inputs' Gram matrix.

    The number of iterations is 2^40 multiplications over rows times cols squared, but at least 16 and at most 64.
    """

    name = "adaround"
    needs_inputs = True

    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        inputs = self._required(inputs)
        gram = _scaled(inputs)
        candidates = [dispatch.rounded_to_nearest(form, weight) if start is None else start]
        if start is not None:
            candidates.append(rounded(start, weight, self.split))
        if start is None and not LeastSquares().refusal(form):
            candidates.insert(0, LeastSquares(split=self.split).solve(form, weight, inputs))
        candidates.append(_learned(self, candidates[0], weight, _shrunk(gram, inputs.count)))
        return best_rows(candidates, [losses(weight, dispatch.decode(e), Inputs(gram), self.split) for e in candidates])


def _learned(solver: AdaRound, start: Encoded, weight: Matrix, grams: Matrix) -> Encoded:
    """The weight with learned codes on its grid."""
    grid, split = start.format.grid(start), solver.split
    near = nearest_indices(grid, weight, split)
    below = values(grid, near, split)
    other = _others(grid, near, weight > below)
    move = values(grid, other, split) - below
    if solver.keeps_zeros:
        move[weight == 0] = 0
    size = np.abs(move).max(axis=1, keepdims=True)  # squares of a row's errors then neither vanish nor overflow
    error, move = (np.divide(side, size, out=np.zeros_like(move), where=size > 0) for side in (weight - below, move))
    choice = _Choice(error, move)
    moved = np.zeros(weight.shape, bool)
    rows_per_group = len(weight) // len(grams)
    step = max(1, _TOGETHER // weight.shape[1])

    def work(place: tuple[int, int]) -> None:
        first, group = place
        part = slice(first, min(first + step, (group + 1) * rows_per_group))
        moved[part] = choice.rows(part).solve(grams[group], rows_per_group)

    usable = [group for group, gram in enumerate(grams) if gram.any()]
    parts = [(first, g) for g in usable for first in range(g * rows_per_group, (g + 1) * rows_per_group, step)]
    in_threads(work, parts, split.threads)
    return start.format.place(start, np.where(moved & (move != 0), other, near))


def _scaled(inputs: Inputs) -> Doubles:
    """Gram matrices whose largest diagonal element is 1; zeros for groups without usable inputs."""
    largest = inputs.energy.max(axis=1)
    gram, usable = inputs.gram, inputs.usable[:, None, None]
    out: Doubles = np.divide(gram, largest[:, None, None], out=np.zeros_like(gram), where=usable)
    return out


def _shrunk(gram: Doubles, count: int | None) -> Matrix:
    """The Gram matrices that are minimized: float32, shrunk as far as few inputs require."""
    share = shrinkage(gram, count)
    out = gram.copy()
    np.einsum("gkk->gk", out)[...] += (share / (1 - share) * np.einsum("gkk->g", gram) / gram.shape[1])[:, None]
    return out.astype(np.float32)


def _others(grid: LevelGrid, near: Indices, above: NDArray[np.bool_]) -> Indices:
    """The neighbour of the nearest level on the side of the weight; at an end of the grid the neighbour inside.

    Args:
        grid: the grid.
        near: index of the nearest level.
        above: whether the weight lies above the nearest level.
    """
    step, _ = steps_and_shifts(grid, slice(None), near.shape[1])
    up = (above == (step > 0)) | (near == 0)
    up &= near != len(grid.levels) - 1
    return np.where(up, near + 1, near - (near > 0)).astype(np.uint8)


@dataclass(frozen=True)
class _Choice:
    """The choice between the two neighbours of each weight.

    Attributes:
        error: weights less the values of their nearest levels, float32 [rows, cols].
        move: values of the other levels less those of the nearest ones.
    """

    error: Matrix
    move: Matrix

    def rows(self, part: slice) -> _Choice:
        return replace(self, error=self.error[part], move=self.move[part])

    def solve(self, gram: Matrix, rows: int) -> NDArray[np.bool_]:
        """The weights that move to their other level.

        Args:
            gram: Gram matrix of the inputs.
            rows: number of rows among which the work is shared out.
        """
        iterations = min(max(_WORK // (rows * gram.size), _FEWEST), _MOST)
        return self._search(self._learn(gram, iterations), gram)

    def _costs(self, gram: Matrix) -> tuple[Matrix, Matrix]:
        """The cost of each move alone, from an error of zero; and its mean for each row, over moves that cost something."""
        cost = np.square(self.move) * np.diagonal(gram)
        return cost, cost.sum(axis=1, keepdims=True) / np.maximum(np.count_nonzero(cost, axis=1, keepdims=True), 1)

    def _learn(self, gram: Matrix, iterations: int) -> NDArray[np.bool_]:
        """The weights that move, by gradient descent."""
        _, unit = self._costs(gram)
        pull = 2 * self.move / np.where(unit > 0, unit, 1)
        start = np.divide(self.error, self.move, out=np.zeros_like(self.error), where=self.move != 0)
        variable = -np.log((ZETA - GAMMA) / (np.clip(start, 0, 1) - GAMMA) - 1)
        mean, square = np.zeros_like(variable), np.zeros_like(variable)
        rate = _REACH / iterations
        for i in range(1, iterations + 1):
            sigmoid = 1 / (1 + np.exp(-variable))
            unclipped = sigmoid * np.float32(ZETA - GAMMA) + np.float32(GAMMA)
            h = np.clip(unclipped, 0, 1)
            gradient = ((self.move * h - self.error) @ gram) * pull
            beta = _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * (1 + np.cos(np.pi * i / iterations)) / 2
            side = 2 * h - 1
            gradient -= np.copysign(np.float32(2 * _LAMBDA * beta) * np.abs(side) ** np.float32(beta - 1), side)
            gradient *= (ZETA - GAMMA) * sigmoid * (1 - sigmoid) * (h == unclipped)
            for moment, decay, power in ((mean, _DECAYS[0], gradient), (square, _DECAYS[1], np.square(gradient))):
                moment *= decay
                moment += (1 - decay) * power
            size = np.sqrt(square / (1 - _DECAYS[1] ** i)) + np.float32(1e-8)
            variable -= rate / (1 - _DECAYS[0] ** i) * mean / size
        return variable > 0

    def _search(self, moved: NDArray[np.bool_], gram: Matrix) -> NDArray[np.bool_]:
        """The weights that move in the best result of a tabu search.

        Args:
            moved: weights that move at the start.
            gram: Gram matrix of the inputs.
        """
        cost, unit = self._costs(gram)
        cost = np.where(cost > 0, cost, np.float32(np.inf))  # a move without a cost changes nothing
        error = self.error - self.move * moved
        # The change of the error by each flip, and the error times the Gram matrix.
        flip, product = np.where(moved, self.move, -self.move), error @ gram
        loss = np.einsum("rk,rk->r", error, product).astype(np.float64)
        moved, best, least = moved.copy(), moved, loss.copy()
        threshold, idle, rows = _GAIN * unit[:, 0], np.zeros(len(moved), np.intp), np.arange(len(moved))
        tabu: deque[tuple[NDArray[np.intp], NDArray[np.intp], Matrix]] = deque()
        for _ in range(_FLIPS * moved.shape[1] + _PATIENCE):
            if idle.min() >= _PATIENCE:
                break
            gain = flip * product
            gain *= 2
            gain += cost
            choice = gain.argmin(axis=1)
            active = np.flatnonzero((idle < _PATIENCE) & np.isfinite(gain[rows, choice]))
            column = choice[active]
            change = flip[active, column]
            loss[active] += gain[active, column]
            product[active] += change[:, None] * gram[column]
            flip[active, column] = -change
            moved[active, column] ^= True
            tabu.append((active, column, cost[active, column]))
            cost[active, column] = np.inf
            if len(tabu) > _TENURE:
                *where, saved = tabu.popleft()
                cost[*where] = saved
            better = loss < least - threshold
            best = np.where(better[:, None], moved, best)
            least = np.where(better, loss, least)
            idle = np.where(better, 0, idle + 1)
        return best
