"""``--activations`` on the command line: statistics used again, and every wrong wish: exit code 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from commands import refused, run
from graphs import node, weight

STATIC = (
    "--activations",
    "static",
    "--calibration-method",
    "minmax",
    "--no-smooth",
    "--no-equalize",
    "--solver",
    "rtn",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two products with a Relu between."""
    made = [
        node("MatMul", ["x", "w"], ["a"], name="one"),
        node("Relu", ["a"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    constants = {"w": 4 * weight(24, 32), "v": 4 * weight(32, 16)}
    proto = graphs.model(made, {"x": ("float32", ["batch", 24])}, {"y": "float32"}, constants)
    return graphs.save(proto, tmp_path / "model.onnx")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, x=graphs.rng(2).standard_normal((16, 24)).astype(np.float32))
    return path


def test_static_activations_through_quantize_info_validate_and_dequantize(
    model: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    result = run("quantize", model, "-o", output, *STATIC, "--data", data, "-v")
    assert result.exit_code == 0, result.output
    for words in ("Activations", "kernels on integers", "the model's input arrives in float", "worst output y: "):
        assert words in " ".join(result.output.split())
    info = run("info", output, "--json")
    about = json.loads(info.stdout)["activations"]
    assert about["kind"] == "static" and about["integer kernels"] == 2
    assert "kind static" in run("info", output).output
    result = run("validate", model, output, "--data", data, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["activations"]["method"] == "minmax"
    assert report["proof"]["activations"]["conversions"]
    assert run("verify", output).exit_code == 0
    assert run("dequantize", output, "-o", tmp_path / "float.onnx").exit_code == 0


def test_the_report_names_the_solver(model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    result = run("quantize", model, "-o", output, *STATIC, "--solver", "gptq", "--data", data, "-v")
    assert result.exit_code == 0, result.output
    assert "codes of weights" in result.output and "solved by gptq" in result.output
    assert json.loads(run("info", output, "--json").stdout)["activations"]["solver"] == "gptq"
    assert run("verify", output).exit_code == 0


def test_dry_run_writes_nothing(model: Path, data: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = run("quantize", model, *STATIC, "--data", data, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "kernels on integers" in result.output and "nothing was written" in result.output
    assert sorted(tmp_path.iterdir()) == before


def test_saved_statistics_are_used(model: Path, data: Path, tmp_path: Path) -> None:
    stats = tmp_path / "stats"
    result = run("calibrate", model, "--data", data, "-o", stats)
    assert result.exit_code == 0, result.output
    for name, given in (("own.onnx", ()), ("stored.onnx", ("--calibration", stats))):
        result = run("quantize", model, "-o", tmp_path / name, *STATIC, "--data", data, "--no-proof", *given)
        assert result.exit_code == 0, result.output
    own, stored = (onnx.load(tmp_path / name) for name in ("own.onnx", "stored.onnx"))
    scales = [
        {t.name: onnx.numpy_helper.to_array(t).tolist() for t in m.graph.initializer if t.name.endswith("/scale")}
        for m in (own, stored)
    ]
    assert scales[0] == scales[1] and scales[0]
    proto = onnx.load(model)
    proto.graph.initializer[0].raw_data = bytes(len(proto.graph.initializer[0].raw_data))
    other = graphs.save(proto, tmp_path / "other.onnx")
    refused(
        run("quantize", other, "-o", tmp_path / "no.onnx", *STATIC, "--data", data, "--calibration", stats),
        "other.onnx",
    )
    assert not (tmp_path / "no.onnx").exists()


def _npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", ["--data"]),
        ("no file", ["nothing.npz"]),
        ("name", ["'z'", "the model takes x tensor(float)"]),
        ("shape", ["24"]),
        ("type", ["float"]),
        ("nan", ["NaN"]),
        ("empty", ["sample"]),
    ],
)
def test_wrong_samples_are_refused(case: str, words: list[str], model: Path, tmp_path: Path) -> None:
    good = np.zeros((4, 24), np.float32)
    made = {
        "name": {"z": good},
        "shape": {"x": np.zeros((4, 25), np.float32)},
        "type": {"x": np.full((4, 24), "word")},
        "nan": {"x": np.full((4, 24), np.nan, np.float32)},
        "empty": {"x": good[:0]},
    }
    given = ()
    if case != "missing":
        given = ("--data", _npz(tmp_path / "data.npz", **made[case]) if case in made else tmp_path / "nothing.npz")
    before = sorted(tmp_path.iterdir())
    refused(run("quantize", model, "-o", tmp_path / "out.onnx", *STATIC, *given), *words)
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_without_integer_ops_is_refused(data: Path, tmp_path: Path) -> None:
    proto = graphs.model(
        [node("MatMul", ["x", "w"], ["a"], name="one"), node("Erf", ["a"], ["y"])],
        {"x": ("float32", ["batch", 24])}, {"y": "float32"}, {"w": weight(24, 32)},
    )  # fmt: skip
    model = graphs.save(proto, tmp_path / "model.onnx")
    for extra, words in (
        (("--exclude", "one"), ["one: no rule matches"]),
        (("--format", "int4"), ["one:", "not int4"]),
        (("--include", "another"), ["one: no rule matches"]),
    ):
        refused(
            run("quantize", model, "-o", tmp_path / "out.onnx", *STATIC, "--data", data, *extra), "integers", *words
        )
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--activations", "sometimes"),
        ("--activations", "static", "--calibration-method", "guess"),
        ("--activations", "static", "--activation-type", "int4"),
        ("--activations", "static", "--calibration-samples", "0"),
        ("--activations", "static", "--percentile", "200", "--calibration-method", "percentile"),
        ("--activations", "static", "--calibration", "nothing.stats"),
    ],
    ids=lambda o: " ".join(o[-2:]),
)
def test_wrong_options_are_refused(options: tuple[str, ...], model: Path, data: Path, tmp_path: Path) -> None:
    refused(run("quantize", model, "-o", tmp_path / "out.onnx", "--data", data, *options))
    assert not (tmp_path / "out.onnx").exists()


def test_an_existing_output_is_not_replaced(model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"mine")
    refused(run("quantize", model, "-o", output, *STATIC, "--data", data), "exists")
    assert output.read_bytes() == b"mine"


def test_damaged_metadata_of_activations_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    assert run("quantize", model, "-o", output, *STATIC, "--data", data, "--no-proof").exit_code == 0
    proto = onnx.load(output)
    entry = next(e for e in proto.metadata_props if e.key == "onnxquant")
    for damage in ([], {"rescaled": 3}, {"tensors": []}, {"left_in_float": []}, {"rescaled": [1]}):
        told = json.loads(entry.value)
        told["activations"] = damage
        entry.value = json.dumps(told)
        onnx.save(proto, output)
        for command in (
            ("info", output),
            ("validate", model, output),
            ("dequantize", output, "-o", tmp_path / "f.onnx"),
        ):
            refused(run(*command), "damaged")
