"""Tokenizers in the metadata of GGUF files, under the keys and with the defaults of llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxquant.errors import CheckpointError
from onnxquant.json_data import JsonValue
from onnxquant.language.fields import Fields
from onnxquant.language.special_tokens import SpecialTokens
from onnxquant.language.tokenizers.merges import listed_merges, scored_merges
from onnxquant.language.tokenizers.patterns import WORDS, unknown_words
from onnxquant.language.tokenizers.tokenizer import Pieces, Tokenizer
from onnxquant.language.tokenizers.vocabulary import SPECIAL, TokenKind, Vocabulary, of_length

_PREFIX, _MODEL, _PRE = "tokenizer.ggml.", "model", "pre"
_TOKENS, _KINDS, _SCORES, _MERGES = "tokens", "token_type", "scores", "merges"
_TEMPLATE = "tokenizer.chat_template"
_WORD_MODEL, _PIECE_MODEL = "gpt2", "llama"
# Ids of the tokens that begin a text, end it, and stand for unknown pieces, where a file with pieces does not say them.
_PIECE_DEFAULTS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
# Texts of tokens that end what a model says; files name one of them, and models say others, too.
_ENDINGS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<EOT>",
    "<end_of_utterance>", "<｜end▁of▁sentence｜>", "</s>",
)  # fmt: skip
# The one of these that may be plain text in a vocabulary.
_PLAIN_ENDING = "</s>"
# Models whose special tokens take the white space behind them, and the tokens of these that do not.
_STRIPPING_NAMES, _NOT_STRIPPING = ("phi-3", "phi3"), ("<unk>", "<s>", "<|endoftext|>")


def tokenizer_of_gguf(path: Path, metadata: Mapping[str, JsonValue]) -> Tokenizer:
    """The tokenizer in a file's metadata.

    Args:
        path: the file, for messages.
        metadata: values by key.

    Raises:
        CheckpointError: it is of a kind that is not known, or its metadata contradict each other.
    """
    entries = Fields(str(path), metadata, _PREFIX)
    model = entries.text(_MODEL)
    if model not in (_WORD_MODEL, _PIECE_MODEL):
        raise entries.error(
            _MODEL, model, f"{_WORD_MODEL} or {_PIECE_MODEL}, the kinds of tokenizers that onnxquant knows"
        )
    return _of_words(entries) if model == _WORD_MODEL else _of_pieces(entries)


def _token(entries: Fields, vocabulary: Vocabulary, name: str, default: int | None) -> int | None:
    """An entry that is the id of a token; a default that the vocabulary does not have is none."""
    if entries.has(name):
        return vocabulary.checked_id(entries.get(name), _PREFIX + name)
    return default if default is not None and default < vocabulary.size else None


def _of_words(entries: Fields) -> Tokenizer:
    """The tokenizer of a file with merges of bytes."""
    name = entries.text(_PRE, "default")
    if name not in WORDS:
        raise CheckpointError(f"{entries.place}: {_PREFIX}{_PRE}: {unknown_words(name)}")
    words, vocabulary = WORDS[name], _vocabulary(entries)
    merges = listed_merges(vocabulary, entries.array(_MERGES))
    special = _special(entries, vocabulary, {}, words.adds_bos)
    return Tokenizer(vocabulary, merges, words, special, _stripping(entries, vocabulary), _chat_template(entries))


def _of_pieces(entries: Fields) -> Tokenizer:
    """The tokenizer of a file with scores of pieces."""
    vocabulary = _vocabulary(entries)
    scores = [
        _score(entries, value)
        for value in of_length(entries.place, _PREFIX + _SCORES, entries.array(_SCORES), vocabulary.size)
    ]
    merges, pieces = scored_merges(vocabulary, scores), Pieces(entries.flag("add_space_prefix", default=True))
    special = _special(entries, vocabulary, _PIECE_DEFAULTS, True)
    return Tokenizer(vocabulary, merges, pieces, special, _stripping(entries, vocabulary), _chat_template(entries))


def _score(entries: Fields, value: JsonValue) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise entries.error(_SCORES, value, "numbers")
    return float(value)


def _vocabulary(entries: Fields) -> Vocabulary:
    """The tokens of a file; one that looks like the end of what a model says is a control token, whatever the file says."""
    place, texts = entries.place, entries.array(_TOKENS)
    kinds = entries.array(_KINDS) if entries.has(_KINDS) else [int(TokenKind.NORMAL)] * len(texts)
    of_length(place, _PREFIX + _KINDS, kinds, len(texts))
    tokens = [_token_text(entries, number, text) for number, text in enumerate(texts)]
    return Vocabulary(place, tuple(tokens), tuple(map(_Kinds(entries).kind, tokens, kinds)))


def _token_text(entries: Fields, number: int, text: JsonValue) -> str:
    if not isinstance(text, str):
        raise entries.error(_TOKENS, text, "texts")
    return text or f"[EMPTY_{number}]"


@dataclass(frozen=True)
class _Kinds:
    """Kinds of tokens from the numbers of a file."""

    entries: Fields

    def kind(self, text: str, value: JsonValue) -> TokenKind:
        """The kind of a token."""
        if type(value) is not int or not 0 <= value <= TokenKind.BYTE:
            raise self.entries.error(_KINDS, value, f"numbers from 1 to {int(TokenKind.BYTE)}")
        if text in _ENDINGS and text != _PLAIN_ENDING:
            return TokenKind.CONTROL
        return TokenKind(value) if value else TokenKind.UNUSED


def _special(entries: Fields, vocabulary: Vocabulary, defaults: Mapping[str, int], adds_bos: bool) -> SpecialTokens:
    """The tokens that begin, end and fill texts."""

    def token(name: str) -> int | None:
        return _token(entries, vocabulary, name, defaults.get(name))

    stated = [token("eos_token_id"), token("eot_token_id"), token("eom_token_id")]
    known = [vocabulary.ids.get(text) for text in _ENDINGS]
    endings = [number for number in known if number is not None and vocabulary.kinds[number] in SPECIAL]
    bos, eos = token("bos_token_id"), [number for number in stated if number is not None]
    return SpecialTokens(
        bos=bos,
        eos=tuple(dict.fromkeys([*eos, *endings])),
        pad=token("padding_token_id"),
        unknown=token("unknown_token_id"),
        adds_bos=entries.flag("add_bos_token", default=adds_bos) and bos is not None,
        adds_eos=entries.flag("add_eos_token", default=False) and bool(eos),
    )


def _stripping(entries: Fields, vocabulary: Vocabulary) -> frozenset[int]:
    """The tokens that take the white space behind them; no entry says so, but the name of the model."""
    name = entries.entries.get("general.name")
    if not isinstance(name, str) or not any(part in name.lower() for part in _STRIPPING_NAMES):
        return frozenset()
    return frozenset(
        number
        for number, (text, kind) in enumerate(zip(vocabulary.texts, vocabulary.kinds, strict=True))
        if (kind in SPECIAL or kind == TokenKind.USER_DEFINED) and text not in _NOT_STRIPPING
    )


def _chat_template(entries: Fields) -> str | None:
    whole = Fields(entries.place, entries.entries)
    return whole.text(_TEMPLATE) if whole.has(_TEMPLATE) else None
