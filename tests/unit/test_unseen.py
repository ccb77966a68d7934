"""The quality to expect on samples of other sources, and its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxquant.numerics.score import Judge
from onnxquant.numerics.unseen import UnseenQuality, kept_ratio


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


def test_other_sources_keep_the_ratio_over_all_four_times_of_five() -> None:
    """Loudness over two decades, so that few sources decide about the ratio of all."""
    random = np.random.default_rng(1)

    def powers(count: int) -> NDArray[np.float64]:
        signals = 10.0 ** random.uniform(-1, 1, count)
        return np.stack([signals, signals / 10.0 ** random.uniform(1.5, 2.5, count)], axis=1)

    names, hits = [str(i) for i in range(24)], 0
    for _ in range(300):
        kept = kept_ratio(powers(24).tolist(), names)
        signal, noise = powers(24).sum(axis=0)
        hits += kept is not None and kept <= 10 * np.log10(signal / noise)
    assert 0.72 < hits / 300 < 0.88


def test_a_part_whose_ratio_rests_on_one_loud_sample_tells_what_others_keep() -> None:
    """One part has 20.4 dB in each sample; the other has 14 dB in all but a loud one, which is nearly exact."""
    shape, noise = np.ones(50), np.tile([1.0, -1.0], 25)
    sizes = [30.0] + [1.0] * 11
    reference = [{"even": shape, "loud": size * shape} for size in sizes]
    near = shape + noise * 10 ** (-20.4 / 20)
    outputs = [{"even": near, "loud": size * shape + noise * (0.2 if size == 1 else 1e-3)} for size in sizes]
    unseen = Judge(reference).unseen(outputs, [str(i) for i in range(12)])
    assert unseen.parts[0].output == "even" and unseen.parts[0].sqnr_db == pytest.approx(20.4)
    assert unseen.expected and unseen.expected.kept_db == pytest.approx(14, abs=0.1)


def test_of_few_sources_nothing_tells_what_others_keep() -> None:
    assert kept_ratio([(1.0, 0.1)] * 6, ["a", "b", "c"] * 2) is None
    assert kept_ratio([(1.0, 0.1)] * 8, ["a", "b", "c", "d"] * 2) == pytest.approx(10)
