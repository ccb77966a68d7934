"""Decoders of every family beside the logits that transformers computed; scripts/check_decoders.py wrote them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from decoder_check.checkpoints import CONFIGS, FIXTURE, TOKENS, lengths_of, save_checkpoint

import onnxquant
from onnxquant import interchange, runtime
from onnxquant.errors import CheckpointError, OutputError, RecipeError, WeightError
from onnxquant.language.convert import convert

Array = np.ndarray[Any, Any]


def logits(folder: Path, tokens: Array, mask: Array, ends: Sequence[int] = (), library: bool = True) -> Array:
    """Logits [batch, length, vocabulary] of a decoder that reads its tokens in calls that end at these places."""
    options = runtime.session_options(threads=1)
    session = runtime.open_session(folder / "model.onnx", options, library=library)
    past = {
        i.name: np.zeros((len(tokens), i.shape[1], 0, i.shape[3]), np.float32)
        for i in session.get_inputs()
        if i.name.startswith("past")
    }
    names, parts, begin = [o.name for o in session.get_outputs()], [], 0
    for end in (*ends, tokens.shape[1]):
        feed = {
            "input_ids": tokens[:, begin:end],
            "attention_mask": mask[:, :end],
            "logits_count": np.array(end - begin),
        }
        outputs = dict(zip(names, session.run(None, feed | past), strict=True))
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        parts.append(outputs["logits"])
        begin = end
    return np.concatenate(parts, 1)


def batch(name: str) -> tuple[Array, Array]:
    """The tokens and the mask that the stored logits are of: rows that end together."""
    rows = lengths_of(name)
    longest = max(rows)
    tokens = np.random.default_rng(1).integers(0, TOKENS, (len(rows), longest))
    return tokens, (np.arange(longest) >= longest - np.array(rows)[:, None]).astype(np.int64)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    report = convert(save_checkpoint(name, tmp_path / "checkpoint"), tmp_path / "decoder")
    assert not report.unused
    tokens, mask = batch(name)
    with np.load(FIXTURE) as stored:
        expected = stored[name]
    assert np.abs(expected).max() > 1
    whole = logits(tmp_path / "decoder", tokens, mask)
    np.testing.assert_allclose(whole[0], expected, atol=1e-4)
    # Token by token, beside rows that begin with padding; each of them is what it is alone.
    begin = 18 if name == "phi3_long" else 11
    cached = logits(tmp_path / "decoder", tokens, mask, range(begin, tokens.shape[1]))
    np.testing.assert_allclose(cached[mask > 0], whole[mask > 0], atol=1e-4)
    for row, length in enumerate(lengths_of(name)[1:3], 1):
        alone = logits(tmp_path / "decoder", tokens[row : row + 1, -length:], mask[row : row + 1, -length:])
        np.testing.assert_allclose(alone[0], whole[row, -length:], atol=1e-4)


def test_padding_may_stand_behind_a_prompt(tmp_path: Path) -> None:
    """As onnxruntime-genai has it: logits are those of the last token that is none, and the next one follows it."""
    convert(save_checkpoint("mistral", tmp_path / "checkpoint"), tmp_path / "decoder")
    tokens = np.random.default_rng(2).integers(0, TOKENS, (2, 12))
    mask = np.array([[1] * 12, [1] * 9 + [0] * 3])
    session = runtime.open_session(tmp_path / "decoder" / "model.onnx", runtime.session_options(threads=1))
    names = [o.name for o in session.get_outputs()]
    past = {
        i.name: np.zeros((2, i.shape[1], 0, i.shape[3]), np.float32) for i in session.get_inputs() if "past" in i.name
    }
    outputs = dict(zip(names, session.run(None, {"input_ids": tokens, "attention_mask": mask} | past), strict=True))
    ones = np.ones((1, 13), np.int64)
    short = np.concatenate([tokens[1:, :9], [[5]]], 1)
    expected = logits(tmp_path / "decoder", short, ones[:, :10])[0]
    np.testing.assert_allclose(outputs["logits"][1, 0], expected[8], atol=1e-5)
    following = {"input_ids": np.array([[5], [5]]), "attention_mask": np.concatenate([mask, [[1], [1]]], 1)}
    past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
    outputs = dict(zip(names, session.run(None, following | past), strict=True))
    np.testing.assert_allclose(outputs["logits"][1, 0], expected[9], atol=1e-5)


def test_a_tied_head_is_stored_once_and_floats_of_16_bits_stay(tmp_path: Path) -> None:
    source = save_checkpoint("smollm", tmp_path / "checkpoint")
    whole = convert(source, tmp_path / "float")
    checkpoint = interchange.open_checkpoint(source)
    halves = {name: tensor.array().astype(np.float16) for name, tensor in checkpoint.tensors.items()}
    interchange.save(source / "model.safetensors", halves, force=True)
    half = convert(source, tmp_path / "half")
    assert [group.format for group in half.groups] == ["f16"] and half.groups[0].sqnr_db is None
    assert half.groups[0].nbytes == whole.groups[0].nbytes / 2
    assert sum(group.weights for group in whole.groups) == 1 + 2 * 4
    tokens, mask = batch("smollm")
    exact = {name: array.astype(np.float32) for name, array in halves.items()}
    interchange.save(source / "model.safetensors", exact, force=True)
    convert(source, tmp_path / "exact")
    np.testing.assert_array_equal(logits(tmp_path / "half", tokens, mask), logits(tmp_path / "exact", tokens, mask))


_GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "mlp.up_proj": "ffn_up",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_GGUF_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_of(checkpoint: Path, output: Path, form: str) -> dict[str, Array]:
    """Write a llama as GGUF, with llama.cpp's names and order of rows; the decoded weights by their own names."""
    config = json.loads((checkpoint / "config.json").read_text())
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    tensors: dict[str, Any] = {}
    decoded: dict[str, Array] = {}
    for key, tensor in interchange.open_checkpoint(checkpoint).tensors.items():
        base, array = key.removesuffix(".weight"), tensor.array()
        layer, _, part = base.removeprefix("model.layers.").partition(".")
        name = _GGUF_WHOLE[base] if base in _GGUF_WHOLE else f"blk.{layer}.{_GGUF_NAMES[part]}"
        shape = array.shape
        count = heads.get(part[10:11]) if part.startswith("self_attn") else None
        rows = array if count is None else array.reshape(count, 2, -1, shape[1]).swapaxes(1, 2).reshape(shape)
        if array.ndim == 2:
            tensors[f"{name}.weight"] = encoded = onnxquant.encode(rows, form)
            values = onnxquant.decode(encoded)
            decoded[key] = (
                values if count is None else values.reshape(count, -1, 2, shape[1]).swapaxes(1, 2).reshape(shape)
            )
        else:
            tensors[f"{name}.weight"] = decoded[key] = array
    metadata = {
        "general.architecture": "llama", "llama.block_count": config["num_hidden_layers"], "llama.context_length": 64,
        "llama.embedding_length": config["hidden_size"], "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads["q"], "llama.attention.head_count_kv": heads["k"],
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": config["rope_theta"],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip
    interchange.save(output, tensors, metadata=metadata)
    return decoded


def test_codes_of_gguf_move_as_they_are(tmp_path: Path) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    decoded = gguf_of(source, tmp_path / "model.gguf", "q4_0")
    report = convert(tmp_path / "model.gguf", tmp_path / "codes", compute="float")
    assert [(group.format, group.sqnr_db) for group in report.groups] == [("q4_0", None)]
    assert report.groups[0].nbytes == report.groups[0].elements * 18 // 32
    interchange.save(source / "model.safetensors", decoded, force=True)
    convert(source, tmp_path / "float")
    tokens, mask = batch("llama")
    values = [logits(tmp_path / folder, tokens, mask) for folder in ("codes", "float")]
    np.testing.assert_allclose(values[0][mask > 0], values[1][mask > 0], atol=1e-5)
    stock = logits(tmp_path / "codes", tokens, mask, library=False)
    np.testing.assert_allclose(stock[mask > 0], values[1][mask > 0], atol=1e-5)
    config = json.loads((tmp_path / "codes" / "genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == 2 and config["model"]["decoder"]["num_key_value_heads"] == 2


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_with_nan_are_refused(dtype: type, tmp_path: Path) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    arrays = {name: tensor.array().astype(dtype) for name, tensor in interchange.open_checkpoint(source).tensors.items()}
    arrays["model.layers.1.mlp.down_proj.weight"][63, 95] = np.inf
    interchange.save(source / "model.safetensors", arrays, force=True)
    with pytest.raises(WeightError, match=r"layers\.1\.mlp\.down_proj\.weight holds NaN or infinity"):
        convert(source, tmp_path / "decoder")
    assert not (tmp_path / "decoder").exists()


def test_floats_are_rounded_where_a_format_is_asked_for(tmp_path: Path) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    report = convert(source, tmp_path / "decoder", format="q8_0", exclude="embed")
    groups = {group.format: group for group in report.groups}
    assert groups["f32"].weights == 1 and groups["q8_0"].weights == 1 + 2 * 4
    assert groups["q8_0"].sqnr_db is not None and 40 < groups["q8_0"].sqnr_db < 60
    tokens, mask = batch("llama")
    with np.load(FIXTURE) as stored:
        expected = stored["llama"]
    error = np.abs(logits(tmp_path / "decoder", tokens, mask)[0] - expected).max()
    assert 1e-4 < error < 0.1


def _changed(checkpoint: Path, **entries: object) -> None:
    place = checkpoint / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | entries))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "mamba .*Mamba.* not known; expected one of ll"),
        ({"model_type": None}, "model_type missing"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "scaling of positions 'yarn' is not known"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor: found nothing, expected a number"),
        ({"hidden_size": "64"}, "hidden_size: found 64, expected a number of things"),
        ({"num_hidden_layers": 3}, "has no tensor 'model.layers.2.input_layernorm.weight'"),
        ({"vocab_size": 100}, r"embed_tokens.weight: found shape \[96, 64\], expected \[100, 64\]"),
        ({"hidden_act": "relu"}, "hidden_act: found relu, expected one of silu"),
        ({"head_dim": 8, "num_attention_heads": 8}, "rotations of 8 channels of a head; expected a multiple of 16"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    _changed(source, **entries)
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "decoder")
    assert not (tmp_path / "decoder").exists()


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    with pytest.raises(RecipeError, match="context 65: expected 1 to 64"):
        convert(source, tmp_path / "decoder", context=65)
    gguf_of(source, tmp_path / "model.gguf", "q4_0")
    with pytest.raises(RecipeError, match="every weight has codes already"):
        convert(tmp_path / "model.gguf", tmp_path / "decoder", format="int8")
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "mine.bin").touch()
    with pytest.raises(OutputError, match="holds other files"):
        convert(source, tmp_path / "decoder", force=True)
