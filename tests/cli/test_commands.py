"""Every command on good input, and every bad input: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import graphs
import numpy as np
import onnx
import pytest
from commands import refused, run

import onnxquant
from onnxquant import interchange
from onnxquant.cli import main, shared


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return graphs.save(graphs.matmul(256, 288), tmp_path / "model.onnx")


def test_quantize_validate_and_the_rest(model: Path, tmp_path: Path) -> None:
    result = run("quantize", model)
    assert result.exit_code == 0, result.output
    output = tmp_path / "model.int8.onnx"
    assert output.exists()
    assert "FAILED" not in result.output
    assert "SYNTHETIC" in result.output
    for arguments in (
        ("validate", model, output, "--detailed"),
        ("benchmark", model, output, "--threads", 1),
        ("info", output),
        ("list",),
        ("verify", output),
        ("dequantize", output, "-o", tmp_path / "float.onnx"),
        ("quantize", model, "-o", tmp_path / "q.onnx", "-q"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    assert result.output == ""


@pytest.mark.parametrize("threads", [1, 2])
def test_benchmarks_name_their_clock_and_runs_that_spread(
    model: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(shared, "_SPREAD", 1e9)
    quiet = run("benchmark", model, model, "--threads", threads).stdout
    clock = "Processor time, 1 thread" if threads == 1 else "Latency by the clock, ratios of processor time"
    assert clock in quiet and "uncertain" not in quiet
    monkeypatch.setattr(shared, "_SPREAD", 0.0)
    busy = " ".join(run("benchmark", model, model, "--threads", threads).stdout.split())
    assert re.search(r"uncertain: ratios of single runs spread \(.*model.onnx by \d+% between their quartiles\)", busy)


def test_json_is_json(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    for arguments in (
        ("quantize", model, "-o", output, "--json"),
        ("quantize", model, "-o", output, "--dry-run", "--json"),
        ("validate", model, output, "--json"),
        ("benchmark", model, output, "--json"),
        ("info", output, "--json"),
        ("list", "--json"),
        ("verify", output, "--json"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)


def test_dry_run_shows_every_weight_and_writes_nothing(default_model: Path, tmp_path: Path) -> None:
    result = run(
        "quantize", default_model, "-o", tmp_path / "out.onnx", "--dry-run", "--format", "q4_0", "--target", "custom"
    )
    assert result.exit_code == 0
    assert "head.hidden.weight" in result.output
    assert "padding" in result.output
    assert "nothing was written" in result.output
    assert not list(tmp_path.iterdir())


def test_missed_bounds_exit_with_1_and_keep_the_file(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    result = run("quantize", model, "-o", output, "--bits", "2", "--min-sqnr", "60")
    assert result.exit_code == 1
    assert "the bound is 60" in result.output
    assert output.exists()
    assert run("validate", model, output, "--max-mse", "1e-12").exit_code == 1
    assert run("validate", model, output).exit_code == 0


def test_verify_finds_a_flipped_bit(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    run("quantize", model, "-o", output, "--external-data", "always", "--no-proof")
    data = tmp_path / "out.onnx.data"
    raw = bytearray(data.read_bytes())
    raw[1234] ^= 4
    data.write_bytes(raw)
    result = run("verify", output)
    assert result.exit_code == 1
    assert "damaged: w/codes" in result.output


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    """A file of tensors without a graph, with names that are long."""
    weight = np.random.default_rng(0).standard_normal((64, 512), np.float32)
    stem = "model.language_model.layers.0.self_attention"
    weights = {f"{stem}.{name}_projection.weight": onnxquant.encode(weight, "q4_0") for name in "qkv"}
    interchange.save(tmp_path / "m.axqt", {**weights, "scalar": np.float32(1)})
    return tmp_path / "m.axqt"


def test_info_lists_tensors_one_by_one_in_80_columns(tensors: Path, model: Path, tmp_path: Path) -> None:
    assert "q_projection" not in run("info", tensors).stdout
    lines = run("info", tensors, "-v").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if "_projection.weight" in line]
    assert [row[1:] for row in rows] == [["q4_0", "64x512", "18.43", "kB", "4.5"]] * 3
    listed = json.loads(run("info", tensors, "--json").stdout)["tensors"]
    assert listed[0] | {"type": "q4_0", "shape": [64, 512], "nbytes": 18432, "bits_per_weight": 4.5} == listed[0]
    run("quantize", model, "-o", tmp_path / "q.onnx", "--no-proof")
    assert "Encoded weights" not in run("info", tmp_path / "q.onnx").stdout
    assert "Encoded weights" in run("info", tmp_path / "q.onnx", "-v").stdout


def test_verify_of_a_file_of_tensors_names_those_that_are_damaged(tensors: Path) -> None:
    whole = run("verify", tensors)
    assert whole.exit_code == 0 and "4 of 4 tensors whole" in " ".join(whole.stdout.split())
    raw = bytearray(tensors.read_bytes())
    raw[100] ^= 1
    tensors.write_bytes(raw)
    result = run("verify", tensors)
    assert result.exit_code == 1 and "damaged: model.language_model" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    data = json.loads(run("verify", tensors, "--json").stdout)
    assert [tensor["name"].split(".")[-2] for tensor in data["damaged"]] == ["q_projection"] and not data["passed"]
    tensors.write_bytes(raw[:1000])
    refused(run("verify", tensors), str(tensors))


def test_validate_sees_damage_and_swapped_arguments(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    run("quantize", model, "-o", output, "--external-data", "always", "--no-proof")
    swapped = run("validate", output, model)
    refused(swapped, "swap them", str(output), str(model))
    data = tmp_path / "out.onnx.data"
    raw = bytearray(data.read_bytes())
    raw[4321] ^= 1
    data.write_bytes(raw)
    result = run("validate", model, output)
    assert result.exit_code == 1
    assert "not as they were written" in result.output


def _text(path: Path) -> None:
    path.write_text("certainly not a model")


def _truncated(path: Path) -> None:
    raw = graphs.matmul(256, 288).SerializeToString()
    path.write_bytes(raw[: len(raw) // 2])


def _opset(version: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        proto = graphs.matmul(256, 288)
        proto.opset_import[0].version = version
        onnx.save(proto, path)

    return make


def _nan(path: Path) -> None:
    weight = graphs.weight(256, 288)
    weight[7, 9] = np.nan
    proto = graphs.matmul(256, 288)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, path)


def _without_weights(path: Path) -> None:
    onnx.save(graphs.model([graphs.node("Relu", ["x"], ["y"])], {"x": ("float32", [1])}, {"y": "float32"}, {}), path)


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.touch(), "the file is empty"),
    "text": (_text, "not an ONNX model"),
    "truncated": (_truncated, "truncated"),
    "old opset": (_opset(5), "opset 5 is not supported"),
    "new opset": (_opset(99), "opset 99 is not supported"),
    "nan": (_nan, "weight 'w' holds nan"),
    "no weights": (_without_weights, "nothing to quantize"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models(kind: str, tmp_path: Path) -> None:
    make, words = BAD_MODELS[kind]
    path = tmp_path / "bad.onnx"
    make(path)
    before = sorted(tmp_path.iterdir())
    refused(run("quantize", path, "-o", tmp_path / "out.onnx"), words)
    assert sorted(tmp_path.iterdir()) == before


BAD_OPTIONS = {
    "unknown format": (["--format", "int7"], "did you mean 'int"),
    "bits": (["--bits", "7"], "7; known: 8, 6, 5, 4, 3, 2"),
    "bits against format": (["--bits", "8", "--format", "int4"], "bits 8 means format 'int8'"),
    "block too large": (["--block-size", "512"], "block_size 512"),
    "block not a power": (["--block-size", "48"], "block_size 48"),
    "two granularities": (["--block-size", "32", "--per-channel"], "exclude each other"),
    "no such parameter": (["--format", "q4_0", "--block-size", "32"], "no parameter 'block_size'"),
    "target": (["--target", "onxx"], "onxx"),
    "regex": (["--include", "("], "not a regular expression"),
    "dim": (["--dim", "N"], "expected NAME=N"),
    "samples": (["--samples", "0"], "samples is 0"),
    "too many threads": (["--threads", "999"], "expected at most 256"),
    "no number": (["--min-sqnr", "nan"], "min_sqnr is nan"),
    "bound without proof": (["--no-proof", "--min-sqnr", "20"], "leaves out"),
    "no such dimension": (["--dim", "bach=3"], "did you mean 'batch'"),
    "data missing": (["--data", "nowhere.npz"], "nowhere.npz"),
    "recipe missing": (["--recipe", "nowhere.toml"], "nowhere.toml"),
    "unknown flag": (["--bit", "4"], "no such option"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_bad_options(kind: str, model: Path, tmp_path: Path) -> None:
    options, words = BAD_OPTIONS[kind]
    refused(run("quantize", model, "-o", tmp_path / "out.onnx", *options), words)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("r.toml", 'formt = "int4"', "did you mean 'format'"),
        ("r.toml", "format = ", "not a recipe"),
        ("r.toml", "format = 4", "format is 4, expected str"),
        ("r.toml", '[[rules]]\nincude = "x"', "rule 1: unknown key 'incude'; did you mean 'include'"),
        ("r.toml", 'rules = "x"', "expected a list of tables"),
        ("r.yaml", "format: [", "not a recipe"),
        ("r.yaml", "- 1", "expected a table"),
        ("r.yaml", "bits: true", "bits is True"),
    ],
)
def test_bad_recipes(name: str, text: str, words: str, model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / name
    recipe.write_text(text)
    refused(run("quantize", model, "-o", tmp_path / "out.onnx", "--recipe", recipe), words)


def test_yaml_and_toml_recipes_say_the_same(model: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('bits = 4\n[[rules]]\ninclude = "w"\nformat = "q8_0"\n')
    (tmp_path / "r.yaml").write_text("bits: 4\nrules:\n  - include: w\n    format: q8_0\n")
    plans = [
        json.loads(run("quantize", model, "--recipe", tmp_path / name, "--dry-run", "--json").stdout)["sites"]
        for name in ("r.toml", "r.yaml")
    ]
    assert plans[0] == plans[1]
    assert plans[0][0]["format"] == "q8_0"


BAD_FEEDS = {
    "wrong name": ({"X": np.zeros((2, 3, 256), np.float32)}, "the model has no input 'X'"),
    "more arrays": (
        {"z": np.zeros((2, 3, 256), np.float32), "speaker": np.zeros((2, 3))},
        "has no input 'z', 'speaker'; found z float32 [2, 3, 256], speaker float64 [2, 3]; the model takes x",
    ),
    "one sample": (
        {"x": np.zeros((3, 256), np.float32)},
        "array 'x' has shape [3, 256], expected [samples, 3, 256]; it is one sample: give it an axis",
    ),
    "flat": ({"x": np.zeros(768, np.float32)}, "array 'x' has shape [768], expected [samples, 3, 256]; the first axis"),
    "wrong shape": ({"x": np.zeros((2, 3, 255), np.float32)}, "shape [1, 3, 255], expected ['batch', 3, 256]"),
    "wrong type": ({"x": np.zeros((2, 3, 256), np.int64)[..., :0]}, "expected"),
    "nan": ({"x": np.full((2, 3, 256), np.nan, np.float32)}, "NaN"),
    "empty": ({"x": np.zeros((0, 3, 256), np.float32)}, "no samples"),
}


@pytest.mark.parametrize("kind", BAD_FEEDS)
def test_bad_feeds(kind: str, model: Path, tmp_path: Path) -> None:
    arrays, words = BAD_FEEDS[kind]
    data = tmp_path / "feeds.npz"
    np.savez(data, **arrays)
    refused(run("quantize", model, "-o", tmp_path / "out.onnx", "--data", data), words)
    refused(run("quantize", model, "-o", tmp_path / "out.onnx", "--data", data, "--format", "int8"), words)
    assert not (tmp_path / "out.onnx").exists()


def test_outputs_are_guarded(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    refused(run("quantize", model, "-o", model), "never overwritten")
    refused(run("quantize", model, "-o", model, "--force"), "never overwritten")
    assert model.read_bytes() == before
    refused(run("quantize", model, "-o", tmp_path / "no" / "out.onnx"), "does not exist")
    refused(run("quantize", model, "-o", tmp_path), "is a folder")
    refused(run("quantize", model, "-o", "."), "is a folder")
    taken = tmp_path / "taken.onnx"
    taken.write_text("mine")
    refused(run("quantize", model, "-o", taken), "--force")
    assert taken.read_text() == "mine"
    assert run("quantize", model, "-o", taken, "--force", "--no-proof").exit_code == 0
    refused(run("quantize", taken, "-o", tmp_path / "again.onnx"), "already quantized")


@pytest.mark.parametrize("command", sorted(main.commands))
def test_help_teaches(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    for option in main.commands[command].params:
        assert isinstance(option, click.Argument) or getattr(option, "help", None), option.name
    if command in ("quantize", "validate", "benchmark"):
        assert "Example" in result.output


def test_models_that_have_nothing_to_do_with_each_other_are_refused(model: Path, tmp_path: Path) -> None:
    other = graphs.save(graphs.conv(), tmp_path / "other.onnx")
    refused(
        run("validate", model, other), "is not made of", "inputs are x [batch, 8, 7, 7], expected x [batch, 3, 256]"
    )
    refused(run("benchmark", model, model, other), "other.onnx cannot run on the samples of", "x [batch, 8, 7, 7]")
    renamed = onnx.load(model)
    renamed.graph.output[0].name = renamed.graph.node[0].output[0] = "z"
    onnx.save(renamed, other)
    refused(run("validate", model, other), "outputs are z", "expected y")


JUDGES = """
calls = []
def failing(session): raise ValueError("no labels here")
def late(session):
    calls.append(1)
    return 1.0 if len(calls) == 1 else float("nan")
"""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metric", "judges:accuracy"), "judges has no 'accuracy'"),
        (("--metric", "judges:failing"), "no labels here"),
        (("--metric", "judges:late"), "gives nan"),
        (("--judge", "z"), "no output of that name"),
        (("--judge", "y:[a]"), "is no slice"),
        (("--preprocess", "mean=0.5"), "has no effect without samples: give --data"),
        (("--dry-run", "--preprocess", "mean=0.5"), "has no effect without samples: give --data"),
        (("--dry-run", "--data", "missing.npz"), "missing.npz"),
        (("--auto-exclude",), "no effect without --activations static"),
        (("--percentile", "99"), "no effect without --activations static"),
        (("--activations", "static", "--sigmas", "3"), "no effect with calibration_method auto, expected mean-std"),
        (("--labels", "classes.csv"), "labels: has no effect without samples: give --data"),
        (("--calibration-samples", "9"), "calibration_samples: has no effect without samples: give --data"),
    ],
    ids=" ".join,
)
def test_nothing_is_left_behind_where_a_command_is_refused(
    options: tuple[str, ...], words: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "judges.py").write_text(JUDGES)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("judges", None)
    more = ("--samples", 1, "--report", tmp_path / "r.json", "--save-recipe", tmp_path / "p.toml")
    refused(run("quantize", model, "-o", tmp_path / "o.onnx", "--external-data", "always", *more, *options), words)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["judges.py", "model.onnx"]


def test_verify_sees_changed_metadata(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    run("quantize", model, "-o", output, "--no-proof")
    proto = onnx.load(output)
    proto.metadata_props.add(key="author", value="somebody")  # entries of others are no concern of ours
    onnx.save(proto, output)
    assert run("verify", output).exit_code == 0
    entry = next(e for e in proto.metadata_props if e.key == "onnxquant")
    entry.value = entry.value.replace('"float_bytes":', '"float_bytes":1')
    onnx.save(proto, output)
    result = run("verify", output)
    assert result.exit_code == 1 and "damaged: metadata" in result.output
    assert "the metadata is not as it was written" in run("validate", model, output, "--samples", 1).output


def test_a_second_run_replaces_the_hashes_of_the_first(model: Path, tmp_path: Path) -> None:
    half, output = tmp_path / "half.onnx", tmp_path / "out.onnx"
    run("quantize", model, "-o", half, "--format", "f16", "--whole-graph", "--no-proof")
    result = run("quantize", half, "-o", output, "--bits", 4, "--samples", 1)
    assert result.exit_code == 0, result.output
    assert run("verify", output).exit_code == 0


@pytest.mark.parametrize(
    ("words", "name"), [(["--bits", "3"], "int3"), (["-b", "6"], "int6"), (["--format", "Q4_0"], "q4_0")]
)
def test_formats_are_named_by_bits_and_in_any_case(tmp_path: Path, words: list[str], name: str) -> None:
    source = graphs.save(graphs.matmul(k=256, n=64), tmp_path / "m.onnx")
    result = run("quantize", source, "--no-proof", *words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / f"m.{name}.onnx").exists()


def test_long_work_writes_lines_where_there_is_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = graphs.save(graphs.matmul(), tmp_path / "m.onnx")
    silent = run("quantize", source, "-o", tmp_path / "a.onnx")
    monkeypatch.setattr(shared, "_LOG_SECONDS", 0.0)
    shown = run("quantize", source, "-o", tmp_path / "b.onnx")
    lines = [line for line in shown.stderr.splitlines() if re.match(r"\d+ s: .", line)]
    assert len(lines) > 3 and not any(re.match(r"\d+ s: .", line) for line in silent.stderr.splitlines())
    for words in ("--json", "--quiet"):
        assert not run("quantize", source, "-o", tmp_path / f"{words}.onnx", words).stderr


def test_lines_tell_the_time_that_is_left_and_come_when_work_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(shared, "time", clock)
    lines = shared._LogLines()
    lines("writing", 0.0)
    clock.now += 20
    lines("writing", 0.25)
    clock.now += 11
    lines.show()
    clock.now += 11
    lines("checking", 0.0)
    clock.now += 11
    lines("solving", 0.6)
    clock.now += 11
    lines("solving", 0.8)
    assert capsys.readouterr().err.splitlines() == [
        "20 s: writing, 25%, about 60 s left", "31 s: writing, 25%, about 93 s left", "42 s: checking",
        "53 s: solving, 60%", "64 s: solving, 80%, about 11 s left",
    ]  # fmt: skip


def test_files_are_verified_with_progress(tmp_path: Path) -> None:
    source = graphs.save(graphs.matmul(k=256, n=64), tmp_path / "m.onnx")
    onnxquant.quantize(source, tmp_path / "q.onnx", format="q4_0", target="custom", proof=False)
    stages: list[tuple[str, float]] = []
    results = onnxquant.verify(tmp_path / "q.onnx", progress=lambda stage, done: stages.append((stage, done)))
    assert len(stages) == len(results) - 1 and {stage for stage, _ in stages} == {"verifying tensors"}
    assert stages == sorted(stages) and 0 == stages[0][1] < stages[-1][1] < 1


def test_a_thread_shows_lines_while_work_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared, "_LOG_SECONDS", 0.01)
    shown = threading.Event()
    monkeypatch.setattr(shared.click, "echo", lambda line, err: shown.set())
    with shared.progress_bar(is_shown=True):
        assert shown.wait(60), "no line without a call"


def test_files_of_tensors_are_quantized_shown_and_cut(tmp_path: Path, model: Path) -> None:
    weights = {
        "a.weight": np.random.default_rng(0).standard_normal((8, 256), np.float32),
        "a.bias": np.ones(8, np.float32),
    }
    interchange.save(tmp_path / "a.safetensors", weights, metadata={"note": "\x1b[2J"})
    refused(
        run("quantize", tmp_path / "a.safetensors", "-o", tmp_path / "a_q8k", "--format", "q8_k"),
        "a.bias",
        "--leave-out",
    )
    result = run("quantize", tmp_path / "a.safetensors", "-o", tmp_path / "a_q8k", "--format", "q8_k", "--leave-out")
    assert result.exit_code == 0, result.output
    assert "left out: a.bias" in result.output
    assert "1 of 1 tensors quantized" in result.output
    refused(run("quantize", model, "-o", tmp_path / "q.onnx", "--leave-out"), "--leave-out")
    output = tmp_path / "cut"
    result = run("convert", tmp_path / "a.safetensors", "-o", output, "--to", "safetensors", "--shard-size", "1kB")
    assert result.exit_code == 0, result.output
    assert len(list(output.glob("model-0000?-of-00002.safetensors"))) == 2
    refused(
        run("convert", tmp_path / "a.safetensors", "-o", output, "--to", "safetensors", "--shard-size", "5XB"), "5XB"
    )
    result = run("info", tmp_path / "a.safetensors")
    assert "float32" in result.output
    assert "\x1b[2J" not in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["quantise", "m.onnx"], "did you mean 'quantize'"), (["quantize", "m.onnx", "--dat", "x"], "mean '--data'?")],
)
def test_the_likeliest_name_is_offered_first(arguments: list[str], says: str) -> None:
    refused(run(*arguments), says)
