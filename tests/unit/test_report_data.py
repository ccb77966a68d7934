"""The report as data: real reports of every kind fit the published schema, round trip, and agree with each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import graphs
import jsonschema
import numpy as np
import onnx
import pytest

import onnxquant
from onnxquant import Report, ReportError
from onnxquant.numerics.difference import ErrorFigures
from onnxquant.report import comparison, rows, schema
from onnxquant.report.html import render as page
from onnxquant.report.markdown import render as markdown
from onnxquant.report.state import OLD_NAMES, State
from onnxquant.report.warnings import is_slow_without_library, warnings
from onnxquant.validation.proof import Problem, ProblemKind

SAVED = sorted((Path(__file__).parents[1] / "golden" / "reports").glob("*.json"))
KINDS = ("plan", "quantize", "failed", "static", "dynamic", "search", "validate", "half")
PRODUCTS = graphs.model(
    [
        graphs.node("MatMul", ["x", "w"], ["h"]),
        graphs.node("Relu", ["h"], ["r"]),
        graphs.node("MatMul", ["r", "v"], ["y"]),
    ],
    {"x": ("float32", ["batch", 64])},
    {"y": "float32"},
    {"w": graphs.weight(64, 96), "v": graphs.weight(96, 48, seed=5)},
)


@pytest.fixture(scope="module", name="reports")
def reports_of_every_kind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Report]]:
    folder = tmp_path_factory.mktemp("reports")
    source = graphs.save(PRODUCTS, folder / "model.onnx")
    data = {"x": graphs.rng(3).standard_normal((24, 64)).astype(np.float32)}
    plain: dict[str, Any] = {"force": True, "samples": 1, "threads": 1}
    cheap = {"smooth": False, "equalize": False, "rebase": False, "solver": "rtn", "calibration_method": "percentile"}

    def quantize(name: str, **options: Any) -> Report:
        return onnxquant.quantize(source, folder / f"{name}.onnx", **{**plain, **options})

    reports = {
        "plan": quantize("plan", dry_run=True),
        "quantize": quantize("quantize", format="q4_k", target="custom", command="onnxquant quantize model.onnx"),
        "failed": quantize("failed", format="int4", target="ort", data=data, min_sqnr=200),
        "static": quantize("static", activations="static", data=data, **cheap),
        "dynamic": quantize("dynamic", activations="dynamic", proof=False),
        "search": quantize("search", budget_bpw=6.0, formats=["int8", "int4"], data=data, proof=False),
        "half": quantize("half", format="f16", whole_graph=True, proof=False),
    }
    reports["validate"] = onnxquant.validate(source, folder / "failed.onnx", data, detailed=True, samples=1, threads=1)
    assert sorted(reports) == sorted(KINDS)
    yield reports


@pytest.mark.parametrize("kind", KINDS)
def test_reports_fit_the_schema_and_round_trip(reports: dict[str, Report], kind: str, tmp_path: Path) -> None:
    published = json.loads(schema.text())
    jsonschema.Draft202012Validator.check_schema(published)
    data = json.loads(reports[kind].to_json())
    jsonschema.validate(data, published)
    reports[kind].save(tmp_path / "report.json")
    loaded = Report.load(tmp_path / "report.json")
    assert loaded.to_dict() == data == reports[kind].to_dict()
    assert loaded.verdict == reports[kind].verdict
    assert markdown(loaded) == markdown(reports[kind])


def test_every_remark_on_static_activations_fits_the_schema(reports: dict[str, Report]) -> None:
    report = Report.from_dict(reports["static"].to_dict())
    remarks = {"skipped": ("smoothing",), "excluded": ("conv",), "not_solved": ("w",), "solver": "gptq"}
    report.activations = replace(report.activations, **remarks)
    assert Report.from_dict(report.to_dict()).activations == report.activations


@pytest.mark.parametrize("path", SAVED, ids=lambda p: p.stem)
def test_reports_of_earlier_versions_are_read_without_loss(path: Path) -> None:
    data = json.loads(path.read_text())
    report = Report.load(path)
    old_state = data["verdict"]["state"]
    data["verdict"]["state"] = OLD_NAMES.get(old_state, old_state)
    assert report.to_dict() == {**data, "schema": 2}
    assert report.verdict.next == data["verdict"]["next"] and report.warnings == data["warnings"]
    shown = markdown(report)
    assert report.source in shown and all(site["name"] in shown for site in data["sites"])
    assert json.loads(json.dumps(page(report))) and comparison.compare({"a": report}).names == ["a"]


@pytest.mark.parametrize("path", SAVED, ids=lambda p: p.stem)
def test_verdicts_and_warnings_follow_from_the_fields(path: Path) -> None:
    """Saved ones were made by an earlier version: this one judges the same figures in the same way."""
    saved = Report.load(path)
    again = Report.load(path)
    again.judgement = None
    if saved.problems:  # their kinds are not saved
        missed = [Problem(p, ProblemKind.MISSED_BOUND) for p in saved.problems]
        again.proof = replace(saved.proof, problems=missed)
    # The words and the state may have changed since; what failed still does.
    now, then = again.verdict, saved.verdict
    assert (now.state == State.FAILED) == (then.state == State.FAILED)
    same = {"next": "", "state": then.state, "faster_interval": None}
    assert replace(now, **same) == replace(then, **same)
    assert len(again.warnings) == len(saved.warnings)


def test_every_object_of_the_schema_is_closed() -> None:
    def walk(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            yield value
            for entry in value.values():
                yield from walk(entry)
        elif isinstance(value, list):
            for entry in value:
                yield from walk(entry)

    objects = [v for v in walk(json.loads(schema.text())) if v.get("type") == "object"]
    assert len(objects) > 20
    assert all("additionalProperties" in o for o in objects)


def test_a_field_that_the_schema_does_not_know_is_refused(reports: dict[str, Report]) -> None:
    for place in ((), ("sites", 0), ("proof",), ("verdict",)):
        data = reports["quantize"].to_dict()
        at: Any = data
        for key in place:
            at = at[key]
        at["surprise"] = 1
        with pytest.raises(ReportError, match="surprise"):
            Report.from_dict(data)


def test_the_data_says_what_the_files_are(reports: dict[str, Report]) -> None:
    states = {kind: reports[kind].verdict.state for kind in KINDS}
    assert {k for k, s in states.items() if s == "FAILED"} == {"failed"}
    assert (states["plan"], states["dynamic"]) == ("PLANNED", "WRITTEN")
    assert not any(states[k].is_failure for k in ("quantize", "static", "validate"))
    for kind in KINDS:
        data = reports[kind].to_dict()
        if data["output_bytes"] is not None:
            size = Path(data["output"]).stat().st_size
            assert data["output_bytes"] == size
            assert data["verdict"]["smaller"] == data["original_bytes"] / size == data["ratio"]
            output = Path(data["output"]).read_bytes()
            assert data["sha256"]["output"] == {Path(data["output"]).name: hashlib.sha256(output).hexdigest()}
    assert reports["quantize"].command == "onnxquant quantize model.onnx"
    request = reports["failed"].request
    assert request and request.options["min_sqnr"] == 200
    assert request.recipe == [{"format": "int4", "target": "ort"}]
    assert "use more bits" in reports["failed"].verdict.next
    search = reports["search"].search
    assert search and search.sensitivity


def test_weights_have_their_figures(reports: dict[str, Report]) -> None:
    weight = onnx.numpy_helper.to_array(PRODUCTS.graph.initializer[0])
    report = reports["quantize"]
    (site,) = [s for s in report.sites if s.decision.name == "w"]
    encoded = onnxquant.encode(np.ascontiguousarray(weight.T), "q4_k")
    error = onnxquant.decode(encoded).astype(np.float64) - weight.T
    assert isinstance(site.error, ErrorFigures) and site.checks
    assert site.error.mse == pytest.approx((error**2).mean(), rel=1e-6)
    assert site.error.rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
    assert site.error.max_error == pytest.approx(np.abs(error).max(), rel=1e-6)
    assert site.error.mean_error == pytest.approx(error.mean(), rel=1e-4)
    power = (weight.astype(np.float64) ** 2).sum() / (error**2).sum()
    assert site.error.sqnr_db == pytest.approx(10 * np.log10(power), abs=1e-3)
    assert site.checks.sum_test.relative_error < 0.2
    assert site.kernel
    assert report.proof
    drawn = report.proof.distributions["w"]
    assert drawn and drawn.original == np.histogram(weight, 48, (drawn.low, drawn.high))[0].tolist()
    assert drawn.codes == np.bincount(encoded.planes["codes"].reshape(-1), minlength=16).tolist()
    assert sum(drawn.decoded) == weight.size
    assert drawn.every == 1


def test_every_second_value_of_a_large_weight_is_counted() -> None:
    from onnxquant.validation.distribution import distribution

    weight = graphs.rng(1).standard_normal((1100, 1024)).astype(np.float32)
    encoded = onnxquant.encode(weight, "int8")
    counted = distribution(weight, onnxquant.decode(encoded), encoded)
    assert counted and counted.every == 2
    assert sum(counted.original) == sum(counted.codes) == weight.size // 2


def test_ranges_stand_beside_the_values_of_calibration(reports: dict[str, Report]) -> None:
    data = reports["static"].to_dict()
    values = graphs.rng(3).standard_normal((24, 64)).astype(np.float32)
    observed = data["observed"]["x"]
    assert sum(observed["counts"]) > 0
    assert values.min() <= observed["low"] < observed["high"] <= values.max()
    assert data["activations"]["tensors"]["x"]["low"] < 0 < data["activations"]["tensors"]["x"]["high"]


def test_several_reports_side_by_side(reports: dict[str, Report]) -> None:
    chosen = {k: reports[k] for k in ("quantize", "search", "failed", "validate")}
    compared = comparison.compare(chosen)
    assert compared.names == list(chosen)
    for row, report in zip(compared.reports, chosen.values(), strict=True):
        assert row.worst_sqnr_db == report.verdict.worst_sqnr_db
    by_name = {s.name: s.by_report for s in compared.sites}
    assert by_name["w"]["quantize"].format == "q4_k"
    assert by_name["w"]["failed"].format == "int4"
    assert not comparison.compare({"a": reports["quantize"], "b": reports["quantize"]}).sites


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "schema is None, expected 1 or 2"),
        ('{"schema": 99}', "schema is 99, expected 1 or 2"),
        ('{"schema": 1}', "is a required property"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ReportError, match=said):
        Report.load(path)


def test_damaged_reports_name_the_field(reports: dict[str, Report], tmp_path: Path) -> None:
    data = reports["quantize"].to_dict()
    data["sites"][0]["bytes"] = "many"
    with pytest.raises(ReportError, match=r"A\.json: sites/0/bytes: 'many' is not of type 'integer'"):
        Report.from_dict(data, "A.json")
    data = reports["quantize"].to_dict()
    next(s for s in data["sites"] if s["format"])["format"] = "q9_9"
    with pytest.raises(ReportError, match="unknown format 'q9_9'"):
        Report.from_dict(data)
    with pytest.raises(ReportError, match="cannot be read"):
        Report.load(tmp_path / "missing.json")


def test_names_cannot_become_markup(reports: dict[str, Report]) -> None:
    data = reports["quantize"].to_dict()
    data["sites"][0]["name"] = "a|b</script><b>*c*"
    text = markdown(Report.from_dict(data))
    assert "a\\|b&lt;/script&gt;&lt;b&gt;\\*c\\*" in text
    assert "<b>" not in text


def test_rows_hold_the_figures_of_the_data(reports: dict[str, Report]) -> None:
    data = reports["quantize"].to_dict()
    for row, site in zip(rows.sites(reports["quantize"]), data["sites"], strict=True):
        assert row.bytes == site["bytes"]
        assert row.sqnr_db == site.get("error", {}).get("sqnr_db")
    size = next(c for c in rows.costs(reports["quantize"]) if c.name == "size")
    assert (size.original, size.quantized) == (data["original_bytes"], data["output_bytes"])


def test_the_time_of_a_call_is_that_of_its_operators(reports: dict[str, Report]) -> None:
    proof = reports["quantize"].proof
    ops = {time.op: time for time in proof.op_times}
    assert ops["MatMul"].original > 0 == ops["MatMul"].quantized
    assert any(time.quantized > 0 == time.original for time in ops.values())
    assert [max(t.original, t.quantized) for t in proof.op_times] == sorted(
        (max(t.original, t.quantized) for t in proof.op_times), reverse=True
    )
    latency = proof.latency
    before = latency.seconds["original"]
    for seconds, part in ((before, "original"), (before / latency.ratio["quantized"], "quantized")):
        assert sum(getattr(time, part) for time in proof.op_times) == pytest.approx(seconds)
    shown = page(reports["quantize"])
    assert "Time by operator" in shown and ">gone<" in shown and ">new<" in shown


def test_a_file_that_is_slower_without_our_library_says_so(reports: dict[str, Report]) -> None:
    report = reports["static"]
    assert report.proof is not None and report.proof.latency is not None
    latency = report.proof.latency
    for stock, is_told in ((0.6, True), (1.2, False)):
        slower = replace(latency, ratio={**latency.ratio, "quantized, stock": stock}, interval=None)
        measured = replace(report, judgement=None, proof=replace(report.proof, latency=slower))
        assert any("our library is not registered" in text for text in warnings(measured)) == is_told
        assert is_slow_without_library(measured) == is_told
