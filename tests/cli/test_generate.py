"""``onnxquant generate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import refused, run
from decoders import Weights, save_genai, shared_cache

from onnxquant import language
from onnxquant.language.running.generate import Generation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_genai(tmp_path_factory.mktemp("cli") / "decoder", shared_cache(Weights.draw()))


def test_the_text_is_printed_and_the_speed_beside_it(folder: Path) -> None:
    result = run("generate", folder, "Hi", "--max-tokens", 6)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "".join(language.generate(folder, "Hi", max_tokens=6)) + "\n"
    assert result.stderr.startswith("prompt: 3 tokens, ")
    assert "text: 6 tokens, " in result.stderr
    assert result.stderr.strip().endswith("tokens/s")


def test_json_holds_text_tokens_and_speeds(folder: Path) -> None:
    options = ("--max-tokens", 6, "--temperature", 1.5, "--top-k", 9, "--top-p", 0.9, "--seed", 4)
    printed = json.loads(run("generate", folder, "Hi", *options, "--json", "--threads", 1, "--no-library").stdout)
    generation = language.generate(folder, "Hi", max_tokens=6, temperature=1.5, top_k=9, top_p=0.9, seed=4, threads=1)
    assert printed["text"] == "".join(generation)
    assert printed["tokens"] == generation.summary.tokens
    assert (printed["prompt_tokens"], printed["stopped_by"]) == (3, "max_tokens")
    assert printed["tokens_per_second"] > 0


def test_ctrl_c_ends_quietly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Generation._step

    def interrupted(self: Generation) -> str:
        if len(self._tokens) == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Generation, "_step", interrupted)
    result = run("generate", folder, "Hi")
    assert result.exit_code == 130
    assert "interrupted" not in result.stderr
    assert "text: 3 tokens" in result.stderr


def test_what_cannot_be_is_one_line(folder: Path, tmp_path: Path) -> None:
    refused(run("generate", tmp_path, "Hi"), "neither genai_config.json nor model.onnx")
    refused(run("generate", folder, "Hi", "--top-p", 0.5), "top_p: has no effect without --temperature")
