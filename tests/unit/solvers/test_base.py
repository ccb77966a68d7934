"""What solvers share: which rows of several ways to encode are kept, and what inputs say of columns."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import pytest

from onnxquant.formats import format_named
from onnxquant.solvers import Inputs
from onnxquant.solvers.base import best_rows, rounded, weighted


def test_the_best_rows_are_kept_and_the_first_among_equals() -> None:
    form = format_named("q4_1")
    tried = [form.encode(graphs.weight(4, 40, seed=s)) for s in range(3)]
    lost = [np.array(v, float) for v in ([1, 5, 2, 3], [1, 4, 3, 2.9], [0.5, 4.5, 1, 3])]
    best = best_rows(tried, lost)
    for row, of in enumerate([2, 1, 2, 1]):
        for name, plane in best.planes.items():
            np.testing.assert_array_equal(plane[row], tried[of].planes[name][row])
    assert best_rows(tried[:1], lost[:1]) is tried[0]


@pytest.mark.parametrize(("second", "kept"), [([0.1, 9], 0), ([3, 0.5], 1)], ids=str)
def test_a_scale_that_rows_share_is_taken_for_all_or_none(second: Any, kept: int) -> None:
    form = format_named("int4", per_channel=False, symmetric=False)
    tried = [form.encode(graphs.weight(2, 40, seed=s)) for s in range(2)]
    best = best_rows(tried, [np.array([1.0, 3.0]), np.array(second, float)])
    for name, plane in best.planes.items():
        np.testing.assert_array_equal(plane, tried[kept].planes[name])


def test_rows_on_the_same_shared_scale_are_chosen_one_by_one() -> None:
    form = format_named("int4", per_channel=False)
    first = form.encode(graphs.weight(2, 40))
    second = rounded(first, graphs.weight(2, 40, seed=3))
    best = best_rows([first, second], [np.array([1.0, 3.0]), np.array([9.0, 2.0])])
    np.testing.assert_array_equal(best.planes["codes"][0], first.planes["codes"][0])
    np.testing.assert_array_equal(best.planes["codes"][1], second.planes["codes"][1])


def test_importance_is_the_energy_where_there_is_some() -> None:
    gram = np.stack([np.diag([4.0, 1, 0]), np.diag([-1.0, 2, 8]), np.zeros((3, 3)), np.diag([1, np.nan, 1])])
    expected = [[1, 0.25, 0], [0, 0.25, 1], [1, 1, 1], [1, 1, 1]]
    np.testing.assert_array_equal(Inputs(gram).importance, expected)
    np.testing.assert_array_equal(Inputs(gram[:2]).energy, [[4, 1, 0], [-1, 2, 8]])


def test_weighted_errors_are_those_of_every_row() -> None:
    w, decoded = graphs.weight(6, 20), graphs.weight(6, 20, seed=3)
    importance = graphs.rng().uniform(0, 1, (3, 20))
    by_hand = [((w[r].astype(float) - decoded[r]) ** 2 * importance[r // 2]).sum() for r in range(6)]
    np.testing.assert_allclose(weighted(w, decoded, importance), by_hand, rtol=1e-12)
