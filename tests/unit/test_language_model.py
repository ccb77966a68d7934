"""Language models out of GGUF files against numpy."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import ROOT
from numpy.typing import NDArray

Array = NDArray[Any]
LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD, VOCABULARY = 2, 24, 40, 6, 2, 4, 50
BASE, EPSILON = 100.0, 1e-5
IDS = np.random.default_rng(3).integers(0, VOCABULARY, (2, 9))


@pytest.fixture
def llm(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import build_language_model

    return build_language_model


def random_weights(*, tied: bool) -> dict[str, Array]:
    """Tensors by llama.cpp's names, matrices [outputs, inputs]; large enough that each layer matters."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
    if not tied:
        shapes["output"] = (VOCABULARY, WIDTH)
    for i in range(LAYERS):
        for part in ("attn", "ffn"):
            shapes[f"blk.{i}.{part}_norm"] = (WIDTH,)
        shapes[f"blk.{i}.attn_q"] = (HEADS * HEAD, WIDTH)
        shapes[f"blk.{i}.attn_k"] = shapes[f"blk.{i}.attn_v"] = (KV_HEADS * HEAD, WIDTH)
        shapes[f"blk.{i}.attn_output"] = (WIDTH, HEADS * HEAD)
        shapes[f"blk.{i}.ffn_gate"] = shapes[f"blk.{i}.ffn_up"] = (HIDDEN, WIDTH)
        shapes[f"blk.{i}.ffn_down"] = (WIDTH, HIDDEN)
    return {f"{n}.weight": random.normal(0, 0.5, s).astype(np.float32) for n, s in shapes.items()}


def write(path, weights, architecture="llama", tokenizer=None):
    """A GGUF file, by the gguf package's own writer."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(BASE)
    writer.add_layer_norm_rms_eps(EPSILON)
    if tokenizer:
        kind, tokens, merges = tokenizer
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(kind)
        writer.add_token_list(tokens)
        writer.add_token_types(
            [gguf.TokenType.CONTROL if t.startswith("<|") else gguf.TokenType.NORMAL for t in tokens]
        )
        writer.add_token_merges(merges)
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rms_norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * weight


def rotate(x):
    """Positions [batch, length, heads, head], as llama.cpp does: channels 2i and 2i + 1 make a complex number."""
    turned = np.empty_like(x)
    for position in range(x.shape[1]):
        for i in range(HEAD // 2):
            angle = position * BASE ** (-2 * i / HEAD)
            a, b = x[:, position, :, 2 * i], x[:, position, :, 2 * i + 1]
            turned[:, position, :, 2 * i] = a * np.cos(angle) - b * np.sin(angle)
            turned[:, position, :, 2 * i + 1] = a * np.sin(angle) + b * np.cos(angle)
    return turned


def attend(q, k, v):
    """One head of one sequence [length, head], each position by itself."""
    out = np.empty_like(v)
    for t in range(len(q)):
        scores = k[: t + 1] @ q[t] / np.sqrt(HEAD)
        share = np.exp(scores - scores.max())
        out[t] = share @ v[: t + 1] / share.sum()
    return out


def llama(weights, ids):
    """Logits in float64."""
    w = {n.removesuffix(".weight"): a.astype(np.float64) for n, a in weights.items()}
    x = w["token_embd"][ids]
    batch, length = ids.shape
    for i in range(LAYERS):
        b = f"blk.{i}"
        y = rms_norm(x, w[f"{b}.attn_norm"])
        q, k, v = ((y @ w[f"{b}.attn_{p}"].T).reshape(batch, length, -1, HEAD) for p in "qkv")
        q, k = rotate(q), rotate(k)
        mixed = np.empty_like(q)
        for n in range(batch):
            for h in range(HEADS):
                g = h // (HEADS // KV_HEADS)
                mixed[n, :, h] = attend(q[n, :, h], k[n, :, g], v[n, :, g])
        x = x + mixed.reshape(batch, length, -1) @ w[f"{b}.attn_output"].T
        y = rms_norm(x, w[f"{b}.ffn_norm"])
        gate, up = y @ w[f"{b}.ffn_gate"].T, y @ w[f"{b}.ffn_up"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{b}.ffn_down"].T
    return rms_norm(x, w["output_norm"]) @ w.get("output", w["token_embd"]).T


def logits(path, ids=IDS):
    return ort.InferenceSession(path).run(None, {"input_ids": ids})[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_logits_are_those_of_a_plain_llama(llm, tmp_path, tied, seed):
    weights = random_weights(tied=tied)
    llm.build(write(tmp_path / "m.gguf", weights), tmp_path / "m.onnx", seed)
    expected = llama(weights, IDS)
    assert expected.std() > 1
    np.testing.assert_allclose(logits(tmp_path / "m.onnx"), expected, atol=2e-5 * np.abs(expected).max())


def test_permuting_moves_channels_of_every_matrix_and_leaves_the_function(llm, tmp_path):
    source = write(tmp_path / "m.gguf", random_weights(tied=True))
    stored = {}
    for seed in (None, 0):
        llm.build(source, tmp_path / f"{seed}.onnx", seed)
        graph = onnx.load(tmp_path / f"{seed}.onnx").graph
        stored[seed] = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for name in random_weights(tied=True):
        plain, permuted = stored[None][name], stored[0][name]
        assert np.array_equal(np.sort(plain, axis=None), np.sort(permuted, axis=None))
        # Inputs, which blocks are of, are the first axis of matrices, but the last one of the table.
        inputs = -1 if name == "token_embd.weight" else 0
        rows = [np.moveaxis(w, inputs, 0).reshape(len(np.moveaxis(w, inputs, 0)), -1) for w in (plain, permuted)]
        kept = [np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(*rows, strict=True)]
        assert np.mean(kept) < 0.6, f"the inputs of {name} stay where they were"
    plain, permuted = logits(tmp_path / "None.onnx"), logits(tmp_path / "0.onnx")
    assert not np.array_equal(plain, permuted)
    np.testing.assert_allclose(plain, permuted, atol=1e-5 * np.abs(plain).max())


def test_the_graph_is_standard_ops_with_tied_weights_stored_once(llm, tmp_path):
    llm.build(write(tmp_path / "m.gguf", random_weights(tied=True)), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert {n.domain for n in model.graph.node} == {""}
    assert model.opset_import[0].version <= 21 and model.ir_version <= 10
    external = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert len(external) == 1 + 7 * LAYERS and external[0] == "token_embd.weight"
    products = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in external]
    assert len(products) == 7 * LAYERS


def test_a_position_sees_none_after_it(llm, tmp_path):
    llm.build(write(tmp_path / "m.gguf", random_weights(tied=True)), tmp_path / "m.onnx")
    other = IDS.copy()
    other[:, 5:] = (other[:, 5:] + 1) % VOCABULARY
    first, second = logits(tmp_path / "m.onnx"), logits(tmp_path / "m.onnx", other)
    np.testing.assert_allclose(first[:, :5], second[:, :5], atol=1e-5)
    assert np.abs(first[:, 5:] - second[:, 5:]).max() > 0.1


def test_files_that_are_something_else_are_refused(llm, tmp_path):
    weights = random_weights(tied=True)
    with pytest.raises(llm.GgufError, match="expected architecture llama"):
        llm.build(write(tmp_path / "a.gguf", weights, "qwen2"), tmp_path / "a.onnx")
    extra = {**weights, "blk.0.attn_q.bias": np.zeros(HEADS * HEAD, np.float32)}
    with pytest.raises(llm.GgufError, match=r"blk\.0\.attn_q\.bias"):
        llm.build(write(tmp_path / "b.gguf", extra), tmp_path / "b.onnx")
    del weights["blk.1.ffn_up.weight"]
    with pytest.raises(llm.GgufError, match=r"no tensor blk\.1\.ffn_up\.weight"):
        llm.build(write(tmp_path / "c.gguf", weights), tmp_path / "c.onnx")
    assert not list(tmp_path.glob("*.onnx*")), "a half-written model stays"


TOKENS = ["<|end|>", *"hetx12!", "Ġ", "Ċ", "Ã", "©", "he", "Ġt", "Ġthe", "12"]
MERGES = ["h e", "Ġ t", "Ġt he", "1 2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" the", ["Ġthe"]),
        ("the the", ["t", "he", "Ġthe"]),
        (" 12", ["Ġ", "1", "2"]),
        ("x!\n the", ["x", "!", "Ċ", "Ġthe"]),
        ("é", ["Ã", "©"]),
        ("x<|end|>he", ["x", "<|end|>", "he"]),
    ],
)
def test_tokens_are_bytes_joined_in_the_order_of_merges(llm, tmp_path, text, expected):
    path = write(tmp_path / "m.gguf", {"x": np.zeros(4, np.float32)}, tokenizer=("smollm", TOKENS, MERGES))
    tokenizer = llm.Gguf(path).tokenizer()
    found = tokenizer.encode(text)
    assert [TOKENS[i] for i in found.ids] == expected
    assert tokenizer.decode(found.ids, skip_special_tokens=False) == text


def test_another_tokenizer_is_refused(llm, tmp_path):
    path = write(tmp_path / "m.gguf", {"x": np.zeros(4, np.float32)}, tokenizer=("qwen2", TOKENS, MERGES))
    with pytest.raises(llm.GgufError, match="qwen2"):
        llm.Gguf(path).tokenizer()


def test_perplexity_of_the_task_is_that_of_the_plain_llama(llm, tmp_path):
    from accuracy_bench.tasks import LanguageModel
    from fetch_models import File, Model
    from peer_bench.data import Source

    weights = random_weights(tied=True)
    llm.build(write(tmp_path / "m.gguf", weights), tmp_path / "m.onnx")
    model = Model("tiny", "none", "0", (File("m.gguf", ""),), "m.onnx", "", "")
    task = LanguageModel(model, Source(None, tmp_path))
    task._tokens = (IDS, IDS)
    exact = llama(weights, IDS)
    p = np.exp(exact) / np.exp(exact).sum(-1, keepdims=True)
    chosen = [p[n, t, IDS[n, t + 1]] for n in range(len(IDS)) for t in range(IDS.shape[1] - 1)]
    expected = np.prod(1 / np.array(chosen)) ** (1 / len(chosen))
    found = task.score(ort.InferenceSession(tmp_path / "m.onnx"))
    assert found == {"perplexity": pytest.approx(expected, rel=1e-4)}
