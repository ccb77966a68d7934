"""``tokenizer.json`` and ``tokenizer_config.json``, as the package tokenizers and onnxruntime-genai read them alike."""

from __future__ import annotations

import json
from pathlib import Path

from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.language.chat_template import KEY
from onnxquant.language.folder_names import TOKENIZER, TOKENIZER_CONFIG
from onnxquant.language.tokenizers.patterns import Words
from onnxquant.language.tokenizers.portable import byte_level, split
from onnxquant.language.tokenizers.tokenizer import Pieces, Tokenizer, TokenizerFacts
from onnxquant.language.tokenizers.vocabulary import CUT_OUT, SPECIAL
from onnxquant.system.files import atomically

# The class that every reader takes for what tokenizer.json says; others rebuild the tokenizer by rules of their own.
GENERIC_CLASS = "PreTrainedTokenizerFast"
# Where a space is put before a text, onnxruntime-genai cuts words by a pattern that is not the tokenizer's for any class but
# this one.
WHOLE_TEXT_CLASS = "GemmaTokenizer"
WHOLE_TEXT_NOTE = (
    f"{TOKENIZER_CONFIG} names the class {WHOLE_TEXT_CLASS}, by which onnxruntime-genai takes a text as a whole; in "
    f"transformers open the folder with {GENERIC_CLASS}, since AutoTokenizer goes by that class and leaves out the space "
    "before a text"
)
_SPACE_SIGN = "\u2581"
_NOT_PORTABLE = (
    "onnxruntime-genai does not know a pattern by which this tokenizer cuts words: it refuses it or cuts otherwise; give it "
    "token ids of the package tokenizers"
)


def write_files(tokenizer: Tokenizer, folder: Path) -> TokenizerFacts:
    """Write the two files of a tokenizer into a folder.

    Raises:
        OutputError: they cannot be written.
    """
    write_json(folder / TOKENIZER, _tokenizer(tokenizer))
    write_json(folder / TOKENIZER_CONFIG, _config(tokenizer))
    splitting = tokenizer.splitting
    notes = []
    if isinstance(splitting, Words) and not splitting.portable:
        notes.append(_NOT_PORTABLE)
    if isinstance(splitting, Words) and (missing := tokenizer.vocabulary.missing_bytes):
        notes.append(
            f"the vocabulary has no token for the bytes {' '.join(f'{value:02X}' for value in missing)}: they are lost in a "
            "text, and onnxruntime-genai gives the id -1 for them"
        )
    if _has_prefix(tokenizer):
        notes.append(WHOLE_TEXT_NOTE)
    return TokenizerFacts(tokenizer.vocabulary.size, tokenizer.special, tokenizer.chat_template, tuple(notes))


def write_json(path: Path, data: JsonObject) -> None:
    """Write a file of JSON.

    Raises:
        OutputError: it cannot be written.
    """
    with atomically(
        path
    ) as stream:  # not indented: that takes several times as long with a quarter of a million tokens
        stream.write(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def _tokenizer(tokenizer: Tokenizer) -> JsonObject:
    """The entries of tokenizer.json."""
    is_words = isinstance(tokenizer.splitting, Words)
    data: JsonObject = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokenizer),
        **(_of_words(tokenizer.splitting) if isinstance(tokenizer.splitting, Words) else _of_pieces(tokenizer)),
    }
    if template := _template(tokenizer):
        data["post_processor"] = template
    unknown = _text(tokenizer, tokenizer.special.unknown)
    data["model"] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if is_words else unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": not is_words,
        "byte_fallback": not is_words and tokenizer.vocabulary.has_bytes,
        "ignore_merges": isinstance(tokenizer.splitting, Words) and tokenizer.splitting.keeps_tokens,
        "vocab": dict(tokenizer.vocabulary.ids),
        "merges": [list(merge) for merge in tokenizer.merges],
    }
    return data


def _of_words(words: Words) -> JsonObject:
    """The entries of a tokenizer that cuts a text into words, and these into bytes."""
    steps = [*map(split, words.patterns), byte_level()]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": byte_level(),
    }


def _of_pieces(tokenizer: Tokenizer) -> JsonObject:
    """The entries of a tokenizer that takes a text as a whole, with a sign for each space."""
    normalizers: list[JsonValue] = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE_SIGN}]
    decoders: list[JsonValue] = [
        {"type": "Replace", "pattern": {"String": _SPACE_SIGN}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    splits: JsonValue = None
    if _has_prefix(tokenizer):
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE_SIGN})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    else:  # no text has a space by then: it cuts nothing, and tells onnxruntime-genai so
        splits = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": splits,
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _added_tokens(tokenizer: Tokenizer) -> list[JsonValue]:
    """The tokens that are cut out of a text before it is split, as tokenizer.json lists them."""
    return [{"id": number, **token} for number, token in _cut_out(tokenizer).items()]


def _cut_out(tokenizer: Tokenizer) -> dict[int, JsonObject]:
    """The tokens that are cut out of a text before it is split, by id."""
    vocabulary = tokenizer.vocabulary
    return {
        number: {
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": number in tokenizer.strips_right,
            "normalized": False,
            "special": kind in SPECIAL,
        }
        for number, (text, kind) in enumerate(zip(vocabulary.texts, vocabulary.kinds, strict=True))
        if kind in CUT_OUT
    }


def _template(tokenizer: Tokenizer) -> JsonObject | None:
    """The step that adds the first and the last token to a text; None where none is added."""
    special = tokenizer.special
    first = special.bos if special.adds_bos else None
    last = special.eos[0] if special.adds_eos and special.eos else None
    if first is None and last is None:
        return None

    def sequence(number: int) -> list[JsonValue]:
        text: JsonValue = {"Sequence": {"id": "AB"[number], "type_id": number}}
        before, behind = ([added(token, number)] if token is not None else [] for token in (first, last))
        return [*before, text, *behind]

    def added(token: int, number: int) -> JsonValue:
        return {"SpecialToken": {"id": tokenizer.vocabulary.texts[token], "type_id": number}}

    return {
        "type": "TemplateProcessing",
        "single": sequence(0),
        "pair": [*sequence(0), *sequence(1)],
        "special_tokens": {
            text: {"id": text, "ids": [token], "tokens": [text]}
            for token in (first, last)
            if token is not None and (text := tokenizer.vocabulary.texts[token])
        },
    }


def _config(tokenizer: Tokenizer) -> JsonObject:
    """The entries of tokenizer_config.json."""
    special = tokenizer.special
    data: JsonObject = {
        "tokenizer_class": WHOLE_TEXT_CLASS if _has_prefix(tokenizer) else GENERIC_CLASS,
        "add_bos_token": special.adds_bos,
        "add_eos_token": special.adds_eos,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(number): token for number, token in _cut_out(tokenizer).items()},
    }
    names = {"bos_token": special.bos, "eos_token": next(iter(special.eos), None), "pad_token": special.pad,
             "unk_token": special.unknown}  # fmt: skip
    data |= {name: text for name, number in names.items() if (text := _text(tokenizer, number))}
    if tokenizer.chat_template is not None:
        data[KEY] = tokenizer.chat_template
    return data


def _text(tokenizer: Tokenizer, number: int | None) -> str | None:
    return None if number is None else tokenizer.vocabulary.texts[number]


def _has_prefix(tokenizer: Tokenizer) -> bool:
    """Whether a space is put before a text."""
    return isinstance(tokenizer.splitting, Pieces) and tokenizer.splitting.has_prefix
