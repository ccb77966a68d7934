"""Solvers and formats chosen under a bound, on the trained model and images that neither has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from conftest import DEFAULT_MODEL
from graphs import model, node, rng, weight

from onnxquant import quantize
from onnxquant.errors import RecipeError
from onnxquant.report.report import Report
from onnxquant.solvers import jobs

DATA = dict(np.load(DEFAULT_MODEL.with_name("default_test.npz")))
CALIBRATION = {"image": DATA["calibration"][:96].astype(np.float32)[:, None, None]}
UNSEEN = DATA["image"][:512].astype(np.float32)[:, None]
FORMATS = ("int8", "int6", "int5", "int4", "int3")


def logits(path: Path) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": UNSEEN})[0].astype(np.float64)


EXPECTED = logits(DEFAULT_MODEL)


def made(folder: Path, **options: Any) -> tuple[Report, float]:
    """The report, and the SQNR on unseen images. What one conversion has solved and weighed serves the others."""
    path = folder / "model.onnx"
    given = {"data": CALIBRATION, "force": True, "proof": False, "work": str(folder.parent / "work")}
    report = quantize(DEFAULT_MODEL, path, **{**given, **options})
    assert report.passed
    return report, float(10 * np.log10((EXPECTED**2).sum() / ((logits(path) - EXPECTED) ** 2).sum()))


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    """Bits per weight and SQNR of one format for all weights."""
    folder, found = tmp_path_factory.mktemp("uniform"), {}
    for form in FORMATS:
        report, sqnr = made(folder, format=form)
        found[form] = (report.to_dict()["bits_per_weight"], sqnr)
    return found


@pytest.mark.parametrize("form", ["int4", "q4_1", "nf4"])
def test_solvers_beat_rtn_on_images_outside_the_calibration(form: str, tmp_path: Path) -> None:
    rtn = made(tmp_path, format=form, solver="rtn")[1]
    mse = made(tmp_path, format=form, solver="mse")[1]
    report, gptq = made(tmp_path, format=form)
    assert {s.decision.solver for s in report.encoded if s.decision.role == "gemm"} == {"gptq"}
    assert mse > rtn - 0.1 and gptq > rtn + 3


def test_a_solver_that_needs_data_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"solver gptq needs samples.*give --data"):
        quantize(DEFAULT_MODEL, tmp_path / "model.onnx", format="int4", solver="gptq")
    assert not list(tmp_path.iterdir())


def test_a_solver_that_cannot_serve_a_format_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"solver gptq: .*float"):
        quantize(DEFAULT_MODEL, tmp_path / "model.onnx", format="f16", solver="gptq", data=CALIBRATION)


def test_bits_per_weight_beat_every_format_of_that_size(
    tmp_path: Path, uniform: dict[str, tuple[float, float]]
) -> None:
    """On or above the line that joins the uniform formats, solved the same way."""
    bits, decibels = (np.array(v) for v in zip(*sorted(uniform.values()), strict=True))
    for budget in (4.2, 5.2):
        report, sqnr = made(tmp_path, budget_bpw=budget)
        spent = report.to_dict()["bits_per_weight"]
        assert 0.97 * budget < spent <= budget
        assert sqnr > np.interp(spent, bits, decibels)
        search = report.to_dict()["search"]
        assert search["asked"] == {"budget_bpw": budget}
        front = [(c["bits_per_weight"], c["predicted_sqnr_db"]) for c in search["front"]]
        assert front == sorted(front, key=lambda p: (p[0], p[1] is None, p[1]))
        assert {s["name"] for s in search["sensitivity"]} == {s.decision.name for s in report.sites if s.decision.role}


def test_the_file_is_within_max_size(tmp_path: Path) -> None:
    report, _ = made(tmp_path, max_size="190kB")
    assert 170_000 < (tmp_path / "model.onnx").stat().st_size <= 190_000
    assert report.output_bytes == (tmp_path / "model.onnx").stat().st_size


def test_the_smallest_that_keeps_a_quality(tmp_path: Path, uniform: dict[str, tuple[float, float]]) -> None:
    report, sqnr = made(tmp_path, formats=FORMATS, min_sqnr=28, proof=True)
    assert report.proof and all(d.sqnr_db >= 28 for d in report.proof.deployed.values())
    assert report.to_dict()["bits_per_weight"] < uniform["int5"][0]
    assert 24 < sqnr < 40


def test_the_smallest_that_keeps_a_metric(tmp_path: Path) -> None:
    labels = DATA["label"][:512]

    def accuracy(session: ort.InferenceSession) -> float:
        return float((session.run(None, {"image": UNSEEN})[0].argmax(1) == labels).mean())

    report, _ = made(tmp_path, formats=("int8", "int4", "int2"), metric=accuracy, max_drop="1%", proof=True)
    assert report.proof and report.proof.metric and report.proof.metric.passed
    assert report.to_dict()["bits_per_weight"] < 6


def test_a_weight_that_the_search_leaves_in_float_says_so() -> None:
    """No rule of the user's does: a small weight whose error is large beside the bytes that it saves."""
    nodes = [node("MatMul", ["x", "small"], ["h"]), node("MatMul", ["h", "large"], ["y"])]
    constants = {"small": weight(128, 4), "large": weight(4, 4096)}
    proto = model(nodes, {"x": ("float32", ["b", 128])}, {"y": "float32"}, constants)
    data = {"x": rng().standard_normal((8, 128)).astype(np.float32)}
    report = quantize(proto, "no.onnx", data=data, formats=("int8", "int4"), budget_bpw=9.5, dry_run=True)
    reasons = {site.decision.name: site.decision.reason for site in report.sites if site.decision.format is None}
    assert reasons == {"small": "the search under the bound leaves it in float"}


def test_rules_of_a_recipe_stay_as_they_are(tmp_path: Path) -> None:
    rules = {"rules": [{"include": "attn", "format": "int8"}, {"include": "stem", "keep": True}]}
    report, _ = made(tmp_path, recipe=rules, budget_bpw=6)
    chosen = {s.decision.name: s.decision.format for s in report.sites if s.decision.role}
    assert {f.name if f else None for n, f in chosen.items() if "attn" in n} == {"int8"}
    assert {f for n, f in chosen.items() if n.startswith("stem")} == {None}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget_bpw": 2.0}, r"as small as asked: the smallest has 3\.\d+ bits per weight"),
        ({"max_size": "100kB"}, "as small as asked: the smallest has more than"),
        ({"max_size": "a lot"}, "max_size is 'a lot', expected a size such as 30MB"),
        ({"budget_bpw": -1}, "budget_bpw is -1"),
        ({"budget_bpw": 4, "max_size": "1MB"}, "two bounds on one thing"),
        ({"budget_bpw": 4, "format": "int4"}, "name formats to choose among"),
        ({"budget_bpw": 4, "activations": "static"}, "leave out activations"),
        ({"formats": ["int4"]}, "formats need a bound"),
        ({"formats": ["int44"], "budget_bpw": 5}, "unknown format 'int44'"),
        ({"budget_bpw": 4, "data": None}, "weighs them on samples.*give --data"),
    ],
)
def test_impossible_bounds_are_refused_with_the_reason(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says):
        quantize(DEFAULT_MODEL, tmp_path / "model.onnx", **{"data": CALIBRATION, **options})
    assert not list(tmp_path.iterdir())


def test_a_second_run_takes_figures_and_weights_from_the_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(tmp_path, budget_bpw=4.5, work=str(tmp_path / "work"))
    before = (tmp_path / "model.onnx").read_bytes()
    monkeypatch.setattr(jobs.Task, "solve", lambda self: pytest.fail(f"{self.name} is solved again"))
    second = made(tmp_path, budget_bpw=4.5, work=str(tmp_path / "work"))
    assert (tmp_path / "model.onnx").read_bytes() == before and first[1] == second[1]
