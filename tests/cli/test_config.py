"""Files of options: what they say is done, what is wrong in them stops everything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import graphs
import jsonschema
import onnx
import pytest
import yaml
from commands import refused, run
from conftest import DEFAULT_MODEL

from onnxquant.batch.config_file import config_schema, read
from onnxquant.errors import RecipeError
from onnxquant.report.state import State


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    for name in ("a", "b", "c"):
        graphs.save(graphs.matmul(256, 288), tmp_path / "models" / f"{name}.onnx")
    return tmp_path


def write(folder: Path, text: str, name: str = "q.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.usefixtures("batches_in_this_process")
def test_the_short_form_of_quantize_rs(folder: Path) -> None:
    text = (
        "bits: 4\nper_channel: true\n\nmodels:\n"
        "  - input: models/a.onnx\n    output: quantized/a_int4.onnx\n\n"
        "  - input: models/b.onnx\n    output: quantized/b_int4.onnx\n\n"
        'batch:\n  input_dir: "models/*.onnx"\n  output_dir: quantized/\n  skip_existing: true\n'
        "proof: false\n"  # for the time
    )
    result = run("config", write(folder, text), "--json")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (folder / "quantized").glob("*.onnx")) == [
        "a.int4.onnx", "a_int4.onnx", "b.int4.onnx", "b_int4.onnx", "c.int4.onnx",
    ]  # fmt: skip
    made = onnx.load(folder / "quantized" / "a_int4.onnx")
    site = json.loads(next(e.value for e in made.metadata_props if e.key == "onnxquant"))["sites"][0]
    assert site["format"] == "int4" and site["parameters"]["per_channel"] is True
    again = json.loads(run("config", folder / "q.yaml", "--json", "--force").stdout)["models"]
    assert [r["reused"] for r in again] == [True] * 5


def test_a_models_own_options_and_rules_win(folder: Path) -> None:
    (folder / "r.toml").write_text('solver = "mse"\n[options]\nsamples = 3\nseed = 5\n')
    text = (
        'bits = 4\nsamples = 2\nrecipe = "r.toml"\nrules = [{ include = "nothing", keep = true }]\n'
        '[[models]]\ninput = "models/a.onnx"\n'
        '[[models]]\ninput = "models/b.onnx"\nformat = "q8_0"\nrules = [{ op = "Gemm", format = "q4_0" }]\nsolver = "rtn"\n'
    )
    one, two = (job.settings() for job in read(write(folder, text, "q.toml")).jobs)
    assert (one[0].bits, one[0].samples, one[0].seed) == (4, 2, 5)
    assert [r.to_dict() for r in one[1].rules] == [
        {"include": ["nothing"], "keep": True},
        {"bits": 4, "solver": "mse"},
    ]
    assert [r.to_dict() for r in two[1].rules] == [
        {"op": ["Gemm"], "format": "q4_0"},
        {"include": ["nothing"], "keep": True},
        {"format": "q8_0", "solver": "rtn"},
    ]
    assert read(folder / "q.toml").jobs[1].output == folder / "models" / "b.q8_0.onnx"


def test_paths_are_relative_to_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, "no: 1\n").with_name("q.yaml")
    write(folder, "work: solved\ndata: feeds.npz\nmodels: [{input: models/a.onnx}]\n")
    monkeypatch.chdir("/")
    job = read(path).jobs[0]
    assert job.source == folder / "models" / "a.onnx"
    assert (job.data, job.options["work"]) == (str(folder / "feeds.npz"), str(folder / "solved"))


WRONG = {
    "unknown key": ("bts: 4\nmodels: [{input: x.onnx}]", "unknown key 'bts'; did you mean 'bits'"),
    "of a model": ("models: [{input: x.onnx}, {input: y.onnx, block_sise: 4}]", "models[1]: unknown key 'block_sise'"),
    "of a rule": ("rules: [{incude: x}]\nmodels: [{input: x.onnx}]", "rules[0]: unknown key 'incude'"),
    "of the batch": ("batch: {input_dir: models, output: x}", "batch: unknown key 'output'; did you mean 'output_dir'"),
    "type": ("bits: '4'\nmodels: [{input: x.onnx}]", "bits is '4', expected int"),
    "true is no number": ("bits: true\nmodels: [{input: x.onnx}]", "bits is True, expected int"),
    "choice": ("target: onxx\nmodels: [{input: x.onnx}]", "target is 'onxx'; did you mean 'onnx'"),
    "missing": ("models: [{output: x.onnx}]", "models[0]: input is missing"),
    "no list": ("models: {input: x.onnx}", "models is {'input': 'x.onnx'}, expected list"),
    "nothing": ("bits: 4", "names no models"),
    "no such format": ("models: [{input: x.onnx, format: int7}]", "models[0]: format is 'int7'; did you mean 'int"),
    "against each other": ("models: [{input: x.onnx, format: q4_0, block_size: 32}]", "no parameter 'block_size'"),
    "one output": ("models: [{input: x.onnx, output: o.onnx}, {input: y.onnx, output: o.onnx}]", "would both become"),
    "no models there": ("batch: {input_dir: empty/*.onnx, output_dir: out}", "no model is found there"),
    "not yaml": ("bits: [", "not a recipe"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_nothing_is_begun_where_anything_is_wrong(kind: str, folder: Path) -> None:
    text, words = WRONG[kind]
    before = sorted(folder.rglob("*"))
    path = write(folder, text)
    refused(run("config", path), words, str(path))
    assert sorted(folder.rglob("*")) == sorted([*before, path])


def test_the_schema_agrees_with_the_reader(folder: Path) -> None:
    schema = json.loads(run("config", "--schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    good = [
        yaml.safe_load(run("config", "--example").stdout),
        {"bits": 4, "include": "x", "exclude": ["y", "z"], "max_drop": 0.5, "models": [{"input": "models/a.onnx"}]},
        {"max_drop": "1%", "min_sqnr": 20, "batch": {"input_dir": "models", "output_dir": "out", "jobs": 2}},
    ]
    for entries in good:
        jsonschema.validate(entries, schema)
    wrong = ("unknown key", "of a model", "of a rule", "of the batch", "type", "true is no number", "choice", "missing")
    for kind in (*wrong, "no list"):
        entries = yaml.safe_load(WRONG[kind][0])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(entries, schema)
        with pytest.raises(RecipeError):
            read(write(folder, WRONG[kind][0]))


def test_every_option_has_a_schema_of_its_kind() -> None:
    properties = config_schema()["properties"]
    expected: dict[str, Any] = {
        "bits": "integer", "min_sqnr": "number", "symmetric": "boolean", "format": "string", "max_drop": ["string", "number"],
        "include": ["array", "string"], "metric": "string", "preprocess": ["string", "object"], "samples": "integer",
    }  # fmt: skip
    assert {k: properties[k]["type"] for k in expected} == expected
    assert all(p["description"] for p in properties.values())


@pytest.mark.usefixtures("batches_in_this_process")
def test_the_example_runs(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    shutil.copy(DEFAULT_MODEL, tmp_path / "models" / "default.onnx")
    path = write(tmp_path, run("config", "--example").stdout)
    plan = run("config", path, "--dry-run")
    assert plan.exit_code == 0 and plan.output.count("nothing was written") == 2
    assert not (tmp_path / "quantized").exists()
    result = run("config", path, "--json")
    assert result.exit_code == 0, result.output
    verdicts = [State(r["verdict"]) for r in json.loads(result.stdout)["models"]]
    assert len(verdicts) == 2 and not any(state.is_failure for state in verdicts)
    assert sorted(p.name for p in (tmp_path / "quantized").glob("*.onnx")) == ["default.int8.onnx", "default_int4.onnx"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [{input: ''}]", "models[0]: input is '', expected a file"),
        ('recipe: "a\\0b"\nmodels: [{input: models/a.onnx}]', "recipe is 'a\\x00b', expected text without NUL"),
        ("batch: {input_dir: models, output_dir: o, jobs: 0}", "batch: jobs is 0, expected at least 1"),
        (
            "models: [{input: models/a.onnx, output: no/../x.onnx}, {input: models/b.onnx, output: x.onnx}]",
            "both become",
        ),
        ("models: [{input: models/a.onnx, output: x.onnx}, {input: models/a.onnx, output: x.onnx}]", "both become"),
        (
            "force: true\nmodels: [{input: models/a.onnx, output: models/b.onnx}, {input: models/b.onnx}]",
            "a model, too",
        ),
    ],
)
def test_names_that_would_do_harm(folder: Path, text: str, words: str) -> None:
    before = (folder / "models" / "b.onnx").read_bytes()
    refused(run("config", write(folder, text)), "q.yaml: ", words)
    assert (folder / "models" / "b.onnx").read_bytes() == before
    assert len(list(folder.rglob("*.onnx"))) == 3


@pytest.mark.usefixtures("batches_in_this_process")
def test_outputs_of_models_are_kept_where_the_batch_says_so(tmp_path: Path) -> None:
    shutil.copy(DEFAULT_MODEL, tmp_path / "m.onnx")
    entries = "proof: false\nmodels: [{input: m.onnx, output: x.onnx}]\nbatch: {skip_existing: true}\n"
    path = write(tmp_path, entries)
    assert run("config", path).exit_code == 0
    before = (tmp_path / "x.onnx").stat().st_mtime_ns
    again = run("config", path)
    assert again.exit_code == 0 and (tmp_path / "x.onnx").stat().st_mtime_ns == before, again.output
    with pytest.raises(RecipeError, match="batch: output_dir is missing"):
        read(write(tmp_path, "batch: {input_dir: m.onnx}\n"))
