"""Solvers and searches on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import refused, run
from conftest import DEFAULT_MODEL


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = np.load(DEFAULT_MODEL.with_name("default_test.npz"))["calibration"][:32]
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, image=images.astype(np.float32)[:, None, None])
    return path


def test_the_list_has_solvers_and_recipes() -> None:
    about = json.loads(run("list", "--json").stdout)
    assert set(about["solvers"]) >= {"rtn", "mse", "hqq", "gptq", "awq", "adaround"}
    assert about["solvers"]["gptq"]["needs_data"] and "f16" in about["solvers"]["gptq"]["refuses"]
    assert set(about["recipes"]) >= {"q4-mixed", "q5-mixed", "int4-mixed"}
    assert set(about["targets"]) == {"custom", "onnx", "ort"}
    shown = run("list").output
    assert "\ngptq " in shown and "\nq4-mixed " in shown


def test_a_budget(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    options = ("--budget-bpw", 5, "--formats", "int8", "--formats", "int4:block_size=64", "--no-proof")
    result = run("quantize", DEFAULT_MODEL, "-o", output, "--data", data, *options, "-v")
    assert result.exit_code == 0, result.output
    assert "Best choices of formats by size" in result.output and "chosen" in result.output
    assert 0 < output.stat().st_size < 230_000
    info = json.loads(run("info", output, "--json").stdout)
    assert info["bits_per_weight"] <= 5.0


def test_a_plan_alone_writes_nothing(data: Path, tmp_path: Path) -> None:
    options = ("--max-size", "200kB", "--dry-run", "--json")
    result = run("quantize", DEFAULT_MODEL, "-o", tmp_path / "out.onnx", "--data", data, *options)
    report = json.loads(result.stdout)
    assert report["search"]["asked"] == {"max_size": "200kB"} and report["predicted_bytes"] <= 200_000
    assert {s["solver"] for s in report["sites"]} <= {"rtn", "gptq", None}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "int4", "--solver", "gptq"), "give --data"),
        (("--solver", "gtpq"), "gtpq"),
        (("--format", "f16", "--solver", "mse"), "solver mse"),
        (("--budget-bpw", "4"), "give --data"),
        (("--budget-bpw", "0"), "budget_bpw is 0"),
        (("--max-size", "30 apples"), "max_size is '30 apples'"),
        (("--formats", "int4"), "formats need a bound"),
        (("--cost", "latency"), "cost says what to save under a bound on quality"),
        (("--permutation", "norm", "--activations", "dynamic"), "permutation is an order of encoded weights"),
        (("--jobs", "0"), "jobs is 0"),
        (("--activations", "static", "--solver", "hqq"), "solver hqq: beside static activations"),
    ],
)
def test_what_is_wrong_is_said(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    refused(run("quantize", DEFAULT_MODEL, "-o", tmp_path / "out.onnx", *options), words)
    assert not list(tmp_path.iterdir())


def test_a_folder_for_work_that_cannot_be(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = ("--format", "int4", "--data", data, "--work", tmp_path / "file" / "work")
    refused(run("quantize", DEFAULT_MODEL, "-o", tmp_path / "out.onnx", *options), "cannot be made")
