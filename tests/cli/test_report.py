"""--report on quantize and validate, and the command that shows saved reports again."""

from __future__ import annotations

import json
from pathlib import Path

import graphs
import pytest
from commands import refused, run

from onnxquant.report import schema


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return graphs.save(graphs.matmul(256, 96), tmp_path / "model.onnx")


def test_reports_beside_the_output_and_elsewhere(model: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    arguments = ("quantize", model, "--report", ".html", "--report", ".md", "--report", elsewhere, "--samples", 1)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    data = json.loads(elsewhere.read_text())
    assert data["command"].startswith(f"onnxquant quantize {model} --report .html")
    page, text = (tmp_path / f"model.int8{ending}" for ending in (".html", ".md"))
    assert page.read_text().startswith("<!doctype html>")
    assert text.read_text().startswith(f"# {data['verdict']['state']}: ")
    for said in (result.output, text.read_text().replace("\\", "").replace("&gt;", ">"), page.read_text()):
        assert data["verdict"]["next"] in " ".join(said.split())
        assert f"{data['verdict']['smaller']:.2f}" in said
    before = elsewhere.read_bytes()
    refused(
        run("quantize", model, "-o", tmp_path / "other.onnx", "--report", elsewhere),
        "elsewhere.json: exists",
        "--force",
    )
    assert not (tmp_path / "other.onnx").exists()
    assert elsewhere.read_bytes() == before
    result = run("validate", model, tmp_path / "model.int8.onnx", "--samples", 1, "--report", elsewhere, "--force")
    assert result.exit_code == 0, result.output
    assert json.loads(elsewhere.read_text())["command"].startswith("onnxquant validate")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "elsewhere.json", "model.int8.html", "model.int8.md", "model.int8.onnx", "model.onnx",
    ]  # fmt: skip


def test_a_failed_proof_and_a_plan_are_written_too(model: Path, tmp_path: Path) -> None:
    failed = tmp_path / "failed.json"
    result = run("quantize", model, "--samples", 1, "--min-sqnr", 300, "--report", failed, "-q")
    assert result.exit_code == 1
    data = json.loads(failed.read_text())
    assert (data["passed"], data["verdict"]["state"]) == (False, "FAILED")
    plan = tmp_path / "plan.html"
    result = run("quantize", model, "-o", tmp_path / "new.onnx", "--dry-run", "--report", plan)
    assert result.exit_code == 0, result.output
    assert ">PLANNED<" in plan.read_text()
    assert not (tmp_path / "new.onnx").exists()
    shown = run("report", failed)
    assert shown.exit_code == 0, shown.output
    assert "FAILED" in shown.output
    assert data["problems"][0][:40] in shown.output
    assert json.loads(run("report", failed, "--json").stdout) == data


@pytest.mark.parametrize("ending", ["", ".txt", ".HTML", "json"])
def test_unknown_endings_are_refused_before_any_work(model: Path, tmp_path: Path, ending: str) -> None:
    refused(run("quantize", model, "--report", f"report{ending}"), f"report is 'report{ending}'", ".html, .md, .json")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_places_that_cannot_be_written_are_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    source = model.rename(tmp_path / "model.json")
    (tmp_path / "folder.md").mkdir()
    for place, said in (
        (tmp_path / "missing" / "report.html", "does not exist"),
        (tmp_path / "folder.md", "is a folder"),
        (source, "inputs are never overwritten"),
    ):
        refused(run("quantize", source, "-o", tmp_path / "out.onnx", "--force", "--report", place), said)
    refused(run("quantize", source, "-o", ".", "--report", ".html"), "is a folder")
    refused(run("quantize", source, "-o", tmp_path / "out.html", "--report", ".html"), "the model's own file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.md", "model.json"]


def test_one_report_again_and_several_side_by_side(model: Path, tmp_path: Path) -> None:
    saved = [tmp_path / f"{form}.json" for form in ("int4", "q8_0")]
    for path in saved:
        result = run("quantize", model, "--format", path.stem, "--no-proof", "--report", path, "-q")
        assert result.exit_code == 0, result.output
    for ending in (".html", ".md", ".json"):
        result = run("report", saved[0], "-o", tmp_path / f"again{ending}")
        assert result.exit_code == 0, result.output
    assert (tmp_path / "again.json").read_text() == saved[0].read_text()
    result = run("report", *saved)
    assert result.exit_code == 0, result.output
    assert "int4" in result.output
    assert "q8_0" in result.output
    data = json.loads(run("report", *saved, "--json").stdout)
    assert [r["bytes"] for r in data["reports"]] == [(tmp_path / f"model.{p.stem}.onnx").stat().st_size for p in saved]
    assert data["sites"][0]["by_report"][str(saved[1])]["format"] == "q8_0"
    for ending in (".html", ".md"):
        assert run("report", *saved, "-o", tmp_path / f"both{ending}").exit_code == 0
        both = (tmp_path / f"both{ending}").read_text()
        assert "int4.json" in both and "Options that differ" in both
    assert "Options that differ" in result.output
    refused(run("report", saved[0], "-o", tmp_path / "both.md"), "both.md: exists")
    refused(run("report", model), "is not JSON")
    refused(run("report", tmp_path / "none.json"), "none.json: cannot be read")
    refused(run("report"), "at least one report")


def test_the_schema_is_printed() -> None:
    assert json.loads(run("report", "--schema").stdout) == json.loads(schema.text())


def test_info_says_how_each_weight_is_stored(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    assert (
        run("quantize", model, "--format", "int4", "--target", "ort", "--no-proof", "-q", "-o", output).exit_code == 0
    )
    (weight,) = json.loads(run("info", output, "--json").stdout)["tensors"]
    size = 256 * 96
    assert weight == {
        "name": "w", "shape": [256, 96], "dtype": "float32", "format": "int4", "bits": 4, "block_size": 32, "target": "ort",
        "bytes": size // 2 + size // 16, "float_bytes": 4 * size, "ratio": 4 * size / (size // 2 + size // 16),
    }  # fmt: skip


def test_a_report_is_not_written_over_what_it_is_of(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    (tmp_path / "in").mkdir()
    respelled = tmp_path / "in" / ".." / "out.json"
    refused(run("quantize", model, "-o", out, "--no-proof", "--report", respelled, "--force"), "the model's own file")
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    for path in (one, two):
        run("quantize", model, "-o", tmp_path / "o.onnx", "--dry-run", "--report", path)
    before = two.read_bytes()
    refused(run("report", one, two, "-o", tmp_path / "in" / ".." / "two.json", "--force"), "is an input")
    assert two.read_bytes() == before and not out.exists()


def test_names_that_are_not_utf8_and_figures_that_are_no_floats(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    name = model.rename(tmp_path / "m\udcff.onnx")
    result = run("quantize", name, "--dry-run", "--report", path, "--report", ".html", "--report", ".md", "-q")
    assert result.exit_code == 0, result.output
    data = json.loads(path.read_text())
    assert data["source"].endswith("m\udcff.onnx")
    path.write_text(json.dumps({**data, "asked": {}}))
    assert run("report", path, "-o", tmp_path / "page.html").exit_code == 0
    for wrong in ({"original_bytes": 10**400}, {"environment": {}}):
        path.write_text(json.dumps({**data, **wrong}))
        refused(run("report", path, "--json"), "r.json: ")
