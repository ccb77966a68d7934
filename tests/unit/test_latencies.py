"""Latencies of models side by side: processor time, an interval of each ratio, and when the runs end."""

from __future__ import annotations

import time
from math import comb
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest

import onnxquant
from onnxquant import runtime
from onnxquant.calibration.feeds import Feed
from onnxquant.recipe.options import Options
from onnxquant.validation import compare, latency
from onnxquant.validation.latency import (
    ORIGINAL,
    QUANTIZED,
    Interval,
    Latency,
    TimedModel,
    interval_of_median,
    latencies,
)
from onnxquant.validation.reference import sampled_outputs

pytestmark = pytest.mark.latency


@pytest.mark.parametrize("count", [11, 20, 75, 400])
def test_the_interval_holds_the_median_19_times_of_20(count: int) -> None:
    values = list(range(count))
    below = values.index(int(interval_of_median(values).low))
    # The median lies outside where at most that many values, or all but that many, are below it.
    outside = 2 * sum(comb(count, k) for k in range(below + 1)) / 2**count
    assert 0.005 < outside < 0.05
    assert interval_of_median(values) == Interval(below, count - 1 - below)


@pytest.fixture(scope="module", name="pair")
def a_small_and_a_large_product(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TimedModel]:
    folder = tmp_path_factory.mktemp("latencies")
    sizes = {"large": 700, "small": 350}
    return {name: TimedModel(graphs.save(graphs.matmul(700, n), folder / f"{name}.onnx")) for name, n in sizes.items()}


FEED = {"x": np.ones((64, 3, 700), np.float32)}


def test_a_product_of_half_the_size_is_faster_beyond_doubt(pair: dict[str, TimedModel]) -> None:
    measured = latencies(pair, FEED, threads=None)
    assert measured.threads == 1 and measured.runs >= 5
    low, high = measured.certain("small")
    assert 1.2 < low <= measured.ratio["small"] <= high
    assert measured.ratio["large"] == 1 == measured.certain("large").low


def test_time_of_others_does_not_count(pair: dict[str, TimedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run of the large model waits; a clock on the wall would call the small one many times faster."""
    run, waits = latency.runtime.run, []

    def slowly(session: runtime.Session, feed: Feed) -> dict[str, Any]:
        outputs = run(session, feed)
        if outputs["y"].shape[-1] == 700:
            time.sleep(0.05)
            waits.append(0.05)
        return outputs

    monkeypatch.setattr(latency.runtime, "run", slowly)
    measured = latencies(pair, FEED, threads=1)
    assert waits
    assert measured.ratio["small"] < 6
    # The latencies are of the same clock; medians of a few runs on a shared machine scatter too much to ask for equality.
    assert measured.seconds["large"] / measured.seconds["small"] < 6


def test_runs_end_when_the_time_is_up(pair: dict[str, TimedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_NARROW", 0.5)  # never narrow
    monkeypatch.setattr(latency, "_ENOUGH", ((0.0, 5),))
    assert latencies(pair, {"x": FEED["x"][:1]}, threads=1).runs == 5
    monkeypatch.setattr(latency, "_ENOUGH", ())
    monkeypatch.setattr(latency, "_MOST", 13)
    assert latencies(pair, {"x": FEED["x"][:1]}, threads=1).runs == 13


def test_calls_of_a_short_model_are_timed_together_after_one_that_does_not_count(
    pair: dict[str, TimedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call after another model had the processor is slow, and says nothing of one that is called often."""
    run, last = latency.runtime.run, list[runtime.Session]()

    def slow_at_first(session: runtime.Session, feed: Feed) -> dict[str, Any]:
        end = time.thread_time() + (0.01 if last[-1:] != [session] else 0)
        last.append(session)
        while time.thread_time() < end:
            pass
        return run(session, feed)

    monkeypatch.setattr(latency.runtime, "run", slow_at_first)
    assert latencies(pair, {"x": FEED["x"][:1]}, threads=1).seconds["small"] < 0.005


@pytest.mark.parametrize(("by_length", "is_longer"), [((1.2, 0.9), True), ((0.9, 1.2), False), ((1.0, 1.0), False)])
def test_speed_on_made_up_lengths_is_that_of_the_slower_one(
    by_length: tuple[float, float], is_longer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(models: Any, feed: Feed, threads: int | None) -> Latency:
        ratio = by_length[feed["x"].shape[1] > 64]
        return Latency(dict.fromkeys(models, 1.0), {m: 1.0 if m == ORIGINAL else ratio for m in models}, 5, 1)

    monkeypatch.setattr(compare, "latencies", measured)
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])],
        {"x": ("float32", ["batch", "length", 48])}, {"y": "float32"}, {"w": graphs.weight(48, 40)},
    )  # fmt: skip
    proof = onnxquant.quantize(proto, tmp_path / "out.onnx").proof
    assert proof is not None and proof.latency is not None and proof.latency.ratio[QUANTIZED] == min(by_length)
    notes = [note for note in proof.notes if "lengths" in note]
    assert [("[1, 256, 48], and 1.20x with [1, 32, 48]" in note) for note in notes] == [True] * is_longer


def test_samples_are_no_longer_where_every_length_is_stated(tmp_path: Path) -> None:
    path = graphs.save(graphs.matmul(), tmp_path / "m.onnx")
    samples = sampled_outputs(path, None, Options())
    assert samples.longer is None
