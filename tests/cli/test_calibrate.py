"""``onnxquant calibrate`` and ``onnxquant.calibrate``: good input, bad input, interrupted runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from click.testing import CliRunner, Result

import onnxquant
from onnxquant import ActivationGrid, Statistics, StatisticsError, runtime
from onnxquant.calibration import collect as run_
from onnxquant.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, arguments)])


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    text = result.stderr.strip()
    assert len(text.splitlines()) == 1
    for word in ("onnxquant: error:", *words):
        assert word in text, text


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return graphs.save(graphs.conv(), tmp_path / "model.onnx")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "feeds.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(6, 8, 7, 7)).astype(np.float32))
    return path


def test_calibrating_writes_statistics(model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "stats.npz"
    result = run(model, "--data", data, "-o", output)
    assert result.exit_code == 0, result.output
    assert "2 tensors, 6 samples" in result.output
    assert "SYNTHETIC" not in result.output
    x = np.load(data)["x"]
    statistics = Statistics.load(output)
    assert statistics.range("x", "minmax", ActivationGrid()) == (x.min(), x.max())
    for method in ("percentile", "entropy", "mse", "mean-std"):
        low, high = statistics.range("x", method, ActivationGrid())
        assert x.min() * 1.01 <= low < 0 < high <= x.max() * 1.01
    assert not (tmp_path / "stats.npz.partial").exists()
    refused(run(model, "--data", data, "-o", output), "exists already", "--force")
    assert run(model, "--data", data, "-o", output, "--force", "-q").output == ""
    assert "8-bit ranges" in run(model, "--data", data, "-o", output, "--force", "-v").output


def test_json_output_lists_the_ranges(model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "stats.npz"
    result = run(model, "--data", data, "-o", output, "--json", "--method", "minmax", "--samples", 2, "--tensors", "^x")
    told = json.loads(result.stdout)
    x = np.load(data)["x"][:2]
    assert told["tensors"] == {"x": {"minmax": [x.min(), x.max()]}}
    assert (told["samples"], told["synthetic"], told["skipped"]) == (2, False, {})
    assert told["bytes"] == output.stat().st_size


def test_synthetic_samples_need_a_flag_and_are_marked(model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "stats.npz"
    refused(run(model, "-o", output), "--synthetic")
    refused(run(model, "-o", output, "--synthetic", "--data", data), "one of them")
    result = run(model, "-o", output, "--synthetic", "--samples", 3)
    assert result.exit_code == 0, result.output
    assert "SYNTHETIC" in result.output
    statistics = Statistics.load(output)
    assert statistics.synthetic
    assert statistics.sources[0].samples == statistics.samples == 3


def test_merged_shards_equal_one_run(model: Path, data: Path, tmp_path: Path) -> None:
    x = np.load(data)["x"]
    for name, part in (("a", x[:2]), ("b", x[2:3]), ("c", x[3:])):
        np.savez(tmp_path / f"{name}.feeds.npz", x=part)
        more = [f"--merge={tmp_path / f'{n}.npz'}" for n in "ab"] if name == "c" else []
        result = run(model, "--data", tmp_path / f"{name}.feeds.npz", "-o", tmp_path / f"{name}.npz", *more)
        assert result.exit_code == 0, result.output
    whole = onnxquant.calibrate(model, data)
    merged = Statistics.load(tmp_path / "c.npz")
    assert merged.samples == whole.samples == 6
    for method in ("minmax", "percentile", "entropy", "mse", "mean-std"):
        for grid in (ActivationGrid(), ActivationGrid(symmetric=True)):
            assert merged.range("y", method, grid) == whole.range("y", method, grid)


def test_an_interrupted_run_resumes(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, partial = tmp_path / "stats.npz", tmp_path / "stats.npz.partial"
    refused(run(model, "--data", data, "-o", output, "--resume"), "no interrupted run")
    real, calls = runtime.run, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(run_, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(run_.runtime, "run", interrupted)
    assert run(model, "--data", data, "-o", output).exit_code == 130
    assert partial.exists()
    assert not output.exists()
    assert run(model, "--data", data, "-o", output, "--resume").exit_code == 0
    assert len(calls) < 4 + 1 + 6  # shapes, and only what was missing
    assert not partial.exists()
    assert Statistics.load(output).range("y", "mse", ActivationGrid()) == onnxquant.calibrate(model, data).range(
        "y", "mse", ActivationGrid()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "minimax"], ["minimax"]),
        (["--tensors", "("], ["regular expression"]),
        (["--tensors", "nothing"], ["matches none"]),
        (["--samples", "0"], ["at least 1"]),
        (["--merge", "missing.npz"], ["missing.npz", "no such file"]),
        (["--threads", "0"], ["threads"]),
    ],
)
def test_bad_options_are_refused(
    model: Path, data: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    refused(run(model, "--data", data, "-o", tmp_path / "s.npz", *arguments), *words)
    assert not (tmp_path / "s.npz").exists()


def test_bad_files_are_refused(model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "stats.npz"
    refused(run(tmp_path / "no.onnx", "--data", data, "-o", output), "no such file")
    refused(run(model, "--data", data, "-o", tmp_path), "is a folder")
    refused(run(model, "--data", data, "-o", tmp_path / "no" / "stats.npz"), "does not exist")
    refused(run(model, "--data", data, "-o", output, "--merge", data), "header")
    other = tmp_path / "other.npz"
    onnxquant.calibrate(graphs.save(graphs.conv(8, 24), tmp_path / "other.onnx"), data, other)
    refused(run(model, "--data", data, "-o", output, "--merge", other), "another model", "calibrate again")


def test_the_function_refuses_what_the_command_refuses(model: Path, data: Path) -> None:
    with pytest.raises(StatisticsError, match="did you mean 'entropy'"):
        onnxquant.calibrate(model, data, methods=["entrpy"])
    with pytest.raises(StatisticsError, match="an output is needed"):
        onnxquant.calibrate(model, data, resume=True)
    with pytest.raises(onnxquant.RecipeError, match="unknown option 'sample'"):
        onnxquant.calibrate(model, data, sample=3)
    one = onnxquant.calibrate(model, data, methods="minmax", samples=1)
    assert list(one.observers["x"]) == ["minmax"]


def test_help_has_examples() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "onnxquant calibrate model.onnx --data feeds.npz -o stats.npz" in result.output


def test_statistics_alone_give_static_ranges(model: Path, data: Path, tmp_path: Path) -> None:
    assert run(model, "--data", data, "-o", tmp_path / "s.stats").exit_code == 0
    ranges = Statistics.load(tmp_path / "s.stats")
    options: dict[str, Any] = {"activations": "static", "calibration": str(tmp_path / "s.stats")}
    report = onnxquant.quantize(model, tmp_path / "alone.onnx", **options)
    assert report.proof and report.proof.feeds and report.proof.feeds.is_synthetic
    record = report.activations
    assert record is not None and record.kind == "static" and record.samples and record.samples.calibrated == 6
    (name, codes), *_ = [(n, c) for n, c in record.tensors.items() if n == "x"]
    low, high = ranges.range(name, "minmax", ActivationGrid())
    assert codes.low == pytest.approx(min(low, 0)) and codes.high == pytest.approx(high)
    with pytest.raises(onnxquant.FeedError, match="--calibration FILE brings the ranges of an earlier run"):
        onnxquant.quantize(model, tmp_path / "o.onnx", activations="static")
    with pytest.raises(onnxquant.FeedError, match="auto_exclude and metric judge candidates by samples"):
        onnxquant.quantize(model, tmp_path / "o.onnx", auto_exclude=True, **options)
