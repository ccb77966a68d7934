"""adaround: learned rounding, up or down on the grid, so that the products of a weight come out right.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568, equations 21 to 25: per
weight a variable V with ``h = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)``, zeta = 1.1, gamma = -0.1, is how far it goes
from one neighbour on the grid to the other; Adam minimizes the error of the outputs plus ``lambda sum (1 - |2 h - 1|^beta)``,
whose beta falls from a value that lets h be to one that drives it to 0 or 1. The Gram matrix H of the inputs has all there is
to know of the data: the error of a row is e H e^T, and its gradient by e is 2 e H. It is divided by what flipping a weight
of the row costs on average, so that one lambda suits all layers.

Other than in the paper, V starts at the distance to the nearest neighbour, so nothing is drawn; beta falls from 8 from the
first iteration on, as tens of iterations are afforded instead of thousands; and what was learned is where a tabu search
begins (Glover, Kochenberger & Alidaee 1998, "Adaptive Memory Tabu Search for Binary Quadratic Programs"): the weight of a
row whose flip gains most, or costs least, is flipped, but for those flipped last, and the best that was met is kept. On 9
columns, where all roundings can be tried, that loses 0 to 4 % more than the best, where rounding to nearest loses twice as
much.

Few inputs say little of those to come: H is shrunk towards its diagonal's mean, as for GPTQ.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.grid import Indices, LevelGrid, nearest, spread, values
from onnxquant.formats.matrix import Matrix
from onnxquant.native import dispatch
from onnxquant.numerics.rows import Split, in_threads
from onnxquant.solvers.base import Doubles, Inputs, Solver, best_rows, losses, rounded
from onnxquant.solvers.gptq import shrinkage
from onnxquant.solvers.mse import Mse

ZETA, GAMMA = 1.1, -0.1
_LAMBDA = 0.2
_FIRST_BETA, _LAST_BETA = 8.0, 2.0
# Adam's step is this over the number of iterations: how far V can come does not depend on it.
_REACH = 20.0
_DECAYS = 0.9, 0.999
# Multiplications that the gradients of one weight may take: 16 iterations at 4096 x 4096.
_WORK = 1 << 40
_FEWEST, _MOST = 16, 64
# Weights worked on together: some arrays of float32 stay in cache.
_TOGETHER = 1 << 17
# What counts as better is so by this share of what a flip costs on average: float32 knows no better.
_GAIN = 1e-4
# Flips back that are barred at a time; flips without something better after which a row is done; flips per column at most.
_TENURE, _PATIENCE, _FLIPS = 4, 60, 2


@dataclass(frozen=True)
class AdaRound(Solver):
    """Learned rounding up or down (AdaRound), by the inputs' Gram matrix.

    Iterations are as many as take 2^40 multiplications, rows times cols squared each, but at least 16 and at most 64.
    """

    name = "adaround"
    needs_inputs = True

    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        assert inputs is not None  # it needs them
        gram = _scaled(inputs)
        tried = (
            [dispatch.rounded_to_nearest(form, weight)]
            if start is None
            else [start, rounded(start, weight, self.split)]
        )
        if start is None and not Mse().refusal(form):
            tried.insert(0, Mse(split=self.split).solve(form, weight, inputs))
        tried.append(_learned(tried[0], weight, _shrunk(gram, inputs.count), self.split))
        return best_rows(tried, [losses(weight, dispatch.decode(e), Inputs(gram), self.split) for e in tried])


def _learned(start: Encoded, weight: Matrix, grams: Matrix, split: Split) -> Encoded:
    """Other codes on the grid of an encoded weight."""
    grid = start.format.grid(start)
    near = nearest(grid, weight, split)
    below = values(grid, near, split)
    other = _others(grid, near, weight > below)
    move = values(grid, other, split) - below
    size = np.abs(move).max(axis=1, keepdims=True)  # squares of a row's errors then neither vanish nor overflow
    task = _Task(*(np.divide(side, size, out=np.zeros_like(move), where=size > 0) for side in (weight - below, move)))
    moved = np.zeros(weight.shape, bool)
    of_group = len(weight) // len(grams)
    step = max(1, _TOGETHER // weight.shape[1])

    def work(place: tuple[int, int]) -> None:
        first, group = place
        part = slice(first, min(first + step, (group + 1) * of_group))
        moved[part] = task.rows(part).solve(grams[group], of_group)

    told = [group for group, gram in enumerate(grams) if gram.any()]
    parts = [(first, g) for g in told for first in range(g * of_group, (g + 1) * of_group, step)]
    in_threads(work, parts, split.threads)
    return start.format.place(start, np.where(moved, other, near))


def _scaled(inputs: Inputs) -> Doubles:
    """Gram matrices whose largest diagonal element is 1; zeros where one says nothing."""
    largest = inputs.energy.max(axis=1)
    gram, told = inputs.gram, inputs.told[:, None, None]
    out: Doubles = np.divide(gram, largest[:, None, None], out=np.zeros_like(gram), where=told)
    return out


def _shrunk(gram: Doubles, count: int | None) -> Matrix:
    """What is minimized: in float32, with as much on the diagonal as few inputs ask for."""
    share = shrinkage(gram, count)
    out = gram.copy()
    np.einsum("gkk->gk", out)[...] += (share / (1 - share) * np.einsum("gkk->g", gram) / gram.shape[1])[:, None]
    return out.astype(np.float32)


def _others(grid: LevelGrid, near: Indices, above: NDArray[np.bool_]) -> Indices:
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
        return self._search(self._learn(gram, iterations), gram)

    def _costs(self, gram: Matrix) -> tuple[Matrix, Matrix]:
        """What each move alone costs, from an error of zero; and the mean of a row's, of those that cost something."""
        cost = np.square(self.move) * np.diagonal(gram)
        return cost, cost.sum(axis=1, keepdims=True) / np.maximum(np.count_nonzero(cost, axis=1, keepdims=True), 1)

    def _learn(self, gram: Matrix, iterations: int) -> NDArray[np.bool_]:
        """Which weights move, by gradient."""
        _, unit = self._costs(gram)
        pull = 2 * self.move / np.where(unit > 0, unit, 1)
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

    def _search(self, moved: NDArray[np.bool_], gram: Matrix) -> NDArray[np.bool_]:
        """Which weights move in the best that flips of single weights lead to from somewhere."""
        cost, unit = self._costs(gram)
        cost = np.where(cost > 0, cost, np.float32(np.inf))  # what costs nothing changes nothing
        error = self.error - self.move * moved
        # What a flip adds to the error, and what the error is multiplied with once.
        flip, product = np.where(moved, self.move, -self.move), error @ gram
        lost = np.einsum("rk,rk->r", error, product).astype(np.float64)
        moved, best, least = moved.copy(), moved, lost.copy()
        enough, idle, rows = _GAIN * unit[:, 0], np.zeros(len(moved), np.intp), np.arange(len(moved))
        barred: deque[tuple[NDArray[np.intp], NDArray[np.intp], Matrix]] = deque()
        for _ in range(_FLIPS * moved.shape[1] + _PATIENCE):
            if idle.min() >= _PATIENCE:
                break
            gain = flip * product
            gain *= 2
            gain += cost
            found = gain.argmin(axis=1)
            active = np.flatnonzero((idle < _PATIENCE) & np.isfinite(gain[rows, found]))
            column = found[active]
            by = flip[active, column]
            lost[active] += gain[active, column]
            product[active] += by[:, None] * gram[column]
            flip[active, column] = -by
            moved[active, column] ^= True
            barred.append((active, column, cost[active, column]))
            cost[active, column] = np.inf
            if len(barred) > _TENURE:
                *where, saved = barred.popleft()
                cost[*where] = saved
            better = lost < least - enough
            best = np.where(better[:, None], moved, best)
            least = np.where(better, lost, least)
            idle = np.where(better, 0, idle + 1)
        return best
