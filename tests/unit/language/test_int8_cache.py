"""Decoders that keep keys and values as int8, beside the same decoders in float32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import refused, run
from decoder_check.checkpoints import TOKENS, save_checkpoint
from decoders import Weights, save_genai, shared_cache
from onnx import helper, numpy_helper

from onnxquant import language
from onnxquant.errors import FeedError, ModelError, OutputError, RecipeError
from onnxquant.language import Decoder
from onnxquant.language.running.int8_cache import quantize_cache

_TEXT = np.random.default_rng(3).integers(0, TOKENS, 40).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    language.convert(save_checkpoint("qwen3", root / "checkpoint"), root / "decoder")
    return root / "decoder"


def _logits(folder: Path, length: int = 30) -> np.ndarray:
    context = Decoder(folder, threads=1).start(capacity=len(_TEXT))
    return np.stack([context.read([part])[0] for part in (_TEXT[:length], *([token] for token in _TEXT[length:]))])


def test_logits_are_those_of_float_but_for_the_rounding(folder: Path, tmp_path: Path) -> None:
    report = quantize_cache(folder, tmp_path / "int8")
    assert report.source_token_bytes == 4 * report.token_bytes
    expected, found = _logits(folder), _logits(tmp_path / "int8")
    error = np.sqrt(np.square(found - expected).mean() / np.square(expected).mean())
    assert 0 < error < 0.02
    parts = dict(Decoder(tmp_path / "int8").start(capacity=2).cache())
    assert {values.dtype for values in parts.values()} == {np.dtype(np.int8)}
    assert sum(values[0, :, 0].nbytes for values in parts.values()) == report.token_bytes


def test_codes_are_keys_over_ranges_of_pairs(folder: Path, tmp_path: Path) -> None:
    """A scale is a range over 127, of the channel's pair where a rotation turns keys."""
    quantize_cache(folder, tmp_path / "int8")
    contexts = [Decoder(place, threads=1).start(capacity=20) for place in (folder, tmp_path / "int8")]
    for context in contexts:
        context.read([_TEXT[:20]])
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    scales = {i.name: numpy_helper.to_array(i) for i in graph.initializer if i.name.endswith(".scales")}
    for (part, exact), (_, codes) in zip(*(context.cache() for context in contexts), strict=True):
        scale = scales[f"{part.past}.scales"]
        width = scale.shape[3]
        if part.past.endswith(".key"):
            np.testing.assert_array_equal(scale[..., : width // 2], scale[..., width // 2 :])
        assert np.abs(codes).max() > 60
        rounded = np.clip(np.rint(exact / scale), -128, 127)
        assert (np.abs(rounded - codes) <= 1).mean() > 0.97  # later layers see rounded keys of earlier ones


def test_ranges_of_a_given_text(tmp_path: Path) -> None:
    source = save_genai(tmp_path / "decoder", shared_cache(Weights.draw()))
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 30)
    report = quantize_cache(source, tmp_path / "int8", text=tmp_path / "text.txt")
    assert report.tokens >= 1024
    proof = language.validate(source, tmp_path / "int8", tmp_path / "text.txt")
    assert 0 < proof.divergence.kl.value < 1e-3
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(FeedError, match="is empty"):
        quantize_cache(source, tmp_path / "other", text=tmp_path / "empty.txt")
    assert not (tmp_path / "other").exists()


def test_other_attention_and_other_caches_are_refused(folder: Path, tmp_path: Path) -> None:
    quantize_cache(folder, tmp_path / "int8")
    with pytest.raises(ModelError, match="is int8, expected float"):
        quantize_cache(tmp_path / "int8", tmp_path / "again")
    with pytest.raises(OutputError, match="exists already"):
        quantize_cache(folder, tmp_path / "int8")
    with pytest.raises(OutputError, match="is the source itself"):
        quantize_cache(folder, folder, force=True)
    source = save_genai(tmp_path / "plain", shared_cache(Weights.draw()))
    model = onnx.load(source / "model.onnx")
    attention = next(node for node in model.graph.node if node.op_type == "GroupQueryAttention")
    identities = [helper.make_node("Identity", [attention.input[place]], [f"copied.{place}"]) for place in (3, 4)]
    for place in (3, 4):
        attention.input[place] = f"copied.{place}"
    model.graph.node.extend(identities)
    nodes = sorted(model.graph.node, key=lambda node: node.op_type != "Identity")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, source / "model.onnx")
    with pytest.raises(ModelError, match="is not read by GroupQueryAttention"):
        quantize_cache(source, tmp_path / "other")


def test_convert_writes_an_int8_cache(tmp_path: Path) -> None:
    source = save_checkpoint("smollm", tmp_path / "checkpoint")
    result = run("convert", source, "-o", tmp_path / "decoder", "--cache", "int8", "--json")
    assert result.exit_code == 0, result.stderr
    assert "that the model wrote" in json.loads(result.stdout)["notes"][-1]
    assert np.isfinite(_logits(tmp_path / "decoder")).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "decoder"]
    refused(run("convert", source, "-o", tmp_path / "decoder", "--cache", "int8"), "exists already")
    refused(run("convert", source, "-o", tmp_path / "other", "--text", tmp_path / "t"), "has no effect without --cache")
    refused(run("convert", source, "-o", tmp_path / "a.axqt", "--cache", "int8"), "--cache has no effect")


def test_convert_in_python_writes_an_int8_cache(folder: Path, tmp_path: Path) -> None:
    """As the two steps one after the other; the folder is that of the fixture."""
    quantize_cache(folder, tmp_path / "steps")
    report = language.convert(folder.parent / "checkpoint", tmp_path / "decoder", cache="int8")
    assert report.output == str(tmp_path / "decoder") and "that the model wrote" in report.notes[-1]
    for name in ("model.onnx", "genai_config.json"):
        assert (tmp_path / "decoder" / name).read_bytes() == (tmp_path / "steps" / name).read_bytes()
    with pytest.raises(RecipeError, match="cache is 'int4', expected float32 or int8"):
        language.convert(folder.parent / "checkpoint", tmp_path / "other", cache="int4")
    with pytest.raises(RecipeError, match="has no effect without --cache int8"):
        language.convert(folder.parent / "checkpoint", tmp_path / "other", text=tmp_path / "text.txt")
