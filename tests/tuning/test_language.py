"""Decoders that learn from texts: divergence of logits, windows of tokens, tied tables."""

import numpy as np
import onnx
import pytest
import torch
from decoder_check.checkpoints import TOKENS, save_checkpoint

from onnxquant import language, runtime
from onnxquant.calibration.feeds import Input, in_windows
from onnxquant.calibration.inputs import sampled_inputs_of
from onnxquant.convert.tune import logits_of_tokens
from onnxquant.graph.io import load
from onnxquant.tuning.likely import LikelyTokens

LENGTH = 24


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A tiny decoder whose head is tied to its embedding."""
    folder = tmp_path_factory.mktemp("decoder")
    language.convert(save_checkpoint("smollm", folder / "checkpoint"), folder / "decoder")
    return folder / "decoder"


def texts(count, seed, lengths=(LENGTH, LENGTH + 1)):
    rng = np.random.default_rng(seed)
    return [{"input_ids": rng.integers(3, TOKENS, (1, rng.integers(*lengths)))} for _ in range(count)]


def divergence(exact, other, samples):
    """Mean divergence of the logits of two files at all positions, in float64."""
    sessions = [runtime.open_session(f / "model.onnx", runtime.session_options(threads=1)) for f in (exact, other)]
    past = {
        i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)
        for i in sessions[0].get_inputs()
        if "past" in i.name
    }
    results = []
    for sample in samples:
        ids = sample["input_ids"]
        feed = {**past, "input_ids": ids, "attention_mask": np.ones_like(ids), "logits_count": np.array(ids.shape[1])}
        p, q = (log_softmax(s.run(["logits"], feed)[0].astype(np.float64)) for s in sessions)
        results.append((np.exp(p) * (p - q)).sum(-1).mean())
    return np.mean(results)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_logits_come_closer_on_texts_that_nothing_was_learned_from(decoder, tmp_path):
    options = {"data": texts(40, 0), "format": "int4", "solver": "rtn", "threads": 1, "proof": False}
    language.quantize(decoder, tmp_path / "before", **options)
    report = language.quantize(decoder, tmp_path / "after", tune_epochs=16, **options)
    assert report.tuning.gained
    unseen = texts(16, 1)
    before, after = (divergence(decoder, tmp_path / name, unseen) for name in ("before", "after"))
    assert after < 0.9 * before
    # The report tells the divergence on the samples that judge.
    assert report.tuning.after == pytest.approx(-10 * np.log10(after), abs=1.5)
    # The table of the embedding, which is the head, too, is stored once as before, and was learned.
    tables = [table_of(tmp_path / name) for name in ("before", "after")]
    assert {n: a.shape for n, a in tables[0].items()} == {n: a.shape for n, a in tables[1].items()}
    assert any(not np.array_equal(array, tables[1][name]) for name, array in tables[0].items())


def table_of(folder):
    """The constants of the embedding and the head."""
    tensors = onnx.load(folder / "model.onnx").graph.initializer
    return {t.name: onnx.numpy_helper.to_array(t) for t in tensors if "embed" in t.name or "head" in t.name}


def test_texts_of_several_lengths_are_learned_from_as_windows(decoder, tmp_path):
    data = texts(40, 0, (7, 60))
    report = language.quantize(
        decoder, tmp_path / "x", data=data, format="int4", solver="rtn", threads=1, proof=False, tune_epochs=1
    )
    learned = [sample["input_ids"].shape[1] for sample in data[:30]]
    assert report.tuning.samples == sum(learned) // max(learned)


def test_outputs_of_tokens_are_those_as_wide_as_the_table(decoder):
    model = load(decoder / "model.onnx")
    hidden = onnx.helper.make_tensor_value_info("hidden", onnx.TensorProto.FLOAT, ["batch", "length", 64])
    model.proto.graph.output.append(hidden)
    assert logits_of_tokens(model) == ("logits",)
    assert logits_of_tokens(load("models/default.onnx")) == ()


def test_likely_tokens_and_the_rest_have_the_divergence_of_so_many_classes():
    rng = np.random.default_rng(0)
    theirs = rng.normal(0, 1, (2, 3, 1000)).astype(np.float32)
    ours = theirs + rng.normal(0, 0.5, theirs.shape).astype(np.float32) + 0.5 * (theirs > 0.7)
    p, q = (np.exp(log_softmax(x.astype(np.float64))) for x in (theirs, ours))
    order = np.argsort(-p, -1)[..., :256]
    parts = [np.take_along_axis(x, order, -1) for x in (p, q)]
    p, q = (np.concatenate([part, 1 - part.sum(-1, keepdims=True)], -1) for part in parts)
    likely = LikelyTokens.of(theirs)
    assert likely.shape == theirs.shape
    expected = (p * np.log(p / q)).sum(-1).mean()
    assert float(likely.divergence(torch.from_numpy(ours))) == pytest.approx(expected, rel=1e-4)
    assert float(likely.divergence(torch.from_numpy(theirs + 3))) == pytest.approx(0, abs=1e-5)
    # A small vocabulary has no rest.
    p, q = (log_softmax(x[..., :96].astype(np.float64)) for x in (theirs, ours))
    small = LikelyTokens.of(theirs[..., :96]).divergence(torch.from_numpy(ours[..., :96]))
    assert float(small) == pytest.approx((np.exp(p) * (p - q)).sum(-1).mean(), rel=1e-4)


def test_texts_follow_each_other_in_windows(decoder):
    inputs = sampled_inputs_of(load(decoder / "model.onnx"))
    cache = {f"past_key_values.{i}.{k}": np.zeros((1, 4, 0, 16), np.float32) for i in (0, 1) for k in ("key", "value")}
    ids = np.arange(90)[None]
    feeds = [
        {"input_ids": part, "attention_mask": np.ones_like(part), "logits_count": np.array(1), **cache}
        for part in (ids[:, :3], ids[:, 3:45], ids[:, 45:])
    ]
    windows = in_windows(feeds, inputs, 40)
    assert [w["input_ids"].tolist() for w in windows] == [ids[:, :40].tolist(), ids[:, 40:80].tolist()]
    assert all(w["attention_mask"].shape == (1, 40) and w["logits_count"] == 40 for w in windows)
    assert set(windows[0]) == set(feeds[0])
    # Windows are no longer than the longest text, which the model takes.
    assert [w["input_ids"].shape for w in in_windows(feeds, inputs, 80)] == [(1, 45)] * 2
    # Padded texts stay, and those of a model without a cache.
    padded = [f | {"attention_mask": np.array([[0] + [1] * (f["input_ids"].shape[1] - 1)])} for f in feeds]
    assert [w["input_ids"].shape for w in in_windows(padded, inputs, 8)] == [(1, 3), (1, 42), (1, 45)]
    assert in_windows(feeds, [Input("input_ids", "tensor(int64)", (1, "length"))], 8) == feeds
