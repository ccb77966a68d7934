"""``onnxquant generate``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from commands import refused, run
from decoders import CONTEXT, END, Weights, save_genai, shared_cache

from onnxquant import language
from onnxquant.language.running.generate import Generation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_genai(tmp_path_factory.mktemp("cli") / "decoder", shared_cache(Weights.draw()))


def test_the_text_is_printed_and_the_speed_beside_it(folder: Path) -> None:
    result = run("generate", folder, "Hi", "--max-tokens", 6)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "".join(language.generate(folder, "Hi", max_tokens=6)) + "\n"
    assert result.stderr.splitlines()[-1].startswith("prompt: 3 tokens, ")
    assert "text: 6 tokens, " in result.stderr
    assert result.stderr.strip().endswith("tokens/s (by the clock; benchmark counts processor time on one thread)")


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


def test_a_text_that_the_model_did_not_end_says_what_did(folder: Path, tmp_path: Path) -> None:
    endless = save_genai(tmp_path / "endless", shared_cache(Weights.draw()), end=END + 99)
    full = run("generate", endless, "Hi")
    assert f"the context of {CONTEXT} tokens is full" in full.stderr
    assert "--max-tokens" in run("generate", folder, "Hi", "--max-tokens", 3).stderr
    summary = json.loads(run("generate", endless, "Hi", "--json").stdout)
    assert (summary["stopped_by"], summary["prompt_tokens"] + len(summary["tokens"])) == ("context", CONTEXT)


def test_a_graph_names_its_folder(folder: Path) -> None:
    refused(run("generate", folder / "model.onnx", "Hi"), "is a file; expected its folder", str(folder))


def test_what_onnxruntime_refuses_names_file_and_cache(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "genai_config.json").read_text())
    proto = onnx.load(other / "model.onnx")
    for value in (*proto.graph.input, *proto.graph.output):
        if ".0." in value.name:
            value.type.tensor_type.shape.dim[1].dim_param = "heads"
    onnx.save(proto, other / "model.onnx")
    config["model"]["decoder"]["num_key_value_heads"] = 3
    (other / "genai_config.json").write_text(json.dumps(config))
    refused(run("generate", other, "Hi"), str(other / "model.onnx"), "a cache of 3 heads of 32 channels")


def test_tokens_of_32_bits_and_no_others(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    proto = onnx.load(other / "model.onnx")
    ids = proto.graph.input[0].type.tensor_type
    for kind in (onnx.TensorProto.INT32, onnx.TensorProto.FLOAT):
        ids.elem_type = kind
        if kind == onnx.TensorProto.FLOAT:
            proto.graph.node.insert(0, onnx.helper.make_node("Cast", ["input_ids"], ["ids"], to=onnx.TensorProto.INT64))
            for node in proto.graph.node[1:]:
                node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
        onnx.save(proto, other / "model.onnx")
        result = run("generate", other, "Hi", "--max-tokens", 4)
        if kind == onnx.TensorProto.INT32:
            assert result.stdout == run("generate", folder, "Hi", "--max-tokens", 4).stdout
        else:
            refused(result, "input_ids is tensor(float), expected tensor(int64) or tensor(int32)")
