"""Decoders of every family beside the logits that transformers computed; scripts/check_decoders.py wrote them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import tokenizers
from click.testing import CliRunner
from decoder_check.checkpoints import CONFIGS, FIXTURE, TOKENS, lengths_of, save_checkpoint
from decoder_check.logits import batch
from decoder_check.logits import decoder_logits as logits

import onnxquant
from onnxquant import interchange, runtime
from onnxquant.budget.candidates import DEFAULT
from onnxquant.calibration.feeds import ModelFacts, open_feeds
from onnxquant.calibration.inputs import sampled_inputs_of
from onnxquant.cli import main
from onnxquant.errors import CheckpointError, OutputError, RecipeError, WeightError
from onnxquant.graph.io import load
from onnxquant.language.convert import convert
from onnxquant.language.fields import Fields
from onnxquant.language.hf_config import architecture_of_config
from onnxquant.language.quantize import SEARCHED
from onnxquant.language.quantize import quantize as quantize_folder
from onnxquant.report.report import Report

Array = np.ndarray[Any, Any]


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


def test_samples_of_tokens_alone_show_logits_of_more_tokens_than_one(tmp_path: Path) -> None:
    """The head and the judge of a search see little of one token."""
    convert(save_checkpoint("mistral", tmp_path / "checkpoint"), tmp_path / "decoder")
    model, samples = load(tmp_path / "decoder" / "model.onnx"), {"input_ids": np.zeros((2, 12), np.int64)}
    feeds = list(open_feeds(samples, sampled_inputs_of(model), facts=ModelFacts(tmp_path / "decoder")))
    with runtime.session_of(model) as session:
        assert [runtime.run(session, feed)["logits"].shape[:2] for feed in feeds] == [(1, 12)] * 2


def test_right_padding_gives_the_logits_of_the_last_real_token(tmp_path: Path) -> None:
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


def test_tied_lm_head_is_stored_once_and_16_bit_floats_are_kept(tmp_path: Path) -> None:
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
    "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_GGUF_GEMMA = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
_GGUF_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_of(checkpoint: Path, output: Path, form: str | None, **entries: Any) -> dict[str, Array]:
    """Write a checkpoint as GGUF, with llama.cpp's names, order of rows and norms; the decoded weights by their own names."""
    config = json.loads((checkpoint / "config.json").read_text())
    family = config["model_type"].removesuffix("_text")
    is_gemma, is_llama = family.startswith("gemma"), family == "llama"
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    names = _GGUF_NAMES | (_GGUF_GEMMA if is_gemma else {})
    tensors: dict[str, Any] = {}
    decoded: dict[str, Array] = {}
    for key, tensor in interchange.open_checkpoint(checkpoint).tensors.items():
        (base, _, end), array = key.rpartition("."), tensor.array()
        layer, _, part = base.removeprefix("model.layers.").partition(".")
        name = f"{_GGUF_WHOLE[base]}.{end}" if base in _GGUF_WHOLE else f"blk.{layer}.{names[part]}.{end}"
        shape = array.shape
        count = heads.get(part[10:11]) if is_llama and part.startswith("self_attn") else None
        rows = array if count is None else array.reshape(count, 2, -1, shape[1]).swapaxes(1, 2).reshape(shape)
        if array.ndim == 2 and form is not None:
            tensors[name] = encoded = onnxquant.encode(rows, form)
            values = onnxquant.decode(encoded)
            decoded[key] = (
                values if count is None else values.reshape(count, -1, 2, shape[1]).swapaxes(1, 2).reshape(shape)
            )
        else:
            decoded[key] = array
            tensors[name] = rows + np.float32(is_gemma) if array.ndim == 1 else rows
    head = config.get("head_dim", config["hidden_size"] // heads["q"])
    own = {
        "block_count": config["num_hidden_layers"], "context_length": 64, "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"], "attention.head_count": heads["q"],
        "attention.head_count_kv": heads["k"], "attention.layer_norm_rms_epsilon": 1e-5, "attention.key_length": head,
        "attention.value_length": head, "rope.freq_base": config["rope_theta"], "vocab_size": TOKENS,
        **({"attention.sliding_window": config["sliding_window"]} if config.get("sliding_window") else {}), **entries,
    }  # fmt: skip
    metadata = {
        "general.architecture": family, **{f"{family}.{name}": value for name, value in own.items() if value is not None},
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip
    for name in ("short", "long") if "rope.scaling.original_context_length" in entries else ():
        tensors[f"rope_factors_{name}.weight"] = np.array(config["rope_scaling"][f"{name}_factor"], np.float32)
    interchange.save(output, tensors, metadata=metadata)
    return decoded


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("llama_linear", {"rope.scaling.factor": 4.0}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("gemma2", {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
        ("gemma3", {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}),
        ("phi3", {}),
        ("phi3_long", {"rope.dimension_count": 16, "rope.scaling.original_context_length": 16}),
    ],
)  # fmt: skip
def test_gguf_of_every_family_is_the_same_network(name: str, entries: dict[str, Any], tmp_path: Path) -> None:
    source = save_checkpoint(name, tmp_path / "checkpoint")
    if name.startswith("gemma"):  # llama.cpp has no other scale of queries for small ones
        _changed(source, query_pre_attn_scalar=16)
    gguf_of(source, tmp_path / "model.gguf", None, **entries)
    report = convert(tmp_path / "model.gguf", tmp_path / "gguf")
    assert report.family == json.loads((source / "config.json").read_text())["model_type"].removesuffix("_text")
    assert not report.unused
    convert(source, tmp_path / "folder")
    tokens, mask = batch(name)
    own, expected = (logits(tmp_path / folder, tokens[:1], mask[:1]) for folder in ("gguf", "folder"))
    np.testing.assert_allclose(own, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"attention.head_count": 0}, r"llama\.attention\.head_count is 0; expected a whole number from 1"),
        ({"attention.key_length": 10**9}, r"llama\.attention\.key_length is 1000000000; expected a whole number"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan; expected a number"),
        ({"attention.sliding_window": -3}, r"llama\.attention\.sliding_window is -3; expected a whole number"),
        ({"rope.scaling.type": "yarn"}, r"llama\.rope\.scaling\.type is 'yarn'; expected none, linear"),
        ({"vocab_size": None}, r"llama\.vocab_size is missing; expected a whole number"),
    ],
)  # fmt: skip
def test_wrong_gguf_metadata_is_refused(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    gguf_of(save_checkpoint("llama", tmp_path / "checkpoint"), tmp_path / "model.gguf", None, **entries)
    if entries.get("vocab_size", 0) is None:  # the table of embeddings does not say it either
        checkpoint = interchange.open_checkpoint(tmp_path / "model.gguf")
        tensors = {name: tensor.array().copy() for name, tensor in checkpoint.tensors.items()}
        tensors["token_embd.weight"] = np.array(1, np.float32)
        interchange.save(tmp_path / "model.gguf", tensors, metadata=checkpoint.metadata, force=True)
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "model.gguf", tmp_path / "decoder")
    assert not (tmp_path / "decoder").exists()


def test_gguf_codes_are_copied_unchanged(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("target", ["auto", "custom", "ort", "onnx"])
@pytest.mark.parametrize("form", ["q4_0", "q8_0"])
def test_every_target_and_arithmetic_holds_the_codes_of_a_tied_table(form: str, target: str, tmp_path: Path) -> None:
    source = save_checkpoint("smollm", tmp_path / "checkpoint")
    decoded = gguf_of(source, tmp_path / "model.gguf", form)
    interchange.save(source / "model.safetensors", decoded, force=True)
    convert(source, tmp_path / "expected")
    tokens, mask = batch("smollm")
    expected = logits(tmp_path / "expected", tokens, mask)[mask > 0]
    # Products on codes round their inputs to 8 bits.
    for compute, bound in (("float", 1e-5), ("auto", 0.2)):
        report = convert(tmp_path / "model.gguf", tmp_path / compute, target=target, compute=compute)
        assert [group.format for group in report.groups] == [form]
        own = logits(tmp_path / compute, tokens, mask)[mask > 0]
        np.testing.assert_allclose(own, expected, atol=bound, err_msg=compute)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bit_floats_get_the_codes_of_their_numbers(dtype: type, tmp_path: Path) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    halves = {name: t.array().astype(dtype) for name, t in interchange.open_checkpoint(source).tensors.items()}
    files: dict[str, list[bytes]] = {"int4": [], "q4_0": []}
    for values in (halves, {name: array.astype(np.float32) for name, array in halves.items()}):
        interchange.save(source / "model.safetensors", values, force=True)
        for form, stored in files.items():
            output = tmp_path / f"{form}-{len(stored)}"
            convert(source, output, format=form)
            stored.append((output / "model.onnx.data").read_bytes())
    for form, (of_halves, of_floats) in files.items():
        assert of_halves == of_floats, form


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bit_floats_with_nan_are_refused(dtype: type, tmp_path: Path) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    arrays = {
        name: tensor.array().astype(dtype) for name, tensor in interchange.open_checkpoint(source).tensors.items()
    }
    arrays["model.layers.1.mlp.down_proj.weight"][63, 95] = np.inf
    interchange.save(source / "model.safetensors", arrays, force=True)
    with pytest.raises(WeightError, match=r"layers\.1\.mlp\.down_proj\.weight holds NaN or infinity"):
        convert(source, tmp_path / "decoder")
    assert not (tmp_path / "decoder").exists()


def test_format_option_quantizes_float_weights(tmp_path: Path) -> None:
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


_LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 8}


def _changed(checkpoint: Path, **entries: object) -> None:
    place = checkpoint / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | entries))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "'mamba' .*Mamba.* not known; expected one of ll"),
        ({"model_type": None}, "model_type missing"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type is 'yarn'; expected default"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor is missing; expected a number"),
        ({"hidden_size": "64"}, "hidden_size is '64'; expected a whole number"),
        ({"num_hidden_layers": 3}, "has no tensor 'model.layers.2.input_layernorm.weight'"),
        ({"vocab_size": 100}, r"embed_tokens.weight: found shape \[96, 64\], expected \[100, 64\]"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; expected one of silu"),
        ({"num_attention_heads": 6, "num_key_value_heads": 4, "head_dim": 16}, "6 heads share 4 keys; expected a divisor"),
        ({"num_hidden_layers": 2**30}, "num_hidden_layers is 1073741824; expected a whole number from 1 to 4096"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000.*; expected a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan; expected a number"),
        ({"rms_norm_eps": 1e-320}, "rms_norm_eps is 1e-320; expected a number above 0 that float32 holds"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; expected a whole number from 1"),
        ({"hidden_size": -64}, "hidden_size is -64; expected a whole number from 1"),
        ({"hidden_size": 10**9}, "head_dim is 250000000; expected a whole number from 1 to 16384"),
        ({"partial_rotary_factor": 1e38}, "partial_rotary_factor is 1e.38; expected a share of 16 channels"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 1e-30}}, "has the frequency 1e.30; expected a number above 0"),
        ({"rope_scaling": _LONG | {"attention_factor": 1e30}}, "has the magnitude 1e.30; expected a number above 0"),
        ({"model_type": "a\nb" * 100}, r"model_type 'a\\nba.{80,120} is not known; expected one of llama"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; expected an object"),
        ({"head_dim": 8, "num_attention_heads": 8}, "rotations of 8 channels of a head; expected a multiple of 16"),
    ],
)  # fmt: skip
def test_wrong_config_json_entries_are_refused(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    _changed(source, **entries)
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "decoder")
    assert not (tmp_path / "decoder").exists()


def test_missing_lm_head_is_refused(tmp_path: Path) -> None:
    source = save_checkpoint("smollm", tmp_path / "checkpoint")
    _changed(source, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"has no tensor 'lm_head\.weight'"):
        convert(source, tmp_path / "decoder")


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.layers.0.self_attn.k_proj.bias", "model.layers.1.mlp.up_proj.weight"]
)
def test_weights_with_nan_are_refused(name: str, tmp_path: Path) -> None:
    source = save_checkpoint("llama_biases", tmp_path / "checkpoint")
    arrays = {key: tensor.array().copy() for key, tensor in interchange.open_checkpoint(source).tensors.items()}
    arrays[name][3] = np.nan
    interchange.save(source / "model.safetensors", arrays, force=True)
    with pytest.raises(WeightError, match=f"{re.escape(name)} holds NaN"):
        convert(source, tmp_path / "decoder")


def test_missing_config_json_entries_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    """A window of 4096 for mistral, caps of 50 and 30 for gemma2; null is an entry."""
    config = {"model_type": "mistral", **_SIZES}
    assert architecture_of_config(Fields("config.json", config)).layers[0].sliding_window == 4096
    assert (
        architecture_of_config(Fields("config.json", config | {"sliding_window": None})).layers[0].sliding_window
        is None
    )
    gemma = architecture_of_config(Fields("config.json", {"model_type": "gemma2", **_SIZES}))
    assert (gemma.softcap, gemma.logit_softcap, gemma.is_tied, gemma.head_dim) == (50, 30, True, 256)
    of_text: dict[str, Any] = {"num_hidden_layers": 3}
    pictures = architecture_of_config(Fields("config.json", {"model_type": "gemma3", "text_config": of_text}))
    assert (pictures.heads, pictures.kv_heads, pictures.softcap, pictures.vocabulary) == (8, 4, 0, 262208)


_SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 96,
}  # fmt: skip


@pytest.mark.parametrize(("form", "parameters"), [("nf4", {"block_size": 128}), ("nf4", {"double_quant": True})])
def test_bitsandbytes_blocks_that_cross_rows_are_converted(
    form: str, parameters: dict[str, Any], tmp_path: Path
) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    interchange.quantize(source, tmp_path / "coded", form, to="safetensors", exclude="embed|lm_head", **parameters)
    convert(tmp_path / "coded", tmp_path / "codes", compute="float")
    tensors = interchange.open_checkpoint(tmp_path / "coded").tensors
    interchange.save(
        source / "model.safetensors", {name: t.array().astype(np.float32) for name, t in tensors.items()}, force=True
    )
    convert(source, tmp_path / "float")
    tokens, mask = batch("llama")
    own, expected = (logits(tmp_path / folder, tokens[:1], mask[:1]) for folder in ("codes", "float"))
    np.testing.assert_allclose(own, expected, atol=1e-5)


def test_the_command_makes_a_folder_of_an_output_without_an_ending(tmp_path: Path) -> None:
    gguf_of(save_checkpoint("llama", tmp_path / "checkpoint"), tmp_path / "model.gguf", "q4_0")
    source, output = str(tmp_path / "model.gguf"), str(tmp_path / "decoder")
    result = CliRunner().invoke(main, ["convert", source, "-o", output])
    assert result.exit_code == 0 and "q4_0" in result.output and "4.5 bits each" in result.output
    assert (
        tmp_path / "decoder" / "genai_config.json"
    ).exists() and "generate" not in result.output  # it has no tokenizer
    result = CliRunner().invoke(main, ["convert", source, "-o", output, "--force", "--json", "--context", "32"])
    assert json.loads(result.output)["context"] == 32
    for arguments, message in (
        (["-o", output, "--force", "--leave-out"], "is a decoder; --leave-out has no effect"),
        (["-o", str(tmp_path / "b.gguf"), "--bits", "4"], "where codes move as they are"),
        (["-o", output, "--force", "--bits", "4"], "no weight of floats is left"),
        (["-o", output, "--force", "--block-size", "32"], "block_size has no effect without a format"),
        (["-o", output], "exists already"),
    ):
        result = CliRunner().invoke(main, ["convert", source, *arguments])
        assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output


def test_a_format_that_no_weight_can_have_is_refused(tmp_path: Path) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    with pytest.raises(RecipeError, match=r"no weight can be rounded: .*q4_k"):
        convert(source, tmp_path / "decoder", format="q4_k", target="onnx")
    with pytest.raises(RecipeError, match=r"a decoder is a folder with model\.onnx in it"):
        convert(source, tmp_path / "decoder.onnx")
    # Blocks of 64 do not divide rows of 96.
    report = convert(source, tmp_path / "decoder", format="nf4", block_size=64)
    assert {group.format: group.weights for group in report.groups} == {"f32": 2, "nf4": 8}
    assert any("2 weights stay in float" in note and "down_proj" in note for note in report.notes)


def test_a_folder_without_weights_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match=r"has no \*\.safetensors or \.q8k files; found pytorch_model\.bin"):
        convert(tmp_path, tmp_path.parent / "decoder")


def test_a_float_decoder_is_quantized_like_any_model(tmp_path: Path) -> None:
    convert(save_checkpoint("llama", tmp_path / "checkpoint"), tmp_path / "decoder")
    report = onnxquant.quantize(tmp_path / "decoder" / "model.onnx", tmp_path / "int4.onnx", bits=4)
    assert report.proof is not None and any(site.decision.format is not None for site in report.sites)


def test_a_search_for_formats_judges_the_logits_of_a_decoder(tmp_path: Path) -> None:
    """The cache is an output, too; a recipe and the user may say otherwise."""
    convert(save_checkpoint("llama", tmp_path / "checkpoint"), tmp_path / "decoder")
    tokens = {"input_ids": np.random.default_rng(0).integers(0, TOKENS, (8, 20))}

    def searched(name: str, **options: Any) -> Report:
        return quantize_folder(tmp_path / "decoder", tmp_path / name, data=tokens, budget_bpw=9, **options)

    report = searched("own", solver="rtn")
    assert report.search is not None and report.search.formats == SEARCHED
    assert report.proof and {part.output for part in report.proof.quality or ()} == {"logits"}
    report = searched("of ort", solver="rtn", target="ort", dry_run=True)
    assert report.search is not None and report.search.formats == DEFAULT
    report = searched(
        "given", recipe={"solver": "rtn", "options": {"formats": ["int8", "int4"]}}, judge="present.0.key"
    )
    assert report.search is not None and report.search.formats == ("int8", "int4")
    assert report.proof and {part.output for part in report.proof.quality or ()} == {"present.0.key"}


def test_texts_in_any_file_are_samples_for_gptq(tmp_path: Path) -> None:
    """With the folder's own tokenizer: the file is that of the tokens."""
    convert(save_checkpoint("llama", tmp_path / "checkpoint"), tmp_path / "decoder")
    words = tokenizers.models.WordLevel({f"w{token}": token for token in range(TOKENS)}, "w0")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "decoder" / "tokenizer.json"))
    tokens = np.random.default_rng(0).integers(0, TOKENS, (12, 20))
    lines = [" ".join(f"w{token}" for token in row) for row in tokens]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    (tmp_path / "texts.csv").write_text("\n".join(["number,prompt", *(f"1,{line}" for line in lines)]))
    np.savez(tmp_path / "tokens.npz", input_ids=tokens)
    files = []
    for name in ("tokens.npz", "texts.txt", "texts.jsonl", "texts.csv"):
        onnxquant.quantize(
            tmp_path / "decoder" / "model.onnx", tmp_path / f"{name}.onnx", bits=4, solver="gptq", data=tmp_path / name,
            preprocess="column=prompt" if name == "texts.csv" else None, proof=False,
        )  # fmt: skip
        proto = onnx.load(tmp_path / f"{name}.onnx")
        files.append({tensor.name: tensor.raw_data for tensor in proto.graph.initializer})
    assert len(files[0]) > 10 and all(file == files[0] for file in files)


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    source = save_checkpoint("llama", tmp_path / "checkpoint")
    with pytest.raises(RecipeError, match="unknown option 'fromat'"):
        convert(source, tmp_path / "decoder", fromat="int8")
    with pytest.raises(RecipeError, match="no weight of floats is left"):
        convert(source, tmp_path / "decoder", format="int8", include="zzz")
    with pytest.raises(RecipeError, match="context 65: expected 1 to 64"):
        convert(source, tmp_path / "decoder", context=65)
    gguf_of(source, tmp_path / "model.gguf", "q4_0")
    with pytest.raises(RecipeError, match="no weight of floats is left"):
        convert(tmp_path / "model.gguf", tmp_path / "decoder", format="int8")
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "mine.json").touch()
    with pytest.raises(OutputError, match="holds other files"):
        convert(source, tmp_path / "decoder", force=True)
