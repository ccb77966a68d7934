"""The multiple-choice knapsack against every choice there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxquant.budget.knapsack import choose

Options = list[list[float]]


def exhaustive(costs: Options, loads: Options, bound: float) -> float | None:
    """The least cost of any choice within the bound."""
    fitting = [
        sum(c[i] for c, i in zip(costs, picked, strict=True))
        for picked in product(*(range(len(c)) for c in costs))
        if sum(w[i] for w, i in zip(loads, picked, strict=True)) <= bound
    ]
    return min(fitting, default=None)


items = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), min_size=1, max_size=4), min_size=1, max_size=5
)


@settings(max_examples=150, deadline=None)
@given(items, st.integers(0, 120))
def test_choice_costs_as_little_as_the_best_of_all_choices(
    given_items: list[list[tuple[int, int]]], bound: int
) -> None:
    costs = [[float(c) for c, _ in item] for item in given_items]
    loads = [[float(w) for _, w in item] for item in given_items]
    picked, best = choose(costs, loads, bound), exhaustive(costs, loads, bound)
    assert (picked is None) == (best is None)
    if picked is not None:
        assert sum(w[i] for w, i in zip(loads, picked, strict=True)) <= bound
        assert sum(c[i] for c, i in zip(costs, picked, strict=True)) == pytest.approx(best)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_scale_of_the_costs_does_not_change_the_choice(scale: float) -> None:
    """Noises are tiny and bytes are many: the solver's tolerances must not swallow either."""
    rng = np.random.default_rng(4)
    costs = [sorted((10.0 ** rng.uniform(-6, 0, 4) * scale).tolist(), reverse=True) for _ in range(6)]
    loads = [sorted((rng.integers(1, 9, 4) * 1e6).tolist()) for _ in range(6)]
    bound = sum(sum(w) / 4 for w in loads)
    picked, best = choose(costs, loads, bound), exhaustive(costs, loads, bound)
    assert picked is not None and best is not None
    assert sum(c[i] for c, i in zip(costs, picked, strict=True)) == pytest.approx(best, rel=1e-4)
    assert sum(w[i] for w, i in zip(loads, picked, strict=True)) <= bound


def test_a_huge_cost_does_not_hide_small_differences() -> None:
    costs = [[0.0, 1e6], [1e-6, 3e-6], [2e-6, 3e-6]]
    loads = [[9.0, 1.0], [5.0, 1.0], [5.0, 1.0]]
    assert choose(costs, loads, 15.0) == [0, 0, 1]
    assert choose(costs, loads, 19.0) == [0, 0, 0]


def test_three_hundred_items_come_close_to_the_lower_limit() -> None:
    """Close to the lower limit that Lagrange multipliers give, and far below one format for all."""
    rng = np.random.default_rng(0)
    size = rng.integers(1_000, 500_000, 300)
    bits, sensitivity = np.array([32.0, 8.5, 6.5, 4.5, 3.5]), 10.0 ** rng.uniform(-5, -2, 300)
    costs = [[0.0, *(s * 4.0 ** -np.array([8, 6, 4, 3]))] for s in sensitivity]
    loads = [(n * bits / 8).tolist() for n in size]
    bound = float(size.sum() * 4.5 / 8)
    picked = choose(costs, loads, bound)
    assert picked is not None
    used = sum(w[i] for w, i in zip(loads, picked, strict=True))
    found = sum(c[i] for c, i in zip(costs, picked, strict=True))
    uniform = sum(c[3] for c in costs)
    assert 0.999 * bound < used <= bound
    assert found < 0.7 * uniform
    # Any multiplier on the bound gives a lower limit (Lagrange): the best of many is close to the optimum.
    dual = max(
        sum(min(c + price * w for c, w in zip(cs, ws, strict=True)) for cs, ws in zip(costs, loads, strict=True))
        - price * bound
        for price in np.geomspace(1e-14, 1e-6, 400)
    )
    assert dual <= found * (1 + 1e-6) and found < 1.01 * dual


def test_no_items_give_an_empty_choice() -> None:
    assert choose([], [], 0) == []
