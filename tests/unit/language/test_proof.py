"""Perplexity and KL divergence are those of float64 numpy on whole windows, by the definitions of llama.cpp's tool."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from decoder_check.checkpoints import save_checkpoint
from decoders import BEGIN, CONTEXT, Weights, plain_cache, save_genai, save_optimum, shared_cache

from onnxquant import interchange
from onnxquant.artifact.records import records
from onnxquant.errors import FeedError, ModelError, RecipeError
from onnxquant.graph.io import load
from onnxquant.language.convert import convert
from onnxquant.language.running import decoder as decoder_module
from onnxquant.language.running.decoder import Decoder
from onnxquant.language.running.divergence import Comparison
from onnxquant.language.running.proof import LanguageBounds, LanguageProof, _tokens, opened, validate
from onnxquant.language.running.text import TextTokenizer, read_text

ORIGINAL, WINDOW = Weights.draw(), 16
OTHER = ORIGINAL.noisy(0.1)
TEXT = "The quick brown fox jumps over the lazy dog, and Grüße."


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_genai(tmp_path_factory.mktemp("proof") / "original", shared_cache(ORIGINAL))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_optimum(tmp_path_factory.mktemp("proof") / "other", plain_cache(OTHER))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(TEXT + "\n", encoding="utf-8")
    return path


class Expected:
    """Figures of each predicted token."""

    def __init__(self, tokens: list[int], first: int) -> None:
        self.before, self.after, self.kl, self.same, self.difference, self.places = [], [], [], [], [], []
        for begin in range(0, len(tokens) - WINDOW + 1, WINDOW):
            window = [BEGIN, *tokens[begin + 1 : begin + WINDOW]]
            p, q = (_softmax(weights.logits(window)) for weights in (ORIGINAL, OTHER))
            for place in range(first, WINDOW):  # predicted from all tokens before it
                a, b, token = p[place - 1], q[place - 1], window[place]
                self.before.append(-np.log(a[token]))
                self.after.append(-np.log(b[token]))
                self.kl.append(sum(x * np.log(x / y) for x, y in zip(a, b, strict=True)))
                self.same.append(a.argmax() == b.argmax())
                self.difference.append(b[token] - a[token])
                self.places.append(place)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _perplexity(losses: list[float]) -> tuple[float, float]:
    """Perplexity and error as llama.cpp's tool computes them from two sums."""
    count = len(losses)
    middle, square = sum(losses) / count, sum(x * x for x in losses) / count
    figure = np.exp(middle)
    return figure, figure * np.sqrt((square - middle**2) / (count - 1))


def _agrees(proof: LanguageProof, expected: Expected) -> None:
    figures = proof.divergence
    assert figures.tokens == len(expected.kl)
    assert np.allclose(figures.original_perplexity, _perplexity(expected.before), rtol=1e-5)
    assert np.allclose(figures.perplexity, _perplexity(expected.after), rtol=1e-5)
    differences = [b - a for a, b in zip(expected.before, expected.after, strict=True)]
    assert np.allclose(figures.perplexity_ratio, _perplexity(differences), rtol=1e-5)
    kl = np.array(expected.kl)
    assert np.allclose(figures.kl, (kl.mean(), kl.std(ddof=1) / np.sqrt(len(kl))), rtol=1e-4)
    assert np.isclose(figures.kl_quantile, np.sort(kl)[-2:].min(), rtol=0.5)
    assert np.isclose(figures.kl_largest, kl.max(), rtol=1e-4)
    share = np.mean(expected.same)
    assert np.allclose(figures.same_top, (share, np.sqrt(share * (1 - share) / (len(kl) - 1))), rtol=1e-6)
    assert np.isclose(figures.probability_rms, np.sqrt(np.mean(np.square(expected.difference))), rtol=1e-4)


@pytest.mark.parametrize("all_positions", [False, True])
def test_perplexity_and_kl_match_a_float64_reference(
    original: Path, other: Path, text: Path, all_positions: bool
) -> None:
    tokens = TextTokenizer(original).encode(TEXT)
    proof = validate(original, other, text, window=WINDOW, all_positions=all_positions)
    first = 1 if all_positions else WINDOW // 2 + 1
    assert (proof.windows, proof.first, proof.window) == (len(tokens) // WINDOW, first, WINDOW)
    _agrees(proof, Expected(tokens, first))


def test_figures_are_the_same_where_windows_run_in_parts(
    original: Path, other: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = TextTokenizer(original).encode(TEXT)
    monkeypatch.setattr(decoder_module, "_LOGITS_BYTES", 5 * 4 * 258)
    for all_positions, first in ((False, WINDOW // 2 + 1), (True, 1)):
        proof = validate(original, other, text, window=WINDOW, all_positions=all_positions)
        _agrees(proof, Expected(tokens, first))


def test_figures_by_position_match_a_float64_reference(original: Path, other: Path, text: Path) -> None:
    expected = Expected(TextTokenizer(original).encode(TEXT), 1)
    proof = validate(original, other, text, window=WINDOW, all_positions=True)
    places = np.array(expected.places)
    assert [place for part in proof.divergence.positions for place in range(part.first, part.last + 1)] == [
        *range(1, WINDOW)
    ]
    for part in proof.divergence.positions:
        chosen = (places >= part.first) & (places <= part.last)
        assert part.tokens == chosen.sum()
        assert np.isclose(part.kl.value, np.array(expected.kl)[chosen].mean(), rtol=1e-4)
        assert np.isclose(part.perplexity, np.exp(np.array(expected.after)[chosen].mean()), rtol=1e-5)
        assert np.isclose(part.same_top, np.array(expected.same)[chosen].mean())


def test_a_decoder_against_itself_has_no_divergence(original: Path, text: Path) -> None:
    figures = validate(original, original, text, window=WINDOW).divergence
    assert figures.kl_largest < 1e-12
    assert figures.same_top.value == 1
    assert figures.perplexity_ratio == (1, 0)


def test_bounds_that_are_missed_are_named(original: Path, other: Path, text: Path) -> None:
    proof = validate(original, other, text, window=WINDOW, max_kl=1e-6, max_perplexity_ratio=100)
    assert not proof.passed
    assert len(proof.missed) == 1
    assert "mean KL divergence" in proof.missed[0]
    assert validate(original, other, text, window=WINDOW, max_kl=10, max_perplexity_ratio=100).passed


def test_nan_logits_fail_the_proof() -> None:
    comparison = Comparison()
    comparison.add(np.zeros((2, 4), np.float32), np.full((2, 4), np.nan, np.float32), np.zeros(2, np.int64), 1)
    figures = comparison.result()
    for bounds in (LanguageBounds(kl=1e9, perplexity_ratio=1e9), LanguageBounds()):
        (sentence,) = bounds.missed(figures)
        assert "no finite numbers" in sentence


def test_kl_ignores_tokens_of_probability_zero() -> None:
    comparison = Comparison()
    logits = np.array([[0.0, 0.0, -np.inf]], np.float32)
    comparison.add(logits, np.array([[0.0, 0.0, 0.0]], np.float32), np.array([1]), 1)
    assert np.isclose(comparison.result().kl.value, np.log(1.5))


def test_tokens_option_limits_the_windows(original: Path, other: Path, text: Path) -> None:
    assert validate(original, other, text, window=WINDOW, tokens=WINDOW).windows == 1


def test_a_window_is_no_longer_than_the_context(original: Path, other: Path, text: Path) -> None:
    assert validate(original, other, text).window == CONTEXT
    with pytest.raises(FeedError, match=f"{CONTEXT + 1} tokens are more than its context"):
        validate(original, other, text, window=CONTEXT + 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 3}, "window is 3, expected at least 4"),
        ({"tokens": 0}, "tokens is 0"),
        ({"max_kl": -1.0}, "max_kl is -1"),
        ({"max_perplexity_ratio": float("nan")}, "max_perplexity_ratio is nan"),
    ],
)
def test_numbers_out_of_range_are_refused(original: Path, text: Path, options: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        validate(original, original, text, **options)


def test_texts_that_cannot_be_read_are_refused(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    with pytest.raises(FeedError, match="cannot be read as text"):
        validate(original, original, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FeedError, match="not UTF-8"):
        validate(original, original, path)
    path.write_text("short")
    with pytest.raises(FeedError, match="has 6 tokens, fewer than a window of 16"):
        validate(original, original, path, window=16)


def test_folders_of_other_tokenizers_are_refused(original: Path, text: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(original, tmp_path / "changed")
    description = json.loads((changed / "tokenizer.json").read_text())
    vocabulary = description["model"]["vocab"]
    vocabulary["T"], vocabulary["h"] = vocabulary["h"], vocabulary["T"]
    (changed / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match="expected the same tokenizer"):
        validate(original, changed, text, window=WINDOW)


def test_an_original_may_be_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = save_checkpoint("llama", tmp_path / "checkpoint")
    convert(checkpoint, tmp_path / "float")
    convert(checkpoint, tmp_path / "coded", format="q4_0")
    vocabulary = {letter: place for place, letter in enumerate("abcdefghij")}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    for folder in ("float", "coded"):
        tokenizer.save(str(tmp_path / folder / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("abcdefghijjihgfedcba" * 4)
    proofs = [
        validate(original, tmp_path / "coded", tmp_path / "text.txt", window=WINDOW)
        for original in (checkpoint, tmp_path / "float")
    ]
    assert proofs[0].divergence == proofs[1].divergence
    assert proofs[0].divergence.kl.value > 1e-5
    assert proofs[0].original_bytes > 2 * proofs[0].bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "coded", "float", "text.txt"]


def test_an_original_of_codes_is_opened_as_floats(tmp_path: Path) -> None:
    """onnxruntime decodes codes at load slowly, with several times the memory of the floats."""
    checkpoint = save_checkpoint("smollm", tmp_path / "checkpoint")
    tensors = interchange.open_checkpoint(checkpoint).tensors.items()
    halves = {name: tensor.array().astype(np.float16) for name, tensor in tensors}
    (checkpoint / "model.safetensors").unlink()
    interchange.save(checkpoint / "model.safetensors", halves)
    convert(checkpoint, tmp_path / "decoder")
    assert records(load(tmp_path / "decoder" / "model.onnx").proto)
    stages: list[str] = []
    with opened(checkpoint, threads=1, library=True, progress=lambda stage, done: stages.append(stage)) as source:
        assert not records(load(source.decoder.config.model).proto)
        logits = source.decoder.start(capacity=8).read([[1, 2, 3]])
    assert {"writing weights", "decoding weights", "loading"} <= set(stages)
    np.testing.assert_allclose(logits, Decoder(tmp_path / "decoder").start(capacity=8).read([[1, 2, 3]]), atol=1e-4)


def test_progress_counts_what_each_decoder_has_read(original: Path, other: Path, text: Path) -> None:
    told: list[tuple[str, float]] = []
    proof = validate(original, other, text, window=WINDOW, progress=lambda stage, done: told.append((stage, done)))
    read = [done for stage, done in told if stage == "reading windows"]
    assert proof.windows > 1
    np.testing.assert_allclose(read, np.arange(2 * proof.windows + 1) / (2 * proof.windows))


def test_the_beginning_of_a_long_text_is_enough_for_few_tokens(original: Path) -> None:
    decoder, whole = Decoder(original), TextTokenizer(original).encode(TEXT * 400, special=False)
    ids, _ = _tokens(decoder, decoder, TEXT * 400, 20)
    assert 20 < len(ids) < len(whole) and ids[:20] == whole[:20]
    assert _tokens(decoder, decoder, TEXT, len(whole))[0] == TextTokenizer(original).encode(TEXT, special=False)


def test_texts_of_rows_and_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "b.txt").write_text("third\n", encoding="utf-8")
    rows = [{"text": "first\u2028line", "id": 1}, {"text": "second"}]
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    (folder / "c.bin").write_bytes(b"\xff")
    assert read_text(folder / "a.jsonl") == "first\u2028line\n\nsecond"
    assert read_text(folder) == "first\u2028line\n\nsecond\n\nthird"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: is no JSON"),
        ('{"content": "x"}', "line 2: is an object of ['content'], expected an object with a text named 'text'"),
        ('"x"', None),
        ("[1]", "line 2: is \\[1\\], expected"),
    ],
)
def test_rows_without_a_text_are_refused(tmp_path: Path, line: str, words: str | None) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' + line)
    if words is None:
        assert read_text(path) == "a\n\nx"
        return
    with pytest.raises(FeedError, match=words.replace("['content']", r"\['content'\]")):
        read_text(path)


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"holds no texts; expected files that end in \.txt"):
        read_text(tmp_path)
