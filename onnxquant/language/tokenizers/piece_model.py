"""``tokenizer.model``: SentencePiece's file, a message of protobuf with pieces, their scores and kinds."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from onnxquant.errors import CheckpointError
from onnxquant.interchange.cursor import MappedFile
from onnxquant.language.folder_names import TOKENIZER
from onnxquant.language.special_tokens import SpecialTokens
from onnxquant.language.tokenizers.vocabulary import TokenKind

# Numbers of the fields that are read: of the file, of a piece, of its trainer, of its normalizer.
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_METHOD, _UNKNOWN, _BOS, _EOS, _PAD = 3, 40, 41, 42, 43
_CHARACTER_MAP, _ADDS_PREFIX = 2, 3
# The method of byte pair encoding, among those of SentencePiece.
_BYTE_PAIRS, _METHODS = 2, {1: "unigram", 2: "byte pairs", 3: "words", 4: "characters"}
# Wire types of protobuf, the bytes of two of them, and the bits of the longest integer.
_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_WIDTHS = {1: 8, _FIXED32: 4}
_LONGEST_VARINT = 70


@dataclass(frozen=True)
class PieceModel:
    """The pieces of a file.

    Attributes:
        texts: text of each piece.
        scores: score of each.
        kinds: kind of each.
        has_prefix: whether a space is put before a text.
        special: pieces that begin, end and fill texts; neither is added by itself.
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[TokenKind, ...]
    has_prefix: bool
    special: SpecialTokens


def read_pieces(path: Path) -> PieceModel:
    """The pieces of a file.

    Raises:
        CheckpointError: it cannot be read, is damaged, or is of another method than byte pair encoding.
    """
    texts: list[str] = []
    scores: list[float] = []
    kinds: list[TokenKind] = []
    trainer, normalizer = _Message(path), _Message(path)
    for entry in _entries(_Bytes(path, MappedFile.open(path).data.tobytes())):
        if entry.number == _PIECE:
            piece = entry.message(path)
            texts.append(piece.text(_TEXT, f"piece {len(texts)}"))
            scores.append(piece.float(_SCORE))
            kinds.append(_kind(path, len(kinds), piece.integer(_KIND, int(TokenKind.NORMAL))))
        elif entry.number == _TRAINER:
            trainer = entry.message(path)
        elif entry.number == _NORMALIZER:
            normalizer = entry.message(path)
    if (method := trainer.integer(_METHOD, 1)) != _BYTE_PAIRS:
        raise CheckpointError(
            f"{path}: its pieces are of the method {_METHODS.get(method, method)}; expected {_METHODS[_BYTE_PAIRS]}"
        )
    if normalizer.raw(_CHARACTER_MAP):
        raise CheckpointError(
            f"{path}: normalizes texts by a table of characters, which onnxquant does not write; save the tokenizer with "
            f"transformers, as {TOKENIZER}"
        )
    unknown, bos, eos, pad = (
        _id(path, trainer.integer(field, default), len(texts))
        for field, default in ((_UNKNOWN, 0), (_BOS, 1), (_EOS, 2), (_PAD, -1))
    )
    special = SpecialTokens(bos, () if eos is None else (eos,), pad, unknown)
    return PieceModel(tuple(texts), tuple(scores), tuple(kinds), bool(normalizer.integer(_ADDS_PREFIX, 1)), special)


def _kind(path: Path, number: int, value: int) -> TokenKind:
    try:
        return TokenKind(value)
    except ValueError:
        raise CheckpointError(
            f"{path}: piece {number} is of kind {value}; expected 1 to {int(TokenKind.BYTE)}"
        ) from None


def _id(path: Path, number: int, count: int) -> int | None:
    """The id of a special piece, which is below 0 where there is none."""
    if number >= count:
        raise CheckpointError(
            f"{path}: piece {number} begins, ends or fills texts, and there are {count}; is it whole?"
        )
    return number if number >= 0 else None


@dataclass(frozen=True)
class _Entry:
    """A field of a message: its number, its wire type, and its value as bytes or as an integer."""

    number: int
    type: int
    value: bytes | int

    def message(self, path: Path) -> _Message:
        """The fields of a message inside."""
        if not isinstance(self.value, bytes):
            raise CheckpointError(f"{path}: field {self.number} is of wire type {self.type}; expected a message")
        return _Message(path, {entry.number: entry for entry in _entries(_Bytes(path, self.value))})


@dataclass(frozen=True)
class _Message:
    """The fields of a message by number; of several with one number the last, as protobuf has it."""

    path: Path
    fields: dict[int, _Entry] = field(default_factory=dict)

    def raw(self, number: int, kind: int = _BYTES) -> bytes:
        """A field of bytes; empty where there is none."""
        entry = self.fields.get(number)
        if entry is None:
            return b""
        if not isinstance(entry.value, bytes) or entry.type != kind:
            raise CheckpointError(f"{self.path}: field {number} is of wire type {entry.type}; expected {kind}")
        return entry.value

    def text(self, number: int, what: str) -> str:
        """A field of text."""
        try:
            return self.raw(number).decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.path}: {what} is not UTF-8") from None

    def float(self, number: int) -> float:
        """A field of a 32-bit float; 0 where there is none."""
        (value,) = struct.unpack("<f", self.raw(number, _FIXED32) or bytes(4))
        return float(value)

    def integer(self, number: int, default: int) -> int:
        """A field of an integer, signed."""
        entry = self.fields.get(number)
        if entry is None:
            return default
        if not isinstance(entry.value, int):
            raise CheckpointError(f"{self.path}: field {number} is of wire type {entry.type}; expected {_VARINT}")
        return entry.value - (1 << 64) if entry.value >> 63 else entry.value


def _entries(data: _Bytes) -> Iterator[_Entry]:
    """The fields of a message, in their order."""
    while data.at < len(data.raw):
        key = data.varint()
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            yield _Entry(number, kind, data.varint())
        elif kind in _WIDTHS:
            yield _Entry(number, kind, data.take(_WIDTHS[kind]))
        elif kind == _BYTES:
            yield _Entry(number, kind, data.take(data.varint()))
        else:
            raise data.error(f"field {number} is of wire type {kind}")


@dataclass
class _Bytes:
    """A place in a message; every read moves it on."""

    path: Path
    raw: bytes
    at: int = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > len(self.raw) - self.at:
            raise self.error(f"{count} bytes should follow, and {len(self.raw) - self.at} do")
        self.at += count
        return self.raw[self.at - count : self.at]

    def varint(self) -> int:
        """The next integer, seven bits in a byte."""
        value = shift = 0
        while self.at < len(self.raw) and shift < _LONGEST_VARINT:
            byte = self.raw[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (1 << 64) - 1
            shift += 7
        raise self.error("an integer has no end")

    def error(self, sentence: str) -> CheckpointError:
        """The error of damage."""
        return CheckpointError(f"{self.path}: {sentence}; is it a whole file of SentencePiece?")
