"""The quality to expect on samples of other sources, and its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxquant.numerics.unseen import UnseenQuality


def test_the_interval_holds_the_mean_of_all_sources_nine_times_of_ten() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        means = random.normal(30, 5, 5)
        ratios = [mean + random.normal(0, 1) for mean in means for _ in range(4)]
        quality = UnseenQuality.of("y", ratios, [str(i // 4) for i in range(20)])
        hits += quality.low_db <= 30 <= quality.high_db
    assert 870 <= hits <= 930


def test_of_one_source_nothing_is_certain() -> None:
    quality = UnseenQuality.of("y", [30.0, 31.0], ["a", "a"])
    assert (quality.sqnr_db, quality.low_db, quality.high_db) == (30.5, -math.inf, math.inf)


def test_alike_sources_give_a_precise_figure() -> None:
    ratios = [30.0, 31.0] * 10
    quality = UnseenQuality.of("y", ratios, [str(i // 2) for i in range(20)])
    assert quality.is_precise and (quality.sqnr_db, quality.worst_tenth_db) == (30.5, 30.0)


def test_exact_samples_do_not_make_the_mean_infinite() -> None:
    quality = UnseenQuality.of("y", [math.inf, 20.0], ["a", "b"])
    assert quality.sqnr_db == pytest.approx(60.0)
