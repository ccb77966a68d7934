"""Samples of decoders: made-up lengths that fit each other, and caches that a sample leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest

import onnxquant
from onnxquant.calibration.feeds import Feed, Input, ModelFacts, Synthetic, guesses, open_feeds
from onnxquant.calibration.feeds.caches import LOGITS_COUNT, caches, holds_positions
from onnxquant.errors import FeedError

INTEGERS, FLOATS = "tensor(int64)", "tensor(float)"
IDS = Input("input_ids", INTEGERS, ("batch", "length"))
MASK = Input("attention_mask", INTEGERS, ("batch", "total_length"))
POSITIONS = Input("position_ids", INTEGERS, ("batch", "length"))
PAST = Input("past_key_values.0.key", FLOATS, ("batch", 2, "past_length", 8))
DECODER = [IDS, MASK, POSITIONS, PAST]


def first_feed(inputs: list[Input], dims: dict[str, int] | None = None) -> Feed:
    return next(iter(Synthetic(inputs, {"input_ids": 50}, guesses(inputs, dims or {})[0], 1, seed=0)))


def test_masks_and_positions_of_made_up_samples_follow_the_cache() -> None:
    feed = first_feed(DECODER)
    new, past = feed["input_ids"].shape[1], feed["past_key_values.0.key"].shape[2]
    assert past > 0 and feed["attention_mask"].shape == (1, past + new) and feed["attention_mask"].all()
    assert feed["position_ids"].tolist() == [list(range(past, past + new))]
    short = first_feed(DECODER, {"past_length": 3, "length": 1})
    assert short["attention_mask"].shape == (1, 4) and short["position_ids"].tolist() == [[3]]


def test_a_decoder_of_single_tokens_and_one_that_counts_its_tokens() -> None:
    ids = Input("input_ids", INTEGERS, ("batch", 1))
    counts = [Input("seqlens_k", "tensor(int32)", ("batch",)), Input("total_sequence_length", "tensor(int32)", ())]
    feed = first_feed([ids, MASK, PAST, *counts])
    past = feed["past_key_values.0.key"].shape[2]
    assert feed["attention_mask"].shape == (1, past + 1)
    assert feed["seqlens_k"].tolist() == [past] and feed["total_sequence_length"] == past + 1


def test_caches_of_an_encoder_have_its_length_and_open_heads_are_tried() -> None:
    states = Input("encoder_hidden_states", FLOATS, ("batch", "frames", 16))
    cross = Input("past_key_values.0.encoder.key", FLOATS, ("batch", 2, "frames_out", 8))
    feed = first_feed([IDS, states, PAST, cross])
    assert feed["encoder_hidden_states"].shape[1] == feed["past_key_values.0.encoder.key"].shape[2]
    assert feed["past_key_values.0.key"].shape[2] != feed["past_key_values.0.encoder.key"].shape[2]
    past = Input("past_key_values.0.key", FLOATS, ("batch", 2, "past_length", "head"))
    heads = {guess.shape(past)[-1] for guess in guesses([IDS, past], {}) if guess.cache}
    assert {64, 128, 32} <= heads
    assert {guess.shape(past)[-1] for guess in guesses([IDS, past], {"head": 24}) if guess.cache} == {24}


def test_other_models_have_no_cache() -> None:
    assert not caches([IDS, MASK, Input("past", FLOATS, ("batch", "time"))], {})
    assert holds_positions(POSITIONS) and holds_positions(Input("cache_position", INTEGERS, ("length",)))
    assert not holds_positions(IDS) and not holds_positions(Input("position_bias", INTEGERS, ("n", "n")))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_one_empty_cache_serves_all_samples_of_an_archive(tmp_path: Path, save: object) -> None:
    ids = np.arange(12).reshape(3, 4)
    empty = np.zeros((1, 2, 0, 8), np.float32)
    save(tmp_path / "s.npz", **{"input_ids": ids, "attention_mask": ids * 0 + 1, "position_ids": ids, PAST.name: empty})  # type: ignore[operator]
    feeds = list(open_feeds(tmp_path / "s.npz", DECODER))
    assert [feed["input_ids"].tolist() for feed in feeds] == [[row.tolist()] for row in ids]
    assert all(feed[PAST.name].shape == (1, 2, 0, 8) for feed in feeds)


def test_samples_may_leave_out_cache_mask_and_positions() -> None:
    feeds = open_feeds([{"input_ids": np.arange(8).reshape(2, 4)}], DECODER)
    (feed,) = feeds
    assert feed[PAST.name].shape == (2, 2, 0, 8) and feed["attention_mask"].shape == (2, 4)
    assert feed["position_ids"].tolist() == [[0, 1, 2, 3]] * 2
    assert feeds.origin.assumed == ("an empty cache",)
    masked = {"input_ids": np.zeros((1, 4), int), "attention_mask": np.array([[0, 0, 1, 1]])}
    assert next(iter(open_feeds([masked], DECODER)))["position_ids"].tolist() == [[0, 0, 0, 1]]
    cached = {"input_ids": np.zeros((1, 1), int), PAST.name: np.zeros((1, 2, 5, 8), np.float32)}
    (feed,) = open_feeds([cached], DECODER)
    assert feed["attention_mask"].shape == (1, 6) and feed["position_ids"].tolist() == [[5]]


def test_a_decoder_of_this_package_is_asked_for_more_logits_than_one() -> None:
    inputs = [*DECODER, Input(LOGITS_COUNT, INTEGERS, (), default=True)]
    for length, count in ((4, 4), (100, 32)):
        (feed,) = open_feeds([{"input_ids": np.zeros((1, length), int)}], inputs)
        assert feed[LOGITS_COUNT].tolist() == count
    (feed,) = open_feeds([{"input_ids": np.zeros((1, 9), int), LOGITS_COUNT: np.array(2)}], inputs)
    assert feed[LOGITS_COUNT].tolist() == 2


def test_the_branch_of_a_merged_decoder_follows_the_cache() -> None:
    inputs = [*DECODER, Input("use_cache_branch", "tensor(bool)", (1,))]
    (feed,) = open_feeds([{"input_ids": np.zeros((1, 4), int)}], inputs)
    assert feed["use_cache_branch"].tolist() == [False]


def test_the_length_of_a_head_comes_from_the_configuration(tmp_path: Path) -> None:
    inputs = [IDS, Input(PAST.name, FLOATS, ("batch", 2, "past_length", "head"))]
    sample = [{"input_ids": np.zeros((1, 4), int)}]
    with pytest.raises(FeedError, match=r"'past_key_values.0.key' is missing"):
        open_feeds(sample, inputs)
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": {"decoder": {"head_size": 24}}}))
    (feed,) = open_feeds(sample, inputs, facts=ModelFacts(tmp_path))
    assert feed[PAST.name].shape == (1, 2, 0, 24)
    (tmp_path / "genai_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 64, "num_attention_heads": 4}))
    (feed,) = open_feeds(sample, inputs, facts=ModelFacts(tmp_path))
    assert feed[PAST.name].shape == (1, 2, 0, 16)


def decoder(width: int = 32, heads: int = 2, vocabulary: int = 64) -> onnx.ModelProto:
    """One layer of attention with a cache, whose mask is as long as cache and tokens together."""
    node, head = graphs.node, width // heads
    cache = ("batch", heads, "past_length", head)
    nodes = [
        node("Gather", ["table", "input_ids"], ["e"]),
        node("Gather", ["places", "position_ids"], ["p"]),
        node("Add", ["e", "p"], ["x"]),
        *(node("MatMul", ["x", f"w{i}"], [f"flat{i}"]) for i in "qkv"),
        *(node("Reshape", [f"flat{i}", "split"], [f"parts{i}"]) for i in "qkv"),
        *(node("Transpose", [f"parts{i}"], [f"own{i}"], perm=[0, 2, 1, 3]) for i in "qkv"),
        node("Concat", ["past.0.key", "ownk"], ["present.0.key"], axis=2),
        node("Concat", ["past.0.value", "ownv"], ["present.0.value"], axis=2),
        node("Transpose", ["present.0.key"], ["keys"], perm=[0, 1, 3, 2]),
        node("MatMul", ["ownq", "keys"], ["scores"]),
        node("Cast", ["attention_mask"], ["shown"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["shown", "axes"], ["bias"]),
        node("Add", ["scores", "bias"], ["masked"]),
        node("Softmax", ["masked"], ["weights"], axis=-1),
        node("MatMul", ["weights", "present.0.value"], ["mixed"]),
        node("Transpose", ["mixed"], ["rows"], perm=[0, 2, 1, 3]),
        node("Reshape", ["rows", "join"], ["y"]),
        node("MatMul", ["y", "head"], ["logits"]),
    ]
    inputs = {
        "input_ids": (np.int64, ("batch", "length")),
        "attention_mask": (np.int64, ("batch", "total_length")),
        "position_ids": (np.int64, ("batch", "length")),
        "past.0.key": (np.float32, cache),
        "past.0.value": (np.float32, cache),
    }
    weights = {f"w{i}": graphs.weight(width, width, seed=ord(i)) for i in "qkv"}
    weights |= {
        "table": graphs.weight(vocabulary, width, seed=1), "places": graphs.weight(64, width, seed=2),
        "head": graphs.weight(width, vocabulary, seed=3), "split": np.array([0, 0, heads, head]),
        "join": np.array([0, 0, width]), "axes": np.array([1, 2]),
    }  # fmt: skip
    outputs = dict.fromkeys(("logits", "present.0.key", "present.0.value"), np.float32)
    return graphs.model(nodes, inputs, outputs, weights)


def test_a_decoder_is_proven_on_made_up_samples_and_on_tokens_alone(tmp_path: Path) -> None:
    onnx.save(decoder(), tmp_path / "model.onnx")
    report = onnxquant.quantize(tmp_path / "model.onnx", tmp_path / "made_up.onnx", threads=1)
    shapes = report.proof.feeds.shapes if report.proof and report.proof.feeds else None
    assert shapes and shapes["attention_mask"][1] == shapes["input_ids"][1] + shapes["past.0.key"][2]
    assert report.proof and report.proof.latency
    assert (report.proof.latency.call or "").startswith("one token after others (32 at once: ")
    data = {"input_ids": graphs.rng().integers(0, 64, (6, 12))}
    solved = onnxquant.quantize(tmp_path / "model.onnx", tmp_path / "q.onnx", bits=4, data=data, samples=2, threads=1)
    assert solved.passed and solved.proof and solved.proof.feeds
    assert solved.proof.feeds.assumed == ("an empty cache",)
