"""Metadata of GGUF files: keys with typed values, kept as the bytes that they are in the file.

A value of a file is decoded when it is asked for, so that a vocabulary of a million words takes no memory before.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import cast

import numpy as np

from onnxquant.interchange.cursor import Cursor
from onnxquant.json_data import JsonValue
from onnxquant.numerics.arrays import Bytes

ALIGNMENT, DEFAULT_ALIGNMENT = "general.alignment", 32
# What most weights of a model are, as llama.cpp counts its types of files; it guesses where a file does not say so.
_FILE_TYPE = "general.file_type"
_FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 11, "q4_k": 14,
    "q5_k": 16, "q6_k": 18, "iq4_nl": 25, "bf16": 32, "tq1_0": 36, "tq2_0": 37, "mxfp4": 38,
}  # fmt: skip
_VERSION_KEY, _VERSION = "general.quantization_version", 2
_BOOL, _STRING, _ARRAY = 7, 8, 9
_DTYPES = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1", 10: "<u8", 11: "<i8", 12: "<f8"}
_UINT32, _INT32, _FLOAT32, _UINT64, _INT64, _FLOAT64 = 4, 5, 6, 10, 11, 12
_LONGEST_KEY, _LONGEST_STRING = 1 << 16, 1 << 30
# Texts in one file.
_MOST_STRINGS = 1 << 22


@dataclass(frozen=True)
class _Entry:
    """A value: its type, and where it lies."""

    type: int
    raw: Bytes


class GgufMetadata(Mapping[str, JsonValue]):
    """Values by key; each has the type that the file gives it.

    Args:
        entries: type and bytes of each value.
        path: the file that they are of, for errors.
    """

    def __init__(self, entries: Mapping[str, _Entry], path: Path) -> None:
        self._entries, self._path = dict(entries), path

    def __getitem__(self, key: str) -> JsonValue:
        """The value of a key."""
        entry = self._entries[key]
        return _value(Cursor(self._path, entry.raw), entry.type)

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._entries)

    def raw(self, key: str) -> bytes:
        """The bytes of an entry: key, type and value."""
        entry = self._entries[key]
        return _text(key) + struct.pack("<I", entry.type) + entry.raw.tobytes()

    def without(self, prefix: str) -> GgufMetadata:
        """The same without keys that begin so."""
        return GgufMetadata({k: v for k, v in self._entries.items() if not k.startswith(prefix)}, self._path)

    def of_format(self, name: str) -> GgufMetadata:
        """The same for a model whose weights became a format: its type of file, and the version of ggml's formats."""
        numbers = {_VERSION_KEY: _VERSION}
        if name in _FILE_TYPES:
            numbers[_FILE_TYPE] = _FILE_TYPES[name]
        entries = {
            key: _Entry(_UINT32, np.frombuffer(struct.pack("<I", value), np.uint8)) for key, value in numbers.items()
        }
        return GgufMetadata({**self.without(_FILE_TYPE)._entries, **entries}, self._path)


def read_metadata(cursor: Cursor, count: int) -> GgufMetadata:
    """The metadata of a file, whose entries begin at the cursor.

    Raises:
        CheckpointError: an entry is damaged, or a key is there twice.
    """
    entries: dict[str, _Entry] = {}
    strings = 0
    for number in range(count):
        key = cursor.text(f"the key of metadata entry {number}", _LONGEST_KEY)
        if key in entries:
            raise cursor.error(f"metadata has the key {key!r} twice")
        kind = cursor.number("I", f"the type of {key}")
        start = cursor.at
        strings += _skip(cursor, kind, key, _MOST_STRINGS - strings)
        entries[key] = _Entry(kind, cursor.data[start : cursor.at])
    return GgufMetadata(entries, cursor.path)


def _skip(cursor: Cursor, kind: int, key: str, most: int) -> int:
    """Go past a value; the number of texts in it."""
    if kind in _DTYPES:
        cursor.take(np.dtype(_DTYPES[kind]).itemsize, f"metadata {key}")
        return 0
    if kind == _STRING:
        cursor.take(_length(cursor, key), f"metadata {key}")
        return 1
    if kind != _ARRAY:
        raise cursor.error(f"metadata {key} is of type {kind}; expected 0 to 12")
    element, count = cursor.number("I", f"the type of {key}"), cursor.number("Q", f"the length of {key}")
    if element in _DTYPES:
        cursor.take(count * np.dtype(_DTYPES[element]).itemsize, f"metadata {key}")
        return 0
    if element != _STRING:
        raise cursor.error(f"metadata {key} is an array of type {element}; expected numbers or texts")
    if count > min(most, cursor.left // 8):
        raise cursor.error(
            f"metadata {key} says that it has {count} texts; expected {min(most, cursor.left // 8)} at most"
        )
    _skip_texts(cursor, count, key)
    return count


def _skip_texts(cursor: Cursor, count: int, key: str) -> None:
    """Go past many texts, as fast as Python can: vocabularies have a quarter of a million."""
    length_of, data, at = struct.Struct("<Q").unpack_from, cursor.data.data, cursor.at
    try:
        for _ in range(count):
            at += 8 + length_of(data, at)[0]
    except (struct.error, OverflowError):
        at = len(data) + 1
    cursor.take(at - cursor.at, f"metadata {key}")


def _length(cursor: Cursor, key: str) -> int:
    length = cursor.number("Q", f"the length of {key}")
    if length > _LONGEST_STRING:
        raise cursor.error(f"metadata {key} is {length} bytes long; expected {_LONGEST_STRING} at most")
    return length


def _value(cursor: Cursor, kind: int) -> JsonValue:
    """The value at a cursor; bytes of a text that are no UTF-8 are shown as signs of replacement."""
    if kind == _STRING:
        return cursor.take(cursor.number("Q", "a length"), "a text").tobytes().decode(errors="replace")
    if kind != _ARRAY:
        return _numbers(cursor, kind, 1)[0]
    element, count = cursor.number("I", "a type"), cursor.number("Q", "a length")
    if element == _STRING:
        return [_value(cursor, _STRING) for _ in range(count)]
    return _numbers(cursor, element, count)


def _numbers(cursor: Cursor, kind: int, count: int) -> list[JsonValue]:
    dtype = np.dtype(_DTYPES[kind])
    numbers = cursor.take(count * dtype.itemsize, "numbers").view(dtype)
    return cast(list[JsonValue], (numbers != 0 if kind == _BOOL else numbers).tolist())


def entries_of(metadata: Mapping[str, JsonValue], alignment: int) -> list[bytes]:
    """The entries of a file, as bytes: those of a GGUF file as they were, others by the types of JSON.

    Args:
        metadata: values by key.
        alignment: bytes that tensors begin at multiples of; said where it is not the usual number.
    """
    if isinstance(metadata, GgufMetadata):
        return [metadata.raw(key) for key in metadata]
    values = {key: value for key, value in metadata.items() if key != ALIGNMENT}
    if alignment != DEFAULT_ALIGNMENT:
        values[ALIGNMENT] = alignment
    return [_entry(key, value) for key, value in values.items()]


def _entry(key: str, value: JsonValue) -> bytes:
    """The bytes of an entry; what GGUF has no type for is a text of JSON."""
    kind = _type(value)
    if kind is None:
        kind, value = _STRING, json.dumps(value)
    return _text(key) + struct.pack("<I", kind) + _encoded(kind, value)


def _type(value: JsonValue) -> int | None:
    """The type that a value of JSON takes in a file, and llama.cpp expects for its keys; None: it has none."""
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return next((kind for kind in (_UINT32, _INT32, _UINT64, _INT64) if _fits(value, kind)), None)
    if isinstance(value, float):
        # llama.cpp refuses doubles for its keys, such as the epsilon 1e-5, which no float32 is.
        return _FLOAT64 if isfinite(value) and not isfinite(struct.unpack("<f", _single(value))[0]) else _FLOAT32
    if isinstance(value, str):
        return _STRING
    return _ARRAY if isinstance(value, list) and _element_type(value) is not None else None


def _fits(value: int, kind: int) -> bool:
    limits = np.iinfo(_DTYPES[kind])
    return int(limits.min) <= value <= int(limits.max)


def _single(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf"))


def _element_type(values: list[JsonValue]) -> int | None:
    """The type that all entries of an array take; None: there is none. llama.cpp's arrays of integers are signed."""
    whole = [value for value in values if type(value) is int]
    if len(whole) == len(values):
        return next((k for k in (_INT32, _UINT32, _INT64, _UINT64) if all(_fits(v, k) for v in whole)), None)
    kinds = {_type(value) for value in values}
    if kinds == {_FLOAT32, _FLOAT64}:
        return _FLOAT64
    (kind, *others) = kinds
    return None if others or kind == _ARRAY else kind


def _encoded(kind: int, value: JsonValue) -> bytes:
    """The bytes of a value of a type."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        element = cast(int, _element_type(value))
        return struct.pack("<IQ", element, len(value)) + b"".join(_encoded(element, entry) for entry in value)
    return np.array(value, _DTYPES[kind]).tobytes()


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
