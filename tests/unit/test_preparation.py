"""The preparation of samples travels with the file: it is recorded, used again, and compared with what is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxquant
from onnxquant.cli import main
from onnxquant.graph.names import PREPARATION
from onnxquant.graph.seal import is_sealed

STEPS = "mean=0.485,0.456,0.406,std=0.229,0.224,0.225,fit=stretch"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution on images of 16x16, with photos beside it."""
    folder, random = tmp_path_factory.mktemp("network"), np.random.default_rng(0)
    (folder / "photos").mkdir()
    for i in range(8):
        Image.fromarray(random.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(folder / "photos" / f"{i}.png")
    weight = numpy_helper.from_array(random.normal(0, 0.2, (64, 3, 3, 3)).astype(np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64, 14, 14])
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], name="c")], "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    return folder


def recorded(path: Path) -> dict[str, Any]:
    return json.loads(next(e.value for e in onnx.load(path).metadata_props if e.key == PREPARATION))


def quantized(network: Path, output: Path, *, data: Any = None, **options: Any) -> Path:
    report = onnxquant.quantize(network / "m.onnx", output, data=data or network / "photos", **{"format": "int8", **options})
    assert report.output_bytes is not None
    return output


@pytest.mark.parametrize(
    "options", [{}, {"activations": "static"}, {"format": "f16", "whole_graph": True}, {"proof": False}]
)
def test_a_file_records_how_its_samples_were_prepared(network: Path, options: dict[str, Any], tmp_path: Path) -> None:
    path = quantized(network, tmp_path / "o.onnx", preprocess=STEPS, **options)
    entry = recorded(path)
    assert entry["kind"] == "images" and entry["preprocess"]["size"] == [16, 16]
    assert entry["preprocess"]["std"] == [0.229, 0.224, 0.225] and entry["preprocess"]["layout"] == "NCHW"
    low, high = entry["ranges"]["x"]
    assert -2.2 < low < -1.5 and 1.9 < high < 2.7
    assert is_sealed(onnx.load(path)) and all(onnxquant.verify(path).values())


def test_validate_uses_the_recorded_preparation_and_says_so(network: Path, tmp_path: Path) -> None:
    path = quantized(network, tmp_path / "o.onnx", preprocess=STEPS, activations="static")
    again = onnxquant.validate(network / "m.onnx", path, network / "photos")
    named = onnxquant.validate(network / "m.onnx", path, network / "photos", preprocess=STEPS)
    assert again.proof and named.proof and again.proof.feeds and named.proof.feeds
    assert again.proof.outputs == named.proof.outputs and again.proof.feeds.reason == "as the file records"
    assert again.proof.feeds.remarks is None and named.proof.feeds.remarks is None
    arguments = ["validate", str(network / "m.onnx"), str(path), "--data", str(network / "photos")]
    done = CliRunner().invoke(main, arguments)
    assert "over std 0.229,0.224,0.225); as the file records" in " ".join(done.stdout.split())


def test_another_preparation_is_warned_about_with_both(network: Path, tmp_path: Path) -> None:
    path = quantized(network, tmp_path / "o.onnx", preprocess=STEPS)
    other = onnxquant.validate(network / "m.onnx", path, network / "photos", preprocess="mean=0.5,std=0.5,fit=stretch")
    said = [w for w in other.warnings if "prepared otherwise" in w]
    assert said and "mean=0.5 instead of 0.485,0.456,0.406" in said[0] and "std=0.5 instead of 0.229" in said[0]


@pytest.mark.parametrize(("factor", "is_far"), [(255.0, True), (1 / 255, True), (1.5, False)])
def test_values_far_from_the_recorded_ones_are_remarked(
    network: Path, factor: float, is_far: bool, tmp_path: Path
) -> None:
    unit = np.random.default_rng(1).random((8, 3, 16, 16), np.float32)
    path = quantized(network, tmp_path / "o.onnx", data={"x": unit}, activations="static")
    assert set(recorded(path)) == {"ranges"}
    report = onnxquant.validate(network / "m.onnx", path, {"x": unit * factor})
    said = [w for w in report.warnings if "where the file was made with" in w]
    assert bool(said) == is_far
    assert not said or "where the file was made with 0 to 1" in said[0]


def test_bytes_into_a_model_of_unit_range_are_remarked(network: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 3, 16, 16)).astype(np.uint8)
    path = quantized(network, tmp_path / "o.onnx", data={"x": (pixels / 255).astype(np.float32)}, activations="static")
    report = onnxquant.validate(network / "m.onnx", path, {"x": pixels})
    assert any("holds 0 to 255, where the file was made with 0 to 1" in w for w in report.warnings)
    first = onnxquant.quantize(network / "m.onnx", tmp_path / "p.onnx", data={"x": pixels}, format="int8")
    assert any("holds whole numbers from 0 to 255, as pixels do" in w for w in first.warnings)


def test_benchmark_calibrate_and_dequantized_models_use_the_record(network: Path, tmp_path: Path) -> None:
    path = quantized(network, tmp_path / "o.onnx", preprocess=STEPS)
    rows = onnxquant.benchmark(network / "m.onnx", path, data=network / "photos")
    assert rows[0].samples is not None and rows[0].samples.endswith("as the file records")
    onnxquant.dequantize(path, tmp_path / "float.onnx")
    statistics = onnxquant.calibrate(tmp_path / "float.onnx", network / "photos", methods=("minmax",))
    assert statistics.sources[0].preprocess and statistics.sources[0].preprocess["std"] == [0.229, 0.224, 0.225]
    again = onnxquant.quantize(tmp_path / "float.onnx", tmp_path / "again.onnx", data=network / "photos", format="int8")
    assert again.proof and again.proof.feeds and again.proof.feeds.reason == "as the file records"


def test_a_saved_recipe_prepares_samples_alike(network: Path, tmp_path: Path) -> None:
    path = quantized(network, tmp_path / "o.onnx", preprocess=STEPS, save_recipe=str(tmp_path / "r.toml"))
    again = tmp_path / "again.onnx"
    onnxquant.quantize(network / "m.onnx", again, recipe=tmp_path / "r.toml", data=network / "photos")
    assert recorded(again) == recorded(path)
    onnxquant.quantize(network / "m.onnx", tmp_path / "c.onnx", recipe=tmp_path / "r.toml")  # without samples, too


def test_statistics_of_otherwise_prepared_samples_are_remarked(network: Path, tmp_path: Path) -> None:
    onnxquant.calibrate(network / "m.onnx", network / "photos", tmp_path / "s.stats", preprocess=STEPS)
    report = onnxquant.quantize(
        network / "m.onnx", tmp_path / "o.onnx", data=network / "photos", activations="static",
        calibration=str(tmp_path / "s.stats"), preprocess="mean=0.5,fit=stretch",
    )  # fmt: skip
    assert any("mean=0.5 instead of 0.485,0.456,0.406" in w for w in report.warnings)
