"""Tokenizers in the folder of a Hugging Face checkpoint: copied, or built of the pieces in ``tokenizer.model``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from onnxquant.errors import CheckpointError, OutputError, shown
from onnxquant.interchange.cursor import json_file
from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.language.folder_names import (
    ADDED_TOKENS,
    BESIDE_TOKENIZER,
    CHAT_TEMPLATE,
    CONFIG,
    GENERATION,
    OLD_CHAT_TEMPLATE,
    PIECES,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from onnxquant.language.tokenizers.files import (
    GENERIC_CLASS,
    WHOLE_TEXT_CLASS,
    WHOLE_TEXT_NOTE,
    write_files,
    write_json,
)
from onnxquant.language.tokenizers.merges import scored_merges
from onnxquant.language.tokenizers.piece_model import PieceModel, read_pieces
from onnxquant.language.tokenizers.portable import portable
from onnxquant.language.tokenizers.tokenizer import Pieces, SpecialIds, Tokenizer, TokenizerFacts
from onnxquant.language.tokenizers.vocabulary import MOST_TOKENS, TokenKind, Vocabulary

# Other tokenizers' files, which messages name.
_OTHERS = ("vocab.json", "merges.txt", "tekken.json", "tokenizer.tiktoken", "qwen.tiktoken", "spiece.model")
_LONGEST_TEMPLATE = 1 << 22
# Bytes of a file that would pay for the largest tokenizer.json; see ``json_file``.
_ALLOWANCE = 1 << 28
# Classes of which onnxruntime-genai takes the tokenizer from tokenizer.json.
_KNOWN_CLASSES = (
    "CLIPTokenizer", "CodeGenTokenizer", "CodeLlamaTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "GemmaTokenizer",
    "InternLM2Tokenizer", "LlamaTokenizer", "Phi3Tokenizer", "PreTrainedTokenizer", "Qwen2Tokenizer", "TokenizersBackend",
)  # fmt: skip
_SPACE_SIGN = "\u2581"


def has_hub_tokenizer(folder: Path) -> bool:
    """Whether a checkpoint's folder has files of a tokenizer, of any kind."""
    return any((folder / name).exists() for name in (TOKENIZER, PIECES, *_OTHERS))


def write_hub_tokenizer(folder: Path, output: Path, rows: int | None) -> TokenizerFacts:
    """Write the tokenizer of a checkpoint's folder into another.

    Args:
        folder: folder of the checkpoint.
        output: folder to write into.
        rows: rows of the table of embeddings; None: not known.

    Raises:
        CheckpointError: it has no tokenizer, or one that is damaged or of a kind that is not known.
        OutputError: the files cannot be written.
    """
    source = _Source(folder)
    if source.has(TOKENIZER):
        return _copy(source, output, rows)
    if source.has(PIECES):
        return _build(source, output, rows)
    others = [name for name in _OTHERS if source.has(name)]
    raise CheckpointError(
        f"{folder}: has no {TOKENIZER} and no {PIECES}{' but ' if others else ''}{', '.join(others)}; save the "
        "tokenizer with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )


@dataclass(frozen=True)
class _Source:
    """The files of a checkpoint that speak of its tokenizer."""

    folder: Path

    def has(self, name: str) -> bool:
        """Whether there is a file."""
        return (self.folder / name).is_file()

    def entries(self, name: str) -> JsonObject:
        """The entries of a file of JSON; none where it is missing."""
        return json_file(self.folder / name, _ALLOWANCE) if self.has(name) else {}

    def token(self, name: str) -> str | None:
        """The text of a special token; None where no file names one."""
        for file in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
            value = self.entries(file).get(name)
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                return value
        return None

    def ids(self, name: str) -> list[int]:
        """The ids that the configurations of generation and of the model have under a name; none is below 0."""
        ids: list[int] = []
        for file in (GENERATION, CONFIG):
            entries = self.entries(file)
            inner = entries.get("text_config")
            values = [entries.get(name), inner.get(name) if isinstance(inner, dict) else None]
            for value in values:
                listed = value if isinstance(value, list) else [value]
                ids += [entry for entry in listed if isinstance(entry, int) and entry >= 0 and entry is not True]
        return ids

    def template(self) -> str | None:
        """The template of a conversation: in a file of its own, or of several in a list the default one."""
        if self.has(CHAT_TEMPLATE):
            path = self.folder / CHAT_TEMPLATE
            if path.stat().st_size > _LONGEST_TEMPLATE:
                raise CheckpointError(f"{path}: has more than {_LONGEST_TEMPLATE} bytes")
            try:
                return path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise CheckpointError(f"{path}: is not UTF-8") from None
        for file in (TOKENIZER_CONFIG, OLD_CHAT_TEMPLATE):
            value = self.entries(file).get("chat_template")
            if isinstance(value, list):
                named = [entry for entry in value if isinstance(entry, dict) and entry.get("name") == "default"]
                value = named[0].get("template") if named else None
            if isinstance(value, str):
                return value
        return None

    def error(self, name: str, sentence: str) -> CheckpointError:
        """The error of a file."""
        return CheckpointError(f"{self.folder / name}: {sentence}")


@dataclass(frozen=True)
class _Known:
    """The tokens that files name, as ids."""

    source: _Source
    ids: Mapping[str, int]
    size: int

    def special(self, default: SpecialIds) -> SpecialIds:
        """The tokens that begin, end and fill texts; those of a default where no file names them."""
        ends = [*self.source.ids("eos_token_id"), *self._named("eos_token")]
        return replace(
            default,
            bos=self._first("bos_token", default.bos),
            eos=tuple(dict.fromkeys(self._checked(number, "eos_token_id") for number in ends)) or default.eos,
            pad=self._first("pad_token", default.pad),
            unknown=next(iter(self._named("unk_token")), default.unknown),
        )

    def _first(self, name: str, default: int | None) -> int | None:
        """The token that the tokenizer's files name, or else the model's."""
        for number in (*self._named(name), *self.source.ids(f"{name}_id")):
            return self._checked(number, f"{name}_id")
        return default

    def _named(self, name: str) -> list[int]:
        text = self.source.token(name)
        if text is None:
            return []
        if text not in self.ids:
            raise self.source.error(TOKENIZER_CONFIG, f"{name} is {shown(text)}, which is not in the vocabulary")
        return [self.ids[text]]

    def _checked(self, number: int, name: str) -> int:
        if number >= self.size:
            raise self.source.error(
                CONFIG, f"{name} is {number} here or in {GENERATION}; expected an id below {self.size}"
            )
        return number


def _copy(source: _Source, output: Path, rows: int | None) -> TokenizerFacts:
    """Copy tokenizer.json and what stands beside it."""
    data = source.entries(TOKENIZER)
    ids = _ids(source, data)
    size = max(ids.values()) + 1
    _refuse_larger(source, TOKENIZER, size, rows)
    known = _Known(source, ids, max(size, rows or 0))
    special, template = known.special(SpecialIds()), source.template()
    if data != (changed := portable(data)):
        write_json(output / TOKENIZER, changed)
    else:
        _copy_file(source.folder / TOKENIZER, output)
    is_whole = _is_whole_text(data)
    write_json(output / TOKENIZER_CONFIG, _config(source.entries(TOKENIZER_CONFIG), template, is_whole))
    for name in BESIDE_TOKENIZER:
        if source.has(name):
            _copy_file(source.folder / name, output)
    bos = [text for text, number in ids.items() if number == special.bos]
    adds_bos = bool(bos) and any(text in bos for text in _template_tokens(data.get("post_processor")))
    notes = (WHOLE_TEXT_NOTE,) if is_whole else ()
    return TokenizerFacts(size, special.bos, special.eos, special.pad, adds_bos, template, notes)


def _copy_file(path: Path, output: Path) -> None:
    try:
        shutil.copyfile(path, output / path.name)
    except OSError as error:
        raise OutputError(f"{output / path.name}: cannot be written: {error.strerror or error}") from None


def _is_whole_text(data: JsonObject) -> bool:
    """Whether a space is put before a text, and taken from what is decoded: pieces of SentencePiece with a prefix."""
    decoder = data.get("decoder")
    steps = decoder.get("decoders") if isinstance(decoder, dict) else None
    listed = steps if isinstance(steps, list) else []
    kinds = [(step.get("type"), step.get("content")) for step in listed if isinstance(step, dict)]
    return ("Strip", " ") in kinds and ("Replace", " ") in kinds


def _config(entries: JsonObject, template: str | None, is_whole: bool) -> JsonObject:
    """tokenizer_config.json with a class that onnxruntime-genai reads rightly, and the one template that it takes."""
    data, name = dict(entries), entries.get("tokenizer_class")
    if is_whole:
        data["tokenizer_class"] = WHOLE_TEXT_CLASS
    elif not isinstance(name, str) or name.removesuffix("Fast") not in _KNOWN_CLASSES:
        data["tokenizer_class"] = GENERIC_CLASS
    if template is not None:
        data["chat_template"] = template
    return data


def _ids(source: _Source, data: JsonObject) -> dict[str, int]:
    """Ids of all tokens of a tokenizer.json by their texts."""
    model, added = data.get("model"), data.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # of a unigram model: pairs of a piece and its score
        pieces = [entry[0] for entry in vocabulary if isinstance(entry, list) and entry]
        vocabulary = {text: number for number, text in enumerate(pieces) if isinstance(text, str)}
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise source.error(TOKENIZER, "has no vocabulary; expected a model with a vocab")
    named = [(entry.get("content"), entry.get("id")) for entry in added if isinstance(entry, dict)]
    ids: dict[str, int] = {}
    for text, number in [*vocabulary.items(), *named]:
        if not isinstance(text, str) or type(number) is not int or not 0 <= number < MOST_TOKENS:
            raise source.error(
                TOKENIZER, f"the token {shown(text)} has the id {shown(number)}; expected 0 to {MOST_TOKENS - 1}"
            )
        ids[text] = number
    if not ids:
        raise source.error(TOKENIZER, "its vocabulary is empty")
    return ids


def _refuse_larger(source: _Source, name: str, size: int, rows: int | None) -> None:
    """Refuse ids that the table of embeddings has no row for."""
    if rows is not None and size > rows:
        raise source.error(
            name, f"has the id {size - 1}, and the table of embeddings has {rows} rows; expected ids below {rows}"
        )


def _template_tokens(step: JsonValue) -> Iterator[str]:
    """The tokens that the last step of a tokenizer adds to a text."""
    if not isinstance(step, dict):
        return
    inner, single = step.get("processors"), step.get("single")
    for other in inner if isinstance(inner, list) else []:
        yield from _template_tokens(other)
    for entry in single if isinstance(single, list) else []:
        token = entry.get("SpecialToken") if isinstance(entry, dict) else None
        if isinstance(token, dict) and isinstance(token.get("id"), str):
            yield str(token["id"])


def _build(source: _Source, output: Path, rows: int | None) -> TokenizerFacts:
    """Build tokenizer.json of the pieces of a tokenizer.model and the tokens that other files add."""
    pieces = read_pieces(source.folder / PIECES)
    added = _added(source, len(pieces.texts))
    vocabulary = _with_added(source, pieces, added)
    _refuse_larger(source, PIECES, vocabulary.size, rows)
    scores = (*pieces.scores, *[0.0] * (vocabulary.size - len(pieces.scores)))
    config = source.entries(TOKENIZER_CONFIG)
    special = _Known(source, vocabulary.ids, max(vocabulary.size, rows or 0)).special(pieces.special)
    special = replace(
        special,
        adds_bos=config.get("add_bos_token", True) is not False and special.bos is not None,
        adds_eos=config.get("add_eos_token", False) is True and bool(special.eos),
    )
    splitting = Pieces(pieces.has_prefix and config.get("add_prefix_space") is not False)
    strips = frozenset(number for number, token in added.items() if token.strips_right)
    tokenizer = Tokenizer(vocabulary, scored_merges(vocabulary, scores), splitting, special, strips, source.template())
    facts = write_files(tokenizer, output)
    if source.has(GENERATION):
        _copy_file(source.folder / GENERATION, output)
    return facts


@dataclass(frozen=True)
class _AddedToken:
    """A token that a file beside the pieces adds, or says more of."""

    text: str
    is_special: bool
    strips_right: bool = False


def _added(source: _Source, count: int) -> dict[int, _AddedToken]:
    """Tokens by id that files beside the pieces add."""
    tokens: dict[int, _AddedToken] = {}
    for text, number in source.entries(ADDED_TOKENS).items():
        tokens[_added_id(source, ADDED_TOKENS, number, count)] = _AddedToken(text, True)
    described = source.entries(TOKENIZER_CONFIG).get("added_tokens_decoder")
    for key, entry in (described if isinstance(described, dict) else {}).items():
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(content, str) or not key.isdecimal():
            raise source.error(
                TOKENIZER_CONFIG, f"added_tokens_decoder has {shown(entry)} under {shown(key)}; expected a token"
            )
        number = _added_id(source, TOKENIZER_CONFIG, int(key[:20]), count)
        tokens[number] = _AddedToken(content, entry.get("special") is True, entry.get("rstrip") is True)
    return tokens


def _added_id(source: _Source, name: str, number: JsonValue, count: int) -> int:
    most = min(MOST_TOKENS, 2 * count + 1024)  # ids between are filled, so that none may be far away
    if type(number) is not int or not 0 <= number < most:
        raise source.error(name, f"an added token has the id {shown(number)}; expected 0 to {most - 1}")
    return number


def _with_added(source: _Source, pieces: PieceModel, added: Mapping[int, _AddedToken]) -> Vocabulary:
    """The pieces, and the tokens that are added to them; ids between stand for nothing."""
    texts, kinds = list(pieces.texts), list(pieces.kinds)
    for number in range(len(texts), max(added, default=-1) + 1):
        texts.append(f"[PAD{number}]")
        kinds.append(TokenKind.UNUSED)
    for number, token in added.items():
        texts[number] = token.text
        if kinds[number] != TokenKind.UNKNOWN:
            kinds[number] = TokenKind.CONTROL if token.is_special else TokenKind.USER_DEFINED
    for number, kind in enumerate(kinds):
        if kind == TokenKind.USER_DEFINED:  # they are found in a text before signs stand for its spaces
            texts[number] = texts[number].replace(_SPACE_SIGN, " ")
    return Vocabulary(str(source.folder / PIECES), tuple(texts), tuple(kinds))
