"""What a report expects on samples that the file has not seen: each source is judged by what the others make."""

from __future__ import annotations

import math
from pathlib import Path

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import node

import onnxquant
from onnxquant.activations import search
from onnxquant.activations.bias import RoundedKernels, corrections
from onnxquant.activations.placement import place
from onnxquant.calibration.feeds import Input, open_feeds
from onnxquant.calibration.folds import folded, undivided
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import load
from onnxquant.observers.codes import Codes
from onnxquant.report.report import Report
from onnxquant.report.words import quality

# Samples of this source have values beyond those of all others.
LOUD = 4.0


def network() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "v"], ["y"]),
    ]
    weights = {"w": graphs.weight(64, 16, 3, 3), "v": graphs.weight(64, 64, 1, 1, seed=1)}
    return graphs.model(nodes, {"x": ("float32", [1, 16, 12, 12])}, {"y": "float32"}, weights)


def sample(source: int, crop: int, loud: float) -> np.ndarray:
    values = graphs.rng(10 * source + crop).standard_normal((1, 16, 12, 12))
    return (values * (loud if source == 4 else 1.0)).astype(np.float32)


@pytest.fixture(autouse=True)
def _without_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine kernels of a small network may seem slower on integers."""
    monkeypatch.setattr(search, "LEAST_SECONDS", math.inf)


def converted(folder: Path, loud: float) -> Report:
    (folder / "data").mkdir()
    for source in range(5):
        for crop in range(3):
            np.save(folder / "data" / f"{'abcde'[source]}_crop{crop}.npy", sample(source, crop, loud))
    model = graphs.save(network(), folder / "model.onnx")
    return onnxquant.quantize(
        model, folder / "out.onnx", data=folder / "data", activations="static", solver="rtn", equalize=False, threads=1
    )


def test_a_source_is_judged_by_ranges_that_the_others_make(tmp_path: Path) -> None:
    report = converted(tmp_path, LOUD)
    unseen = report.proof.unseen
    assert (unseen.sources, unseen.samples) == (5, 15)
    # The file's own ranges hold the loud source; those of the others clip it.
    assert report.proof.deployed["y"].sqnr_db > 20
    worst = report.proof.quality[0]
    assert worst.worst_sample_db < 10 and worst.worst_sample in (12, 13, 14)
    assert unseen.high_db - unseen.low_db > 8 and "do not" not in report.verdict.next
    interval = f"{unseen.low_db:.0f} to {unseen.high_db:.0f} dB"
    assert interval in quality(report.verdict) and "on samples it has not seen, from 5 sources" in quality(report.verdict)
    assert any("5 sources differ too much" in warning for warning in report.warnings)


def test_alike_sources_give_one_figure_that_new_ones_keep(tmp_path: Path) -> None:
    report = converted(tmp_path, 1.0)
    unseen = report.proof.unseen
    assert unseen.is_precise and not any("sources" in warning for warning in report.warnings)
    sessions = [ort.InferenceSession(tmp_path / f"{name}.onnx") for name in ("model", "out")]
    ratios = []
    for source in range(20, 30):
        a, b = (session.run(None, {"x": sample(source, 0, 1.0)})[0] for session in sessions)
        ratios.append(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))
    assert unseen.sqnr_db == pytest.approx(np.mean(ratios), abs=1.0)


def test_corrections_without_a_fold_are_those_of_the_other_samples() -> None:
    document = load(network())
    placement = place(GraphEditor(document.proto.graph))
    ranges = {tensor.source: (-4.0, 4.0) for tensor in placement.tensors.values()}
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in network().graph.initializer}
    kernels = RoundedKernels(placement, Codes(), ranges, lambda name: np.round(weights[name], 1))
    feeds = open_feeds([{"x": sample(i, 0, 1.0)} for i in range(8)], [Input("x", "tensor(float)", (1, 16, 12, 12))])
    samples = folded(feeds)
    parts = corrections(document, kernels, samples)
    assert len(parts.others) == samples.count == 4
    for fold, others in enumerate(parts.others):
        expected = corrections(document, kernels, undivided(samples.others(fold))).whole
        assert others.keys() == expected.keys() == {"a", "y"}
        for name in expected:
            np.testing.assert_allclose(others[name], expected[name], rtol=1e-9, atol=1e-12)
        assert not np.array_equal(others["y"], parts.whole["y"])
