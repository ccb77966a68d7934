"""Texts come whole, characters come when they are complete, draws follow the probabilities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from decoders import CONTEXT, Weights, plain_cache, save_genai, shared_cache
from graphs import rng

from onnxquant import language
from onnxquant.errors import FeedError, ModelError, RecipeError
from onnxquant.language.running.chat import chat_prompt
from onnxquant.language.running.sampling import Sampler, Sampling, distribution
from onnxquant.language.running.text import TextStream, TextTokenizer

WEIGHTS = Weights.draw()
PROMPT = "Grüße 😀"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_genai(tmp_path_factory.mktemp("generate") / "decoder", shared_cache(WEIGHTS))


@pytest.mark.parametrize("graph", [shared_cache, plain_cache])
def test_greedy_tokens_are_the_most_probable_ones(graph, tmp_path: Path) -> None:
    folder = save_genai(tmp_path / "decoder", graph(WEIGHTS))
    generation = language.generate(folder, PROMPT, max_tokens=12)
    text = "".join(generation)
    prompt = TextTokenizer(folder).encode(PROMPT)
    assert prompt[0] == 256, "the tokenizer begins a text"
    assert generation.summary.tokens == WEIGHTS.greedy(prompt, 12)
    assert text == generation.summary.text == TextTokenizer(folder).decode(generation.summary.tokens)
    assert generation.summary.stopped_by == "max_tokens"


def test_generation_stops_at_an_end_token(tmp_path: Path) -> None:
    tokens = WEIGHTS.greedy([256, *b""], 8)
    end = tokens[5]
    folder = save_genai(tmp_path / "decoder", shared_cache(WEIGHTS), end=end)
    generation = language.generate(folder, "", max_tokens=20)
    list(generation)
    assert generation.summary.tokens == tokens[: tokens.index(end)]
    assert generation.summary.stopped_by == "end"


def test_generation_stops_when_the_context_is_full(folder: Path) -> None:
    generation = language.generate(folder, "a" * (CONTEXT - 4))
    list(generation)
    assert len(generation.summary.tokens) == 3
    assert generation.summary.stopped_by == "context"


def test_stream_holds_back_incomplete_utf8(folder: Path) -> None:
    tokenizer = TextTokenizer(folder)
    stream = TextStream(tokenizer)
    text = "né 😀!"
    pieces = [stream.add(token) for token in tokenizer.encode(text, special=False)]
    assert pieces == ["n", "", "é", " ", "", "", "", "😀", "!"]
    assert stream.end() == ""


def test_stream_shows_broken_utf8_as_replacement_characters(folder: Path) -> None:
    tokenizer = TextTokenizer(folder)
    first, *_ = tokenizer.encode("😀", special=False)
    stream = TextStream(tokenizer)
    assert stream.add(first) == ""
    assert stream.add(tokenizer.encode("x", special=False)[0]) == "\N{REPLACEMENT CHARACTER}x"
    assert stream.add(first) == ""
    assert stream.end() == "\N{REPLACEMENT CHARACTER}"


def test_sampling_repeats_with_the_same_seed(folder: Path) -> None:
    texts = ["".join(language.generate(folder, "ab", max_tokens=16, temperature=2.0, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def _nucleus(logits: list[float], temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """Probabilities of the tokens that may be taken, one by one in float64."""
    weights = [np.exp(np.float64(x) / temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[: top_k or len(logits)]
    total, share, taken = sum(weights[t] for t in order), 0.0, []
    for token in order:
        taken.append(token)
        share += weights[token] / total
        if share >= top_p:
            break
    kept_weight = sum(weights[t] for t in taken)
    return {token: float(weights[token] / kept_weight) for token in taken}


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 0, 0.8), (1.5, 5, 1.0), (1.0, 12, 0.5), (1.0, 0, 1e-9)]
)
def test_top_k_and_top_p_match_a_float64_reference(temperature: float, top_k: int, top_p: float) -> None:
    logits = (rng(3).standard_normal(50) * 2).astype(np.float32)
    tokens, probabilities = distribution(logits, Sampling(temperature, top_k, top_p))
    expected = _nucleus(logits.tolist(), temperature, top_k, top_p)
    assert tokens.tolist() == list(expected)
    assert np.allclose(probabilities, list(expected.values()), rtol=1e-12)


def test_sampled_shares_match_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)
    sampler, count = Sampler(Sampling(1.0, top_p=0.9, seed=5)), 4000
    shares = np.bincount([sampler.choose(logits) for _ in range(count)], minlength=4) / count
    assert np.allclose(shares, np.array([0.5, 0.3, 0.15, 0.0]) / 0.95, atol=0.03)
    assert shares[3] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_p": 0.5}, "top_p: has no effect without --temperature"),
        ({"seed": 3}, "seed: has no effect"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": 1.0, "top_k": -1}, "top_k is -1"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_arguments_without_effect_or_sense_are_refused(folder: Path, options: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        language.generate(folder, "a", **options)


def test_a_prompt_that_fills_the_context_is_refused(folder: Path) -> None:
    with pytest.raises(FeedError, match=f"prompt has {CONTEXT} tokens, and the context"):
        language.generate(folder, "a" * (CONTEXT - 1))


def test_a_folder_without_a_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json: is missing"):
        language.generate(bare, "a")


def test_a_message_is_wrapped_in_the_chat_template(folder: Path) -> None:
    assert chat_prompt(folder, "Hi") == "<s>[user] Hi >"
    generation = language.generate(folder, "Hi", chat=True, max_tokens=4)
    list(generation)
    prompt = TextTokenizer(folder).encode("<s>[user] Hi >", special=False)
    assert prompt[:1] == [256]
    assert generation.summary.tokens == WEIGHTS.greedy(prompt, 4)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0]['content'] | tojson }}", '"é"'),
        ("{% for m in messages %}\n{{ m.role }}\n{% endfor %}", "user\n"),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
    ],
)
def test_templates_render_as_transformers_renders_them(tmp_path: Path, template: str, expected: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    assert chat_prompt(tmp_path, "é") == expected


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{{ messages.append(1) }}", "chat template fails"),
        ("{{ ''.__class__.__mro__ }}", "chat template fails"),
        ("{% if %}", "chat template fails"),
    ],
)
def test_a_template_that_fails_or_breaks_out_is_refused(tmp_path: Path, template: str, words: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(ModelError, match=words):
        chat_prompt(tmp_path, "Hi")


def test_a_folder_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no chat template"):
        chat_prompt(tmp_path, "Hi")


def test_stream_keeps_spaces_between_words(tmp_path: Path) -> None:
    """Some tokenizers put the blank into the word, and leave it out at the beginning of what they decode."""
    words = ["<unk>", "▁a", "▁b", "c", "▁d"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(word, 0.0) for word in words], unk_id=0, byte_fallback=False)
    )
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    stream = TextStream(TextTokenizer(tmp_path))
    assert [stream.add(token) for token in (1, 2, 3, 4)] == ["a", " b", "c", " d"]
