"""Folds of samples hold whole sources, and the statistics of each are those of its samples alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest

from onnxquant.calibration.collect import collect, collect_folds
from onnxquant.calibration.feeds import Chosen, Feeds, Input, open_feeds
from onnxquant.calibration.folds import folded
from onnxquant.calibration.statistics import Statistics
from onnxquant.graph.io import load
from onnxquant.observers import ActivationGrid

X = [Input("x", "tensor(float)", (2, 8))]


def files(folder: Path, sources: int, of_each: int) -> Feeds:
    folder.mkdir()
    for i in range(sources):
        for j in range(of_each):
            np.save(folder / f"{chr(97 + i // 26)}{chr(97 + i % 26)}_crop{j}.npy", graphs.weight(2, 8, seed=i))
    return open_feeds(folder, X)


@pytest.mark.parametrize(("sources", "count"), [(3, 3), (5, 5), (6, 4), (30, 4)])
def test_no_source_is_in_two_folds(tmp_path: Path, sources: int, count: int) -> None:
    samples = folded(files(tmp_path / "data", sources, 3))
    assert samples.count == count
    assert len(set(zip(samples.sources, samples.folds, strict=True))) == len(set(samples.sources)) == sources


def test_some_samples_are_of_all_folds(tmp_path: Path) -> None:
    some = folded(files(tmp_path / "data", 48, 1)).some(16)
    assert len(some.feeds) == len(some.sources) == 16
    assert [some.folds.count(fold) for fold in range(4)] == [4, 4, 4, 4]
    assert list(some.sources) == list(some.feeds.groups)


def test_samples_without_names_are_divided_into_contiguous_parts() -> None:
    samples = folded(open_feeds([{"x": graphs.weight(2, 8, seed=i)} for i in range(10)], X))
    assert samples.folds == (0, 0, 0, 1, 1, 2, 2, 2, 3, 3)


@pytest.mark.parametrize("count", [1, 3])
def test_few_samples_are_not_divided(count: int) -> None:
    assert folded(open_feeds([{"x": graphs.weight(2, 8)}] * count, X)).count == 0


def ranges(statistics: Statistics) -> dict[str, Any]:
    grid = ActivationGrid(8)
    return {
        tensor: {method: statistics.range(tensor, method, grid) for method in observers if method != "absmean:1"}
        for tensor, observers in statistics.observers.items()
    }


@pytest.mark.parametrize("methods", [["minmax", "mse"], ["minmax", "absmean:1"]])
def test_statistics_of_folds_are_those_of_their_samples_and_merge_to_those_of_all(methods: list[str]) -> None:
    proto = graphs.model([graphs.node("Relu", ["x"], ["y"])], {"x": ("float32", [2, 8])}, {"y": "float32"}, {})
    feeds = open_feeds([{"x": graphs.weight(2, 8, seed=i) * 2.0**i} for i in range(9)], X)
    samples, observers = folded(feeds), {"x": methods, "y": methods}
    folds = collect_folds(load(proto), samples, observers)
    assert len(folds) == samples.count == 4
    alone = [collect(load(proto), Chosen(feeds, samples.places(fold)), observers) for fold in range(4)]
    assert [ranges(statistics) for statistics in folds] == [ranges(statistics) for statistics in alone]
    assert [statistics.samples for statistics in folds] == [statistics.samples for statistics in alone]
    assert ranges(Statistics.merge_all(folds)) == ranges(collect(load(proto), feeds, observers))
