"""Many models: what fails is a row, what is there stays, what is missing is done."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import graphs
import onnx
import pytest
from commands import refused, run

import onnxquant
from onnxquant.batch.job import Job, Row, run_job
from onnxquant.json_data import from_json
from onnxquant.report.state import State
from onnxquant.report.summary import LINE


def products(folder: Path, count: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [graphs.save(graphs.matmul(48, 40 + i), folder / f"m{i:02}.onnx") for i in range(count)]


def rows(result) -> dict[str, dict]:
    return {Path(r["model"]).name: r for r in json.loads(result.stdout)["models"]}


@pytest.mark.usefixtures("batches_in_this_process")
def test_two_of_twenty_are_broken_and_a_second_run_does_what_is_missing(tmp_path: Path) -> None:
    models, out = products(tmp_path / "in", 20), tmp_path / "out"
    models[3].write_text("no model")
    models[11].write_bytes(models[10].read_bytes()[:500])
    given = ("batch", tmp_path / "in", "-o", out, "--no-proof", "--continue-on-error", "--json")
    first = run(*given)
    assert first.exit_code == 1, first.output
    bad = {name: row["reason"] for name, row in rows(first).items() if row["verdict"] != "WRITTEN"}
    assert set(bad) == {"m03.onnx", "m11.onnx"} and json.loads(first.stdout)["done"] == 18
    assert "not an ONNX model" in bad["m03.onnx"] and "truncated" in bad["m11.onnx"]
    written = {p: p.stat().st_mtime_ns for p in out.glob("*.onnx")}
    assert len(written) == 18
    graphs.save(graphs.matmul(48, 43), models[3])
    second = run(*given, "--skip-existing")
    reused = {name for name, row in rows(second).items() if row["reused"]}
    assert second.exit_code == 1 and len(reused) == 18 and rows(second)["m03.onnx"]["verdict"] == "WRITTEN"
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert {p.name for p in out.glob("*.onnx")} - {p.name for p in written} == {"m03.int8.onnx"}
    shown = run(*given[:-1], "--skip-existing")
    assert "19 of 20 models done" in shown.output and "truncated" in shown.output


def test_without_continue_on_error_the_rest_is_listed_as_not_done(tmp_path: Path) -> None:
    models = products(tmp_path / "in", 4)
    models[1].write_text("no model")
    result = run("batch", *models, "-o", tmp_path / "out", "--no-proof", "--json")
    assert result.exit_code == 1
    assert [r["verdict"] for r in rows(result).values()] == ["WRITTEN", "ERROR", "NOT DONE", "NOT DONE"]
    assert [p.name for p in (tmp_path / "out").glob("*.onnx")] == ["m00.int8.onnx"]


def test_a_process_that_dies_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = products(tmp_path / "in", 4)
    (tmp_path / "deadly.py").write_text(
        "import ctypes, os, signal\n"
        "from onnxquant.validation import compare, reference\n"
        "from onnxquant.validation.footprint import Footprint\n"
        "compare.footprint = reference.footprint = lambda path: Footprint(1.0, 1.0, 1.0)\n"  # measuring takes seconds
        "def metric(session):\n"
        "    last = session.get_outputs()[0].shape[-1]\n"
        "    if last == 41: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if last == 42: ctypes.string_at(0)\n"
        "    return 1.0\n"
    )
    for path, n in zip(models, range(40, 44), strict=True):
        proto = onnx.load(path)
        proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, ["batch", 3, n]))
        onnx.save(proto, path)
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "out"
    made = onnxquant.batch(models, out, metric="deadly:metric", continue_on_error=True, jobs=2, samples=1)
    assert [r.done for r in made.rows] == [True, False, False, True]
    assert [r.verdict for r in made.rows[1:3]] == ["ERROR", "ERROR"]
    assert "SIGKILL" in made.rows[1].reason and "SIGSEGV" in made.rows[2].reason
    assert not made.passed


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-c", "from onnxquant.cli import main; main()", *map(str, arguments)]


def test_an_interrupted_batch_says_what_is_done_and_is_resumed(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    count = 40  # more than are done before the signal arrives
    products(tmp_path, count)
    out = tmp_path / "out"
    given = ("batch", tmp_path / "m*.onnx", "-o", out, "--no-proof")
    process = subprocess.Popen(command(*given), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "onnxquant-batch.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    shown, said = process.communicate(timeout=120)
    assert process.returncode == 130
    match = re.search(rf"interrupted; (\d+) of {count} models are done", said)
    assert match and 1 <= int(match[1]) < count and shown.count("NOT DONE") == count - int(match[1])
    assert not [p for p in out.iterdir() if p.name.startswith(".onnxquant-")]
    request.getfixturevalue("batches_in_this_process")
    result = run(*given, "--skip-existing", "--json")
    assert result.exit_code == 0, result.output
    results = rows(result).values()
    assert len(results) == count and not any(State(r["verdict"]).is_failure for r in results)
    assert int(match[1]) <= sum(r["reused"] for r in results) <= int(match[1]) + 1


def test_only_what_was_made_of_this_model_with_these_options_is_kept(tmp_path: Path) -> None:
    (model,), written = products(tmp_path / "in", 1), tmp_path / "out" / "m.onnx"

    def row(**options: object) -> Row:
        return run_job(
            Job(model, written, options={"proof": False, **options}, skip_existing=True), lambda stage, done: None
        )

    assert row().verdict == "WRITTEN" and row().reused
    refused_ = row(per_channel=False)
    assert refused_.verdict == "ERROR" and "was made with other rules" in refused_.reason
    before = written.read_bytes()
    again = row(per_channel=False, force=True)
    assert again.verdict == "WRITTEN" and not again.reused and written.read_bytes() != before
    assert row(per_channel=False, force=True).reused
    graphs.save(graphs.matmul(48, 41), model)
    assert "was made of another model" in row(per_channel=False).reason
    raw = bytearray(written.read_bytes())
    raw[raw.index(onnx.load(written).graph.initializer[0].raw_data)] ^= 1
    graphs.save(graphs.matmul(48, 40), model)
    assert row(per_channel=False).reused
    written.write_bytes(raw)
    assert "is damaged" in row(per_channel=False).reason
    graphs.save(graphs.matmul(48, 40), written)
    assert "does not say what it was made of" in row().reason
    written.write_bytes(b"no model")
    assert "cannot be read" in row().reason


def test_a_missed_bound_is_remembered_and_an_unproven_file_is_proven(tmp_path: Path) -> None:
    (model,) = products(tmp_path / "in", 1)

    def row(previous: Row | None, **options: object) -> Row:
        job = Job(
            model, tmp_path / "m.onnx", options={"bits": 4, "samples": 1, **options}, skip_existing=True, previous=previous
        )
        return run_job(job, lambda stage, done: None)

    missed = row(None, min_sqnr=60.0)
    assert missed.verdict == "FAILED" and not missed.reused and "the bound is 60" in missed.reason
    again = row(from_json(Row, json.loads(json.dumps(missed.to_dict()))), min_sqnr=60.0)
    assert (again.verdict, again.reused, again.sqnr_db) == ("FAILED", True, missed.sqnr_db)
    proven = row(missed)  # without the bound: the verdict from before says nothing, the file is proven as it is
    assert (proven.done, proven.reused, proven.sqnr_db) == (True, True, missed.sqnr_db)


def test_what_cannot_be_done_is_refused_before_anything_is(tmp_path: Path) -> None:
    one, two = products(tmp_path / "a", 1)[0], products(tmp_path / "b", 1)[0]
    out = tmp_path / "out"
    refused(run("batch", one, two, "-o", out), str(one), str(two), "would both become")
    refused(run("batch", tmp_path / "no*.onnx", "-o", out), "no model is found there")
    refused(run("batch", out, one, "-o", out, "--bits", "4", "--format", "int8"), "bits 4 means format")
    refused(run("batch", one, "-o", out, "--formt", "int8"), "--format")
    other = graphs.save(graphs.matmul(), tmp_path / "b" / "other.onnx")
    refused(run("batch", one, other, "-o", out, "--save-recipe", tmp_path / "p.toml"), "one file for 2 models")
    with pytest.raises(onnxquant.RecipeError, match="another process"):
        onnxquant.batch([one], out, metric=lambda session: 1.0)
    assert not out.exists()


@pytest.mark.usefixtures("batches_in_this_process")
def test_summary_is_one_line_and_outputs_are_no_models(tmp_path: Path) -> None:
    models = products(tmp_path, 2)
    result = run("batch", tmp_path, "-o", tmp_path, "--no-proof", "--summary")
    match = LINE.fullmatch(result.stdout.strip())
    assert match and match["verdict"] == "PASSED" and match["name"] == "2/2 models"
    made = [p.with_suffix(".int8.onnx") for p in models]
    ratio = sum(p.stat().st_size for p in models) / sum(p.stat().st_size for p in made)
    assert float(match["smaller"]) == pytest.approx(ratio, abs=0.006)
    # What lies there from the first run is no model of the second.
    assert len(rows(run("batch", tmp_path, "-o", tmp_path, "--skip-existing", "--dry-run", "--json"))) == 2


@pytest.mark.parametrize(("more", "verdicts"), [((), ("PASSED", "SLOWER")), (("--no-proof",), ("WRITTEN",))])
def test_quantize_and_validate_in_one_line(more: tuple[str, ...], verdicts: tuple[str, ...], tmp_path: Path) -> None:
    model, out = graphs.save(graphs.matmul(256, 64), tmp_path / "a model.onnx"), tmp_path / "out put.onnx"
    result = run("quantize", model, "-o", out, "--summary", "--samples", 1, *more)
    match = LINE.fullmatch(result.stdout.removesuffix("\n"))
    assert match and match["verdict"] in verdicts and match["name"] == str(out)
    assert float(match["smaller"]) == pytest.approx(model.stat().st_size / out.stat().st_size, abs=0.006)
    assert (match["sqnr"] == "-") is (match["verdict"] == "WRITTEN")
    if not more:
        again = LINE.fullmatch(run("validate", model, out, "--summary", "--samples", 1).stdout.strip())
        assert again and again["sqnr"] == match["sqnr"]


@pytest.mark.usefixtures("batches_in_this_process")
@pytest.mark.parametrize(
    "journal",
    ["[" * 50_000, '{"%s": {"model": 1}}', '{"%s": {"model": "m", "output": "o", "key": "k", "original_bytes": "x"}}'],
)
def test_a_damaged_journal_says_nothing(tmp_path: Path, journal: str) -> None:
    (model,), out = products(tmp_path / "in", 1), tmp_path / "out"
    out.mkdir()
    (out / "onnxquant-batch.json").write_text(journal.replace("%s", str(out / "m00.int8.onnx")))
    result = run("batch", model, "-o", out, "--no-proof", "--dry-run", "--skip-existing")
    assert result.exit_code == 0 and not result.stderr, result.output


def test_wrong_names_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    products(tmp_path / "in", 1)
    out = tmp_path / "out"
    refused(run("batch", "", "-o", out), "name is empty")
    refused(run("batch", tmp_path / "**x", "-o", out), "**x: is no pattern")
    (out / "onnxquant-batch.json").mkdir(parents=True)
    refused(run("batch", tmp_path / "in", "-o", out), "onnxquant-batch.json: is a folder")
    assert [p.name for p in out.iterdir()] == ["onnxquant-batch.json"]
