"""Weights that calibration rescaled, compared with the original's up to factors per row and column."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from rounded import sqnr_db

from onnxquant.numerics.difference import rescaled_like


@pytest.mark.parametrize(("rows", "cols"), [(True, False), (False, True), (True, True)], ids=str)
def test_channel_factors_are_recovered_and_errors_are_not_explained_away(rows: bool, cols: bool) -> None:
    w = graphs.weight(40, 60)
    factors = np.geomspace(0.01, 30, 40)[:, None] ** rows * np.geomspace(9, 0.3, 60) ** cols
    noise = 1e-3 * graphs.rng(1).standard_normal(w.shape) * np.abs(w).mean() * factors
    decoded = (w * factors + noise).astype(np.float32)
    found = sqnr_db(rescaled_like(w, decoded), decoded)
    expected = sqnr_db(w * factors, decoded)
    assert abs(found - expected) < 2.0  # 100 factors are fitted to 2,400 values, by sums and not by least squares
    assert sqnr_db(w, decoded) < 20


def test_an_unrelated_weight_is_not_taken_for_a_rescaled_one() -> None:
    w, other = graphs.weight(40, 60), graphs.weight(40, 60, seed=9)
    assert sqnr_db(rescaled_like(w, other), other) < 3
    damaged = w.copy()
    damaged[3, :30] *= -1
    assert sqnr_db(rescaled_like(w, damaged), damaged) < 25


def test_zeros_of_a_rescaled_weight_stay_zeros() -> None:
    w = graphs.weight(5, 6)
    w[2] = 0
    w[:, 1] = 0
    assert np.array_equal(rescaled_like(w, 3 * w) == 0, w == 0)
    assert np.isfinite(rescaled_like(w, 3 * w)).all()
