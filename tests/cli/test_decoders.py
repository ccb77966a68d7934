"""``onnxquant validate`` and ``benchmark`` on decoder folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import refused, run
from decoders import Weights, plain_cache, save_genai, shared_cache

from onnxquant.language.running.proof import validate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    weights = Weights.draw()
    save_genai(root / "original", shared_cache(weights))
    save_genai(root / "other", shared_cache(weights.noisy(0.1)))
    (root / "corpus.txt").write_text("The quick brown fox jumps over the lazy dog. " * 3)
    return root


def _validate(folder: Path, *options: object):
    return run("validate", folder / "original", folder / "other", "--text", folder / "corpus.txt", *options)


def test_a_proof_is_a_dozen_lines(folder: Path) -> None:
    result = _validate(folder)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["verdict", "measured:", "no"]
    assert _validate(folder, "--max-kl", 10).stdout.splitlines()[0].split() == ["verdict", "PASSED"]
    assert 8 <= len(lines) <= 12
    assert all(len(line) < 126 for line in lines if str(folder) not in line)
    assert "positions" in _validate(folder, "-v").stdout


def test_logits_that_are_no_numbers_pass_nothing(folder: Path, tmp_path: Path) -> None:
    bad = save_genai(tmp_path / "bad", shared_cache(Weights.draw(0).noisy(float("nan"))))
    for pair, words in (((folder / "original", bad), "verify"), ((bad, folder / "original"), "of the original are no")):
        result = run("validate", *pair, "--text", folder / "corpus.txt")
        assert result.exit_code == 1 and "FAILED" in result.stdout and words in result.stdout


def test_unrelated_models_are_told(folder: Path, tmp_path: Path) -> None:
    stranger = save_genai(tmp_path / "stranger", shared_cache(Weights.draw(7)))
    words = "made from one checkpoint"
    assert words in run("validate", folder / "original", stranger, "--text", folder / "corpus.txt").stdout
    assert words not in _validate(folder).stdout


def test_a_bound_that_is_missed_is_exit_code_1(folder: Path, tmp_path: Path) -> None:
    reports = [tmp_path / "proof.html", tmp_path / "proof.json", tmp_path / "proof.md"]
    options = [option for report in reports for option in ("--report", report)]
    result = _validate(folder, "--max-kl", 1e-9, "--json", *options)
    assert result.exit_code == 1
    printed = json.loads(result.stdout)
    assert printed["passed"] is False
    assert "mean KL divergence" in printed["missed"][0]
    assert json.loads(reports[1].read_text()) == printed
    page = reports[0].read_text()
    assert "FAILED" in page
    assert "<h2>By the number of tokens" in page
    markdown = reports[2].read_text().splitlines()
    assert markdown[0].startswith("# ") and "- **verdict** FAILED" in markdown
    assert "| ---: | ---:" in "\n".join(markdown).replace("|---:|---:", "| ---: | ---:")
    assert sum(line.startswith("| ") for line in markdown) == 1 + len(printed["positions"])
    refused(_validate(folder, "--report", reports[0]), "exists already")


def test_options_of_a_proof_reach_it(folder: Path) -> None:
    options = ("--window", 20, "--tokens", 45, "--all-positions", "--threads", 1, "--max-perplexity-ratio", 9)
    printed = json.loads(_validate(folder, *options, "--json").stdout)
    places = (folder / "original", folder / "other", folder / "corpus.txt")
    figures = validate(*places, window=20, tokens=45, all_positions=True, threads=1).divergence
    assert (printed["windows"], printed["tokens"], printed["first"]) == (2, 38, 1)
    assert printed["kl"] == list(figures.kl)
    assert printed["perplexity"] == list(figures.perplexity)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--min-sqnr", 30), "--min-sqnr has no effect with --text"),
        (("--seed", 3), "--seed has no effect with --text"),
        (("--data", "x.npz"), "--data has no effect with --text"),
        (("--detailed",), "--detailed has no effect with --text"),
        (("--report", "x.pdf"), "expected a name that ends in .html or .md or .json"),
    ],
)
def test_options_of_other_models_are_refused_on_texts(folder: Path, options: tuple[object, ...], words: str) -> None:
    refused(_validate(folder, *options), words)


@pytest.mark.parametrize("options", [("--window", 20), ("--max-kl", 1), ("--all-positions",)])
def test_options_of_texts_are_refused_without_one(folder: Path, options: tuple[object, ...]) -> None:
    model = folder / "original" / "model.onnx"
    refused(run("validate", model, model, *options), f"{options[0]} has no effect without --text")


def test_folders_need_a_text(folder: Path) -> None:
    refused(run("validate", folder / "original", folder / "other"), "is a folder", "give --text")


@pytest.mark.footprint
@pytest.mark.latency
def test_speeds_of_a_folder(folder: Path) -> None:
    arguments = (folder / "original", "--prompt", 8, "--generate", 4, "--rounds", 3)
    (row,) = json.loads(run("benchmark", *arguments, "--json").stdout)
    assert row["folder"] == str(folder / "original")
    assert row["first_token_seconds"] * row["prompt_speed"] == pytest.approx(8)
    assert min(row["speed"], row["load_seconds"], row["resident_bytes"]) > 0
    assert (row["threads"], row["clock"], row["prompt_tokens"], row["tokens"]) == (1, "processor", 8, 4)
    assert (row["rounds"], row["ratio"], row["prompt_interval"]) == (3, 1, None)


def test_options_of_other_models_are_refused_on_folders(folder: Path) -> None:
    model = folder / "original" / "model.onnx"
    refused(run("benchmark", folder / "original", "--seed", 3), "--seed has no effect on decoder folders")
    refused(run("benchmark", model, "--prompt", 3), "--prompt has no effect on files")
    refused(run("benchmark", folder / "original", "--generate", 1), "generate is 1, expected at least 2")
    refused(run("benchmark", folder / "original", model), "is a file; expected its folder")


def test_folders_are_quantized_whole(folder: Path, tmp_path: Path) -> None:
    source, output = folder / "original", tmp_path / "out"
    output.mkdir()
    arguments = ("quantize", source, "-o", output, "--bits", 8, "--no-proof")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert f"validate {source} {output} --text" in " ".join(result.stdout.split())
    assert {file.name for file in source.iterdir()} <= {file.name for file in output.iterdir()}
    assert run("generate", output, "Hi", "--max-tokens", 3).exit_code == 0
    refused(run(*arguments), "exists already")
    assert run(*arguments, "--force").exit_code == 0
    (output / "mine.doc").write_text("mine")
    refused(run(*arguments, "--force"), "holds other files, such as 'mine.doc'")
    refused(run("quantize", source), "name the folder to write with -o")
    refused(run("quantize", source, "-o", source, "--force"), "is the source")
    assert run("quantize", source, "--dry-run").exit_code == 0


def test_nothing_is_left_of_a_folder_that_cannot_be_quantized(folder: Path, tmp_path: Path) -> None:
    refused(run("quantize", folder / "original", "-o", tmp_path / "out", "--exclude", "."), "")
    assert not (tmp_path / "out").exists()


def test_commands_read_the_graph_of_a_folder(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "coded"
    assert run("quantize", folder / "original", "-o", source, "--no-proof").exit_code == 0
    for command in ("info", "verify", "plan"):
        result = run(command, source)
        assert result.exit_code == 0, result.stderr
        assert str(source / "model.onnx") in result.stdout.replace("\n", "")
    assert run("diff", source, source).exit_code == 0
    refused(run("calibrate", source, "-o", tmp_path / "s.npz", "--data", "x.npz"), "is a folder", "model.onnx")


def test_quantized_folders_become_float_again(folder: Path, tmp_path: Path) -> None:
    source, coded, back = folder / "original", tmp_path / "coded", tmp_path / "back"
    assert run("quantize", source, "-o", coded, "--format", "bf16", "--no-proof").exit_code == 0
    result = run("dequantize", coded, "-o", back)
    assert result.exit_code == 0, result.stderr
    assert run("generate", back, "Hi", "--max-tokens", 3).stdout == run("generate", coded, "Hi", "--max-tokens", 3).stdout
    proof = json.loads(run("validate", coded, back, "--text", folder / "corpus.txt", "--json").stdout)
    assert proof["bytes"] > proof["original_bytes"]
    assert "x larger than" in run("validate", coded, back, "--text", folder / "corpus.txt").stdout


@pytest.mark.footprint
@pytest.mark.latency
def test_few_rounds_and_other_tokens_are_told(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder / "original", tmp_path / "other")
    tokens = json.loads((other / "tokenizer.json").read_text())
    tokens["model"]["vocab"]["!"], tokens["model"]["vocab"]['"'] = 1, 0
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    proto = plain_cache(Weights({**Weights.draw().arrays, "head": np.ones((64, 300), np.float32)}))
    proto.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 300
    wide = save_genai(tmp_path / "wide", proto)
    numbers = ("--prompt", 4, "--generate", 3, "--rounds", 2)
    shown = " ".join(run("benchmark", folder / "original", other, wide, *numbers).stdout.split())
    assert "1.00x ?" in shown and "fewer than 6 rounds" in shown
    assert "other has another tokenizer" in shown and "wide has 300 tokens in its vocabulary" in shown
