"""The multiple-choice knapsack: one option for every item, with the least cost whose loads stay within a bound.

Kellerer, Pferschy, Pisinger 2004, "Knapsack Problems", chapter 11. Options that cost and load more than another of their
item are dropped; the rest is solved to optimality as an integer program (HiGHS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.numerics.arrays import Doubles


@dataclass(frozen=True)
class _Item:
    """The options of one item.

    Attributes:
        costs: cost of each option
        loads: load of each option
        places: place of each option in the caller's list
    """

    costs: Doubles
    loads: Doubles
    places: NDArray[np.intp]

    def take(self, places: NDArray[np.intp] | NDArray[np.bool_]) -> _Item:
        """Some of the options."""
        return _Item(self.costs[places], self.loads[places], self.places[places])


def choose(costs: Sequence[ArrayLike], loads: Sequence[ArrayLike], bound: float) -> list[int] | None:
    """The option of each item; None where even the lightest ones are too heavy.

    Args:
        costs: costs of each item's options, not negative
        loads: loads of the same options, not negative
        bound: largest sum of loads

    >>> choose([[0, 3], [0, 1]], [[8, 4], [8, 4]], 12)
    [0, 1]
    """
    items = [
        _pareto_front(np.asarray(c, np.float64), np.asarray(w, np.float64)) for c, w in zip(costs, loads, strict=True)
    ]
    if sum(item.loads.min() for item in items) > bound:
        return None
    best: list[int] = []
    while items:
        picked = _solved(items, bound)
        best = [int(item.places[p]) for item, p in zip(items, picked, strict=True)]
        # Options that cost more alone than the current total are in no better choice. Without them the solver's tolerance,
        # which is relative to the largest cost, is lower.
        total = sum(item.costs[p] for item, p in zip(items, picked, strict=True))
        fewer = [
            item.take((item.costs <= total) | (np.arange(len(item.costs)) == p))
            for item, p in zip(items, picked, strict=True)
        ]
        if sum(len(item.costs) for item in fewer) == sum(len(item.costs) for item in items):
            break
        items = fewer
    return best


def _solved(items: Sequence[_Item], bound: float) -> list[int]:
    """The cheapest choice within the bound: for each item the place of its option among the item's options."""
    # Here, because loading them takes a sixth of the time a command needs to start.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    cost, load = np.concatenate([item.costs for item in items]), np.concatenate([item.loads for item in items])
    lengths = np.array([len(item.costs) for item in items])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    # Costs and loads in units of their largest sums, because the solver's tolerances are absolute.
    heaviest = max(float(np.maximum.reduceat(load, starts).sum()), 1e-300)
    dearest = max(float(np.maximum.reduceat(cost, starts).sum()), 1e-300)
    each = csr_array((np.ones(len(cost)), (np.repeat(np.arange(len(items)), lengths), np.arange(len(cost)))))
    limits = [LinearConstraint(each, 1, 1), LinearConstraint(load / heaviest, -np.inf, bound / heaviest)]
    solution = milp(cost / dearest, integrality=np.ones(len(cost)), bounds=Bounds(0, 1), constraints=limits,
                    options={"mip_rel_gap": 1e-6}).x  # fmt: skip
    if solution is None:
        picked = [int(item.loads.argmin()) for item in items]
    else:
        picked = [int(solution[s:e].argmax()) for s, e in zip(starts, ends, strict=True)]
    return _lightened(items, picked, bound)  # the solver may exceed the bound by its tolerance


def _pareto_front(costs: Doubles, loads: Doubles) -> _Item:
    """The options of which no other one is both cheaper and lighter, by increasing load."""
    cheapest, front = np.inf, []
    for i in np.lexsort((costs, loads)):
        if costs[i] < cheapest:
            cheapest = costs[i]
            front.append(i)
    return _Item(costs, loads, np.arange(len(costs))).take(np.array(front, np.intp))


def _lightened(items: Sequence[_Item], picked: list[int], bound: float) -> list[int]:
    """The same choice with the changes that cost least for the load they save, until it is within the bound."""
    picked = list(picked)
    while _load(items, picked) > bound:
        steps = [
            ((item.costs[j] - item.costs[p]) / (item.loads[p] - item.loads[j]), i, j)
            for i, (item, p) in enumerate(zip(items, picked, strict=True))
            for j in range(len(item.costs))
            if item.loads[j] < item.loads[p]
        ]
        _, i, j = min(steps)
        picked[i] = j
    return picked


def _load(items: Sequence[_Item], picked: Sequence[int]) -> float:
    return float(np.array([item.loads[p] for item, p in zip(items, picked, strict=True)]).sum())
