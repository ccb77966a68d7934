"""One option for every item, with the least cost whose loads stay within a bound: the multiple-choice knapsack.

Kellerer, Pferschy, Pisinger 2004, "Knapsack Problems", chapter 11. Options that cost and load more than another of their
item are dropped; what is left is solved to optimality as an integer program (HiGHS).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Doubles = NDArray[np.float64]


def choose(costs: Sequence[ArrayLike], loads: Sequence[ArrayLike], bound: float) -> list[int] | None:
    """The option of each item; None where even the lightest ones are too heavy.

    Args:
        costs: of each item's options, not negative.
        loads: of the same options, not negative.
        bound: of the sum of loads.

    >>> choose([[0, 3], [0, 1]], [[8, 4], [8, 4]], 12)
    [0, 1]
    """
    options = [(np.asarray(c, np.float64), np.asarray(w, np.float64)) for c, w in zip(costs, loads, strict=True)]
    kept = [_undominated(*o) for o in options]
    if sum(w[k].min() for (_, w), k in zip(options, kept, strict=True)) > bound:
        return None
    best: list[int] = []
    while kept:
        picked = _solved([(c[k], w[k]) for (c, w), k in zip(options, kept, strict=True)], bound)
        best = [int(k[p]) for k, p in zip(kept, picked, strict=True)]
        # What costs more by itself than this choice altogether is in no better one. Without it the solver's tolerance, which
        # is a share of the largest costs, is finer.
        total = sum(c[i] for (c, _), i in zip(options, best, strict=True))
        left = [k[(c[k] <= total) | (k == i)] for (c, _), k, i in zip(options, kept, best, strict=True)]
        if sum(map(len, left)) == sum(map(len, kept)):
            break
        kept = left
    return best


def _solved(options: Sequence[tuple[Doubles, Doubles]], bound: float) -> list[int]:
    cost, load = (np.concatenate(v) for v in zip(*options, strict=True))
    lengths = np.array([len(c) for c, _ in options])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    # In units of the largest sums: tolerances of the solver are absolute.
    heaviest = max(float(np.maximum.reduceat(load, starts).sum()), 1e-300)
    dearest = max(float(np.maximum.reduceat(cost, starts).sum()), 1e-300)
    each = csr_array((np.ones(len(cost)), (np.repeat(np.arange(len(options)), lengths), np.arange(len(cost)))))
    limits = [LinearConstraint(each, 1, 1), LinearConstraint(load / heaviest, -np.inf, bound / heaviest)]
    found = milp(cost / dearest, integrality=np.ones(len(cost)), bounds=Bounds(0, 1), constraints=limits,
                 options={"mip_rel_gap": 1e-6})  # fmt: skip
    lightest = [s + int(load[s:e].argmin()) for s, e in zip(starts, ends, strict=True)]
    picked = (
        lightest if found.x is None else [s + int(found.x[s:e].argmax()) for s, e in zip(starts, ends, strict=True)]
    )
    if load[picked].sum() > bound:  # within the solver's tolerance, not within ours
        picked = _lighter(cost, load, picked, (starts, ends), bound)
    return [int(p - s) for p, s in zip(picked, starts, strict=True)]


def _undominated(costs: Doubles, loads: Doubles) -> NDArray[np.intp]:
    """Options than which none is both cheaper and lighter, heaviest last."""
    best, kept = np.inf, []
    for i in np.lexsort((costs, loads)):
        if costs[i] < best:
            best = costs[i]
            kept.append(i)
    return np.array(kept, np.intp)


def _lighter(
    cost: Doubles, load: Doubles, picked: list[int], ranges: tuple[NDArray[np.intp], NDArray[np.intp]], bound: float
) -> list[int]:
    """The same choice with the change that costs least for what it saves, until it is within the bound."""
    picked = list(picked)
    while load[picked].sum() > bound:
        steps = [
            ((cost[j] - cost[p]) / (load[p] - load[j]), i, j)
            for i, p in enumerate(picked)
            for j in range(ranges[0][i], ranges[1][i])
            if load[j] < load[p]
        ]
        _, i, j = min(steps)
        picked[i] = j
    return picked
