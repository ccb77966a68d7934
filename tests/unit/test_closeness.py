"""The score that candidates are chosen by, against float64 by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxquant.numerics.score import Score, closeness

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(0, 3, (6, 1, 10))
NOISE = RNG.normal(0, 0.1, LOGITS.shape)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    return float(10 * np.log10((signal**2).sum() / (noise**2).sum()))


def samples(values: np.ndarray, name: str = "y") -> list[dict[str, np.ndarray]]:
    return [{name: v.astype(np.float32)} for v in values]


def test_plain_outputs() -> None:
    expected = decibels(LOGITS, NOISE)
    assert closeness(samples(LOGITS), samples(LOGITS + NOISE)) == pytest.approx((expected, expected), abs=1e-3)


def test_probabilities_are_judged_as_logits() -> None:
    a, b = softmax(LOGITS), softmax(LOGITS + NOISE)
    score = closeness(samples(a), samples(b))
    centred, noise = (v - v.mean(-1, keepdims=True) for v in (LOGITS, NOISE))
    assert score.criterion == pytest.approx(decibels(centred, noise), abs=1e-2)
    assert score.total == pytest.approx(decibels(a, b - a), abs=1e-3)


def test_one_uncertain_sample_does_not_decide() -> None:
    """Sixty-three sure samples say which candidate is better; the total says what the unsure one happens to like."""
    logits = np.zeros((64, 1, 2))
    logits[:, 0, 0] = 12
    logits[0] = 0
    noise = np.zeros_like(logits)
    noise[:, 0, 0] = 0.01
    good, bad = noise.copy(), 20 * noise
    good[0, 0, 0], bad[0, 0, 0] = 0.02, 0.01
    scores = [closeness(samples(softmax(logits)), samples(softmax(logits + n))) for n in (good, bad)]
    assert scores[0].total < scores[1].total
    assert scores[0].criterion > scores[1].criterion + 20


def test_the_worst_output_counts() -> None:
    two = [{"a": np.float32([[3.0, 4.0]]), "b": np.float32([[1.0, -1.0]]), "n": np.int64([1])}]
    got = [{"a": np.float32([[3.0, 4.1]]), "b": np.float32([[1.0, -1.5]]), "n": np.int64([2])}]
    assert closeness(two, got).total == pytest.approx(10 * math.log10(2 / 0.25))


def test_what_cannot_be_compared() -> None:
    best = Score(math.inf, math.inf)
    same = samples(LOGITS)
    assert closeness(same, same) == best
    assert closeness(samples(0 * LOGITS), samples(NOISE)) == best
    assert closeness([{"n": np.int64([1])}], [{"n": np.int64([2])}]) == best
    assert closeness(same, samples(LOGITS + np.inf)) == Score(-math.inf, -math.inf)
    assert closeness(same, samples(LOGITS * np.nan)) == Score(-math.inf, -math.inf)


def test_infinite_values_of_the_original_are_left_out() -> None:
    a, b = LOGITS.copy(), LOGITS + NOISE
    a[0, 0, 0] = -np.inf
    expected = decibels(np.delete(LOGITS.reshape(-1), 0), np.delete(NOISE.reshape(-1), 0))
    assert closeness(samples(a), samples(b)).total == pytest.approx(expected, abs=1e-3)
