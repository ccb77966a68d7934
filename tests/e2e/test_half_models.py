"""Whole-graph float16 on every fetched model: it loads on stock onnxruntime, passes the full check, and keeps its outputs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxquant
from onnxquant.numerics.difference import Difference

MODELS = Path(__file__).resolve().parents[2] / "models"
CATALOGUE: dict[str, Any] = tomllib.loads((MODELS / "catalogue.toml").read_text())
# What the first output keeps. ppocr_det: its map is below 0.0003 on noise, where float16 has few digits; 49 dB before
# the last sigmoid.
LEAST_DB = {"ppocr_det": 20.0}


def feed(entry: dict[str, Any], path: Path) -> dict[str, Any]:
    stored = path.parent / "feeds.npz"
    if stored.exists():
        with np.load(stored) as data:
            return {k: data[k][:1] for k in data.files}
    generator = np.random.default_rng(0)
    made = {}
    for spec in ort.InferenceSession(path).get_inputs():
        shape = entry.get("shapes", {}).get(spec.name)
        shape = [d if isinstance(d, int) else entry["dims"][d] for d in spec.shape] if shape is None else shape
        low, high = entry.get("ranges", {}).get(spec.name, (-1, 1))
        integers = "int" in spec.type
        values = generator.integers(low, high + 1, shape) if integers else generator.uniform(low, high, shape)
        made[spec.name] = np.asarray(
            values, {"tensor(int32)": np.int32, "tensor(int64)": np.int64}.get(spec.type, np.float32)
        )
    return made


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_fetched_models(name: str, tmp_path: Path) -> None:
    entry = CATALOGUE[name]
    path, out = MODELS / "fetched" / name / entry["model"], tmp_path / "half.onnx"
    if not path.exists():
        pytest.skip("not fetched: scripts/fetch_models.py")
    report = onnxquant.quantize(path, out, format="f16", whole_graph=True, keep_io_types=True, proof=False)
    onnx.checker.check_model(str(out), full_check=True)
    model = onnx.load(out)
    left = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    floats = [s.decision for s in report.sites]
    assert len(left) <= 0.1 * len(floats) or name == "minilm_int8"  # its scales
    sample = feed(entry, path)
    wanted, got = (ort.InferenceSession(p).run(None, sample) for p in (path, out))
    for a, b in zip(wanted, got, strict=True):
        assert a.dtype == b.dtype and np.isfinite(b).all()
    difference = Difference()
    difference.add(wanted[0], got[0])
    assert LEAST_DB.get(name, 40.0) <= difference.sqnr_db < 130.0


@pytest.mark.parametrize("external", ["always", "never"])
def test_graphs_beside_each_other_may_use_one_name(external: str, tmp_path: Path) -> None:
    source = graphs.save(graphs.branches(256, 288, other_name="w_then"), tmp_path / "source.onnx")
    out = tmp_path / "out.onnx"
    onnxquant.quantize(
        source, out, format="f16", whole_graph=True, keep_io_types=True, external_data=external, proof=False
    )
    x = graphs.rng().standard_normal((2, 256)).astype(np.float32)
    for condition in (True, False):
        wanted, got = (ort.InferenceSession(p).run(None, {"x": x, "c": np.array(condition)})[0] for p in (source, out))
        assert 0 < np.abs(got - wanted).max() < 5e-3 * np.abs(wanted).max()
