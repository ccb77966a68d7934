"""Tokenizers in the folder of a Hugging Face checkpoint: copied, or built of the pieces in ``tokenizer.model``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from onnxquant.errors import CheckpointError, OutputError, shown
from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.language.chat_template import KEY, chat_template
from onnxquant.language.fields import Fields, JsonFiles
from onnxquant.language.folder_names import (
    ADDED_TOKENS,
    BESIDE_TOKENIZER,
    CONFIG,
    GENERATION,
    PIECES,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from onnxquant.language.special_tokens import SpecialTokens
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
from onnxquant.language.tokenizers.tokenizer import Pieces, Tokenizer, TokenizerFacts
from onnxquant.language.tokenizers.vocabulary import MOST_TOKENS, TokenKind, Vocabulary

# Other tokenizers' files, which messages name.
_OTHERS = ("vocab.json", "merges.txt", "tekken.json", "tokenizer.tiktoken", "qwen.tiktoken", "spiece.model")
# Classes of which onnxruntime-genai takes the tokenizer from tokenizer.json.
_KNOWN_CLASSES = (
    "CLIPTokenizer", "CodeGenTokenizer", "CodeLlamaTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "GemmaTokenizer",
    "InternLM2Tokenizer", "LlamaTokenizer", "Phi3Tokenizer", "PreTrainedTokenizer", "Qwen2Tokenizer", "TokenizersBackend",
)  # fmt: skip
_SPACE_SIGN = "\u2581"
# Steps of a tokenizer around its model.
_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def has_hub_tokenizer(folder: Path) -> bool:
    """Whether a checkpoint's folder has files of a tokenizer, of any kind."""
    return any((folder / name).exists() for name in (TOKENIZER, PIECES, *_OTHERS))


def write_hub_tokenizer(files: JsonFiles, output: Path, rows: int | None) -> TokenizerFacts:
    """Write the tokenizer of a checkpoint's folder into another.

    Args:
        files: files of the checkpoint's folder.
        output: folder to write into.
        rows: rows of the table of embeddings; None: not known.

    Raises:
        CheckpointError: it has no tokenizer, or one that is damaged or of a kind that is not known.
        OutputError: the files cannot be written.
    """
    if files.has(TOKENIZER):
        return _copy(files, output, rows)
    if files.has(PIECES):
        return _build(files, output, rows)
    others = [name for name in _OTHERS if files.has(name)]
    raise CheckpointError(
        f"{files.folder}: has no {TOKENIZER} and no {PIECES}{' but ' if others else ''}{', '.join(others)}; save the "
        "tokenizer with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )


def _token_text(files: JsonFiles, name: str) -> str | None:
    """The text of a special token; None where no file names one."""
    for file in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        value = files.fields(file).get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            return value
    return None


def _declared_ids(files: JsonFiles, name: str) -> list[int]:
    """The ids that the configurations of generation and of the model have under a name; none is below 0."""
    ids: list[int] = []
    for file in (GENERATION, CONFIG):
        fields = files.fields(file)
        inner = fields.get("text_config")
        values = [fields.get(name), inner.get(name) if isinstance(inner, dict) else None]
        for value in values:
            listed = value if isinstance(value, list) else [value]
            ids += [entry for entry in listed if type(entry) is int and entry >= 0]
    return ids


@dataclass(frozen=True)
class _Known:
    """The tokens that files name, as ids."""

    files: JsonFiles
    ids: Mapping[str, int]
    size: int

    def special(self, default: SpecialTokens) -> SpecialTokens:
        """The tokens that begin, end and fill texts; those of a default where no file names them."""
        ends = [*_declared_ids(self.files, "eos_token_id"), *self._named("eos_token")]
        return replace(
            default,
            bos=self._first("bos_token", default.bos),
            eos=tuple(dict.fromkeys(self._checked(number, "eos_token_id") for number in ends)) or default.eos,
            pad=self._first("pad_token", default.pad),
            unknown=next(iter(self._named("unk_token")), default.unknown),
        )

    def _first(self, name: str, default: int | None) -> int | None:
        """The token that the tokenizer's files name, or else the model's."""
        for number in (*self._named(name), *_declared_ids(self.files, f"{name}_id")):
            return self._checked(number, f"{name}_id")
        return default

    def _named(self, name: str) -> list[int]:
        text = _token_text(self.files, name)
        if text is None:
            return []
        if text not in self.ids:
            raise self.files.error(TOKENIZER_CONFIG, f"{name} is {shown(text)}, which is not in the vocabulary")
        return [self.ids[text]]

    def _checked(self, number: int, name: str) -> int:
        if number >= self.size:
            raise self.files.error(
                CONFIG, f"{name} is {number} here or in {GENERATION}; expected an id below {self.size}"
            )
        return number


def _copy(files: JsonFiles, output: Path, rows: int | None) -> TokenizerFacts:
    """Copy tokenizer.json and what stands beside it."""
    data = dict(files.fields(TOKENIZER).entries)
    _refuse_other_types(files.fields(TOKENIZER))
    ids = _ids(files, data)
    size = max(ids.values()) + 1
    _refuse_larger(files, TOKENIZER, size, rows)
    known = _Known(files, ids, max(size, rows or 0))
    special, template = known.special(SpecialTokens()), _template(files)
    if data != (changed := portable(data)):
        write_json(output / TOKENIZER, changed)
    else:
        _copy_file(files.folder / TOKENIZER, output)
    is_whole = _is_whole_text(data)
    write_json(output / TOKENIZER_CONFIG, _config(files.fields(TOKENIZER_CONFIG).entries, template, is_whole))
    for name in BESIDE_TOKENIZER:
        if files.has(name):
            _copy_file(files.folder / name, output)
    bos = [text for text, number in ids.items() if number == special.bos]
    adds_bos = bool(bos) and any(text in bos for text in _template_tokens(data.get("post_processor")))
    notes = (WHOLE_TEXT_NOTE,) if is_whole else ()
    return TokenizerFacts(size, replace(special, adds_bos=adds_bos), template, notes)


def _refuse_other_types(tokenizer: Fields) -> None:
    """Refuse entries of a tokenizer.json that no reader takes for what they should be."""
    model = tokenizer.inner("model")
    if model.has("merges"):
        model.array("merges")
    for fields, name in ((tokenizer, "version"), (model, "type"), (model, "unk_token")):
        if fields.has(name):
            fields.text(name)
    for name in _STEPS:
        if tokenizer.has(name):
            tokenizer.inner(name).text("type")
    for name in ("truncation", "padding"):
        tokenizer.inner(name)


def _template(files: JsonFiles) -> str | None:
    template = chat_template(files)
    return None if template is None else template.text


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


def _config(entries: Mapping[str, JsonValue], template: str | None, is_whole: bool) -> JsonObject:
    """tokenizer_config.json with a class that onnxruntime-genai reads rightly, and the one template that it takes."""
    data, name = dict(entries), entries.get("tokenizer_class")
    if is_whole:
        data["tokenizer_class"] = WHOLE_TEXT_CLASS
    elif not isinstance(name, str) or name.removesuffix("Fast") not in _KNOWN_CLASSES:
        data["tokenizer_class"] = GENERIC_CLASS
    if template is not None:
        data[KEY] = template
    return data


def _ids(files: JsonFiles, data: JsonObject) -> dict[str, int]:
    """Ids of all tokens of a tokenizer.json by their texts."""
    model, added = data.get("model"), data.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # of a unigram model: pairs of a piece and its score
        pieces = [entry[0] for entry in vocabulary if isinstance(entry, list) and entry]
        vocabulary = {text: number for number, text in enumerate(pieces) if isinstance(text, str)}
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise files.error(TOKENIZER, "has no vocabulary; expected a model with a vocab")
    if wrong := [entry for entry in added if not isinstance(entry, dict)]:
        raise files.error(TOKENIZER, f"added_tokens has {shown(wrong[0])}; expected objects")
    named = [(entry.get("content"), entry.get("id")) for entry in added if isinstance(entry, dict)]
    ids: dict[str, int] = {}
    for text, number in [*vocabulary.items(), *named]:
        if not isinstance(text, str) or type(number) is not int or not 0 <= number < MOST_TOKENS:
            raise files.error(
                TOKENIZER, f"the token {shown(text)} has the id {shown(number)}; expected 0 to {MOST_TOKENS - 1}"
            )
        ids[text] = number
    if not ids:
        raise files.error(TOKENIZER, "its vocabulary is empty")
    return ids


def _refuse_larger(files: JsonFiles, name: str, size: int, rows: int | None) -> None:
    """Refuse ids that the table of embeddings has no row for."""
    if rows is not None and size > rows:
        raise files.error(
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


def _build(files: JsonFiles, output: Path, rows: int | None) -> TokenizerFacts:
    """Build tokenizer.json of the pieces of a tokenizer.model and the tokens that other files add."""
    pieces = read_pieces(files.folder / PIECES)
    added = _added(files, len(pieces.texts))
    vocabulary = _with_added(files, pieces, added)
    _refuse_larger(files, PIECES, vocabulary.size, rows)
    scores = (*pieces.scores, *[0.0] * (vocabulary.size - len(pieces.scores)))
    config = files.fields(TOKENIZER_CONFIG)
    special = _Known(files, vocabulary.ids, max(vocabulary.size, rows or 0)).special(pieces.special)
    special = replace(
        special,
        adds_bos=config.get("add_bos_token") is not False and special.bos is not None,
        adds_eos=config.get("add_eos_token") is True and bool(special.eos),
    )
    splitting = Pieces(pieces.has_prefix and config.get("add_prefix_space") is not False)
    strips = frozenset(number for number, token in added.items() if token.strips_right)
    tokenizer = Tokenizer(vocabulary, scored_merges(vocabulary, scores), splitting, special, strips, _template(files))
    facts = write_files(tokenizer, output)
    if files.has(GENERATION):
        _copy_file(files.folder / GENERATION, output)
    return facts


@dataclass(frozen=True)
class _AddedToken:
    """A token that a file beside the pieces adds, or says more of."""

    text: str
    is_special: bool
    strips_right: bool = False


def _added(files: JsonFiles, count: int) -> dict[int, _AddedToken]:
    """Tokens by id that files beside the pieces add."""
    tokens: dict[int, _AddedToken] = {}
    for text, number in files.fields(ADDED_TOKENS).entries.items():
        tokens[_added_id(files, ADDED_TOKENS, number, count)] = _AddedToken(text, True)
    described = files.fields(TOKENIZER_CONFIG).get("added_tokens_decoder")
    for key, entry in (described if isinstance(described, dict) else {}).items():
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(content, str) or not key.isdecimal():
            raise files.error(
                TOKENIZER_CONFIG, f"added_tokens_decoder has {shown(entry)} under {shown(key)}; expected a token"
            )
        number = _added_id(files, TOKENIZER_CONFIG, int(key[:20]), count)
        tokens[number] = _AddedToken(content, entry.get("special") is True, entry.get("rstrip") is True)
    return tokens


def _added_id(files: JsonFiles, name: str, number: JsonValue, count: int) -> int:
    most = min(MOST_TOKENS, 2 * count + 1024)  # ids between are filled, so that none may be far away
    if type(number) is not int or not 0 <= number < most:
        raise files.error(name, f"an added token has the id {shown(number)}; expected 0 to {most - 1}")
    return number


def _with_added(files: JsonFiles, pieces: PieceModel, added: Mapping[int, _AddedToken]) -> Vocabulary:
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
    return Vocabulary(str(files.folder / PIECES), tuple(texts), tuple(kinds))
