"""Differences between two files."""

from __future__ import annotations

import json
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from commands import refused, run

import onnxquant


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    model = graphs.save(graphs.tied(512, 256), tmp_path / "model.onnx")
    out = {"float": model}
    for name in ("int8", "q4_0"):
        out[name] = tmp_path / f"{name}.onnx"
        onnxquant.quantize(model, out[name], format=name, proof=False)
    return out


def values(path: Path, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.name == name)


def test_a_file_does_not_differ_from_itself(files: dict[str, Path], tmp_path: Path) -> None:
    again = tmp_path / "again.onnx"
    onnxquant.quantize(files["float"], again, format="int8", proof=False)
    for a, b in ((files["int8"], again), (files["float"], files["float"])):
        result = run("diff", a, b)
        assert result.exit_code == 0 and "do not differ" in result.output
    assert run("diff", files["int8"], again, "-q").output == ""


def test_formats_bytes_values_and_options_that_differ_are_listed(files: dict[str, Path], tmp_path: Path) -> None:
    result = run("diff", files["int8"], files["q4_0"], "--json")
    assert result.exit_code == 1
    differences = json.loads(result.stdout)
    weight = differences["weights"]["w"]
    assert (weight["a"]["format"], weight["b"]["format"]) == ("int8", "q4_0") and weight["b"]["bits"] == 4.5
    decoded = []
    for name in ("int8", "q4_0"):
        plain = tmp_path / f"{name}.float.onnx"
        onnxquant.dequantize(files[name], plain)
        decoded.append(values(plain, "w").astype(np.float64))
    expected = 10 * np.log10((decoded[0] ** 2).sum() / ((decoded[1] - decoded[0]) ** 2).sum())
    assert weight["sqnr_db"] == pytest.approx(expected, abs=1e-6)
    assert differences["about"]["rules"] == {"a": [{"format": "int8"}], "b": [{"format": "q4_0"}]}
    assert differences["about"]["bytes"]["b"] == files["q4_0"].stat().st_size
    assert "original" not in differences["about"]
    shown = run("diff", files["int8"], files["q4_0"])
    assert "differ: 1 of 1 weights" in shown.output and "q4_0 on custom, 4.5 bits" in " ".join(shown.output.split())


def test_a_changed_bias_and_a_missing_weight_are_listed(tmp_path: Path) -> None:
    a = graphs.save(graphs.gemm(), tmp_path / "a.onnx")
    proto = onnx.load(a)
    bias = next(t for t in proto.graph.initializer if t.name == "c")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) * np.float32(1.1), "c"))
    b = graphs.save(proto, tmp_path / "b.onnx")
    differences = json.loads(run("diff", a, b, "--json").stdout)
    assert list(differences["weights"]) == ["c"] and differences["weights"]["c"]["sqnr_db"] == pytest.approx(20.0, abs=1e-3)
    next(t for t in proto.graph.initializer if t.name == "w").name = "v"
    next(n for n in proto.graph.node).input[1] = "v"
    renamed = graphs.save(proto, tmp_path / "c.onnx")
    differences = json.loads(run("diff", b, renamed, "--json").stdout)
    assert differences["weights"]["w"]["b"] is None and differences["weights"]["v"]["a"] is None


def test_reports_are_compared_without_values(files: dict[str, Path], tmp_path: Path) -> None:
    paths = []
    for name in ("int8", "q4_0"):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(run("quantize", files["float"], "--format", name, "--dry-run", "--json").stdout)
    assert run("diff", paths[0], paths[0]).exit_code == 0
    differences = json.loads(run("diff", *paths, "--json").stdout)
    assert differences["weights"]["w"]["b"]["format"] == "q4_0" and differences["weights"]["w"]["sqnr_db"] is None


def test_files_that_are_no_model_or_report_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "t.onnx"
    text.write_text("no model")
    refused(run("diff", files["int8"], text), "not an ONNX model")
    refused(run("diff", files["int8"], tmp_path / "none.onnx"), "no such file")
    report = tmp_path / "r.json"
    for content, words in (
        ("{", "is no report"),
        ("{}", "has no sites"),
        ('{"sites": [{"shape": [2, 2]}]}', "sites[0]"),
    ):
        report.write_text(content)
        refused(run("diff", files["int8"], report), words)


@pytest.mark.parametrize(
    "wrong", [{"bytes": "x"}, {"bits_per_weight": "x"}, {"parameters": []}, {"shape": "abc"}, {"name": ["x"]}]
)
def test_a_report_with_values_of_wrong_types_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    site = {"name": "w", "format": "int8", "target": "onnx", "shape": [2], "parameters": {}, "bytes": 1}
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"sites": [{**site, "bits_per_weight": 4.0, **wrong}]}))
    refused(run("diff", path, path), f"r.json: sites[0]: {next(iter(wrong))}")
