"""Scales that clip outliers: never worse than the largest weight's, and near the best there is."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import rng, weight
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxquant.errors import RecipeError
from onnxquant.passes.clip import best_scales, squared_errors


def full_range(weights: np.ndarray, bits: int) -> np.ndarray:
    largest = np.abs(weights.astype(np.float64)).max(1) / (2 ** (bits - 1) - 1)
    return np.where(largest > 0, largest, 1.0)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 16), st.integers(0, 999), st.integers(1, 70), st.sampled_from(["float32", "float16", "float64"]))
def test_never_worse_than_the_largest_weight(bits: int, seed: int, cols: int, dtype: str) -> None:
    weights = (rng(seed).standard_t(2, (5, cols)) * 10.0 ** rng(seed).integers(-6, 3, (5, 1))).astype(dtype)
    scales = best_scales(weights, bits)
    doubles = weights.astype(np.float64)
    assert scales.shape == (5,) and (scales > 0).all()
    assert (squared_errors(doubles, scales, bits) <= squared_errors(doubles, full_range(weights, bits), bits)).all()
    assert (scales <= full_range(weights, bits)).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_near_the_best_of_every_scale(bits: int) -> None:
    """Against an exhaustive search of 20,000 scales per row: at most 2 % more error, and never less than its best."""
    weights = weight(8, 300).astype(np.float64)
    scales = best_scales(weights, bits)
    found = squared_errors(weights, scales, bits)
    ladder = np.linspace(0.01, 1, 20_000)
    for row, error, full in zip(weights, found, full_range(weights, bits), strict=True):
        top = 2 ** (bits - 1) - 1
        column = (ladder * full)[:, None]
        best = min(
            float(((row - np.clip(np.rint(row / c), -top, top) * c) ** 2).sum(1).min())
            for c in np.array_split(column, 20)
        )
        assert best * (1 - 1e-3) <= error <= best * 1.02


def test_clipping_pays_for_heavy_tails_only() -> None:
    """Gaussian rows of 4 bits gain over 1 dB; uniform ones of 8 bits nothing to speak of."""
    tails, flat = rng().standard_normal((16, 2000)), rng().uniform(-1, 1, (16, 2000))

    def gain(weights: np.ndarray, bits: int) -> float:
        before = squared_errors(weights, full_range(weights, bits), bits).sum()
        return float(10 * np.log10(before / squared_errors(weights, best_scales(weights, bits), bits).sum()))

    assert 1 < gain(tails, 4) < 6
    assert 0 <= gain(flat, 8) < 0.2


def test_rows_of_nothing() -> None:
    assert best_scales(np.zeros((2, 4), np.float32), 8).tolist() == [1, 1]
    assert best_scales(np.zeros((0, 4), np.float32), 8).shape == (0,)
    assert best_scales(np.zeros((3, 0), np.float32), 8).tolist() == [1, 1, 1]


def test_large_weights_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weight(9, 50)
    whole = best_scales(weights, 4)
    monkeypatch.setattr("onnxquant.passes.clip._CHUNK", 100)
    assert np.array_equal(best_scales(weights, 4), whole)


@pytest.mark.parametrize("bits", [1, 17])
def test_widths_out_of_range(bits: int) -> None:
    with pytest.raises(RecipeError, match="expected 2 to 16"):
        best_scales(weight(2, 4), bits)
