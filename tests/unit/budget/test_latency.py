"""Products timed as the file would run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import matmul, weight

from onnxquant import quantize
from onnxquant.budget import latency
from onnxquant.budget.latency import ProductTimer
from onnxquant.formats import format_named
from onnxquant.graph.io import load
from onnxquant.graph.sites import find_sites
from onnxquant.plan.planner import decide
from onnxquant.recipe.rules import Rule


def test_products_of_one_shape_and_format_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    document = load(matmul(k=256, n=512))
    site = find_sites(document)[0][0]
    timer, runs = ProductTimer(document.opset, 1), []
    median = latency._median
    monkeypatch.setattr(latency, "_median", lambda run: runs.append(1) or median(run))
    form = format_named("int4")
    decision = decide(site, form, Rule(target="ort"), document.opset)
    first = timer.seconds(site, decision, 3)
    assert 0 < first < 1 and timer.seconds(site, decision, 3) == first and len(runs) == 1
    timer.seconds(site, decision, 4)
    timer.seconds(site, decision.kept_in_float("float"), 3)
    assert len(runs) == 3


def test_a_weight_decoded_at_load_takes_no_time_of_its_own() -> None:
    document = load(matmul(k=64, n=64))
    site = find_sites(document)[0][0]
    decision = decide(site, format_named("int8"), Rule(), document.opset)
    assert decision.folded
    assert ProductTimer(document.opset, 1).seconds(site, decision, 3) == 0


@pytest.mark.parametrize(("seconds", "chosen"), [((3.0, 1.0, 2.0), "int8"), ((3.0, 2.0, 1.0), "int4")])
def test_the_fastest_format_that_keeps_the_quality_is_chosen(
    seconds: tuple[float, float, float], chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = dict(zip((None, "int8", "int4"), seconds, strict=True))
    monkeypatch.setattr(ProductTimer, "_measured", lambda _, __, d, ___: times[d.format.name if d.format else None])
    model, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    model.write_bytes(matmul(k=1024, n=1024).SerializeToString())
    data = [{"x": weight(2, 3, 1024, seed=i)} for i in range(16)]
    report = quantize(model, output, data=data, formats=["int8", "int4"], min_sqnr=10, cost="latency", threads=1)
    assert report.passed
    assert [s["format"] for s in report.to_dict()["sites"]] == [chosen]
    search = report.to_dict()["search"]
    assert search["chosen"]["products_ms"] == 1000
    assert np.isfinite(search["chosen"]["measured_sqnr_db"])
