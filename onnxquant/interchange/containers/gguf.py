"""GGUF, the file of llama.cpp: versions 2 and 3, one file or several that are read as one.

Header: "GGUF", version, number of tensors, number of entries of metadata. Then the entries, then a name, a shape (the
fastest axis first), a type and an offset for each tensor, then their data, each at a multiple of ``general.alignment``.
Source: the GGUF specification of ggml (docs/gguf.md).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import cast

import numpy as np

from onnxquant.errors import CheckpointError, OutputError
from onnxquant.formats.base import Format
from onnxquant.interchange.blocks import blocks_of, from_blocks
from onnxquant.interchange.container import Container, Output
from onnxquant.interchange.cursor import Cursor, MappedFile, first_bytes
from onnxquant.interchange.ggml_types import BY_NUMBER, GgmlType, Opaque, type_of
from onnxquant.interchange.gguf_metadata import ALIGNMENT, DEFAULT_ALIGNMENT, GgufMetadata, entries_of, read_metadata
from onnxquant.interchange.stored import StoredBytes
from onnxquant.interchange.tensor import Checkpoint, Tensor, Value, is_shape
from onnxquant.json_data import JsonValue
from onnxquant.numerics.arrays import Bytes
from onnxquant.system.files import atomically

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_AXES = 4
_LONGEST_NAME = 63
# Entries of metadata, and tensors, of a small file; each takes a thousand bytes of memory, so a larger one may have as
# many more as its size pays for.
_MOST_ENTRIES, _BYTES_PER_ENTRY = 1 << 14, 1024
_ALIGNMENTS = [1 << n for n in range(21)]
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)$")


class Gguf(Container):
    """llama.cpp's file: block formats, with metadata."""

    name = "gguf"
    suffixes = (".gguf",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file begins with GGUF's four letters."""
        return first_bytes(path, 4) == _MAGIC

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """The tensors of a file, and of its further parts where it is the first of several."""
        shards = _shards(path)
        checkpoints = [_read(shard) for shard in shards]
        tensors: dict[str, Tensor] = {}
        for shard, checkpoint in zip(shards, checkpoints, strict=True):
            for name, tensor in checkpoint.tensors.items():
                if name in tensors:
                    raise CheckpointError(f"{shard}: tensor {name!r} is in another part of the model, too")
                tensors[name] = tensor
        metadata = cast(GgufMetadata, checkpoints[0].metadata)
        expected = metadata.get("split.tensors.count") if len(shards) > 1 else len(tensors)
        if isinstance(expected, int) and expected != len(tensors):
            raise CheckpointError(f"{path}: its parts hold {len(tensors)} tensors; split.tensors.count says {expected}")
        files = tuple(file for checkpoint in checkpoints for file in checkpoint.files)
        return Checkpoint(
            path, cls.name, tensors, metadata.without("split.") if len(shards) > 1 else metadata, files=files
        )

    @classmethod
    def why_not(cls, tensor: Tensor) -> str | None:
        """The reason why GGUF cannot hold a tensor."""
        if len(tensor.name.encode()) > _LONGEST_NAME:
            return f"its name is longer than {_LONGEST_NAME} bytes"
        if len(tensor.shape) > _MOST_AXES:
            return f"it has {len(tensor.shape)} axes, and GGUF {_MOST_AXES}"
        known = type_of(tensor.kind)
        if known is None:
            if isinstance(tensor.kind, Format) and tensor.kind.permuted:
                return "its columns are stored in another order, which GGUF has no place for"
            return f"GGUF has no type for {tensor.label}"
        cols = tensor.matrix_shape[1]
        if tensor.is_encoded and tensor.shape and cols != tensor.shape[-1]:
            return "its blocks do not run along its last axis, as they do in GGUF"
        if cols % known.block:
            return f"rows of {cols} weights are no whole number of {known.name}'s blocks of {known.block}"
        return None

    @classmethod
    def write(cls, output: Output, tensors: Sequence[Tensor], metadata: Mapping[str, JsonValue]) -> None:
        """Write version 3."""
        alignment = _alignment(metadata) or DEFAULT_ALIGNMENT
        types = [cast(GgmlType, type_of(tensor.kind)) for tensor in tensors]
        entries = entries_of(metadata, alignment)
        most = (
            _MOST_ENTRIES + sum(kind.nbytes(t.size) for t, kind in zip(tensors, types, strict=True)) // _BYTES_PER_ENTRY
        )
        if max(len(tensors), len(entries)) > most:
            raise OutputError(f"{output.path}: {len(tensors)} tensors and {len(entries)} entries; readers take {most}")
        header = bytearray(_MAGIC + struct.pack("<IQQ", 3, len(tensors), len(entries)))
        header += b"".join(entries)
        offset = 0
        for tensor, kind in zip(tensors, types, strict=True):
            name = tensor.name.encode()
            header += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor.shape))
            header += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
            header += struct.pack("<IQ", kind.number, offset)
            offset += _rounded_up(kind.nbytes(tensor.size), alignment)
        header += bytes(-len(header) % alignment)
        with atomically(output.path) as file:
            file.write(header)
            for tensor, kind in zip(tensors, types, strict=True):
                stored = blocks_of(tensor)
                size = stored.raw.size
                if size != kind.nbytes(tensor.size):
                    raise OutputError(
                        f"{output.path}: tensor {tensor.name} takes {size} bytes, not {kind.nbytes(tensor.size)}"
                    )
                stored.write(file)
                file.write(bytes(-size % alignment))


def _rounded_up(size: int, alignment: int) -> int:
    return size + -size % alignment


def _shards(path: Path) -> list[Path]:
    """All parts of a model, of which one is given; a model in one file is its own."""
    match = _SHARD.match(path.name)
    if match is None or int(match[3]) < 2:
        return [path]
    stem, _, count, suffix = match.groups()
    shards = [path.with_name(f"{stem}-{number:05}-of-{count}{suffix}") for number in range(1, int(count) + 1)]
    if missing := [shard.name for shard in shards if not shard.exists()]:
        raise CheckpointError(f"{path}: is one of {count} parts, and {missing[0]} is not beside it")
    return shards


def _read(path: Path) -> Checkpoint:
    file = MappedFile.open(path)
    cursor = Cursor(path, file.data)
    cursor.take(4, "the header")
    version = cursor.number("I", "the version")
    if version not in _VERSIONS:
        reason = "a big-endian file" if version in (v << 24 for v in _VERSIONS) else f"version {version} of GGUF"
        raise CheckpointError(f"{path}: is {reason}; expected version 2 or 3, little-endian")
    counts = [cursor.number("Q", f"the number of {what}") for what in ("tensors", "entries of metadata")]
    most = _MOST_ENTRIES + cursor.left // _BYTES_PER_ENTRY
    if max(counts) > most:
        raise cursor.error(
            f"the file says that it has {counts[0]} tensors and {counts[1]} entries; expected {most} at most"
        )
    metadata = read_metadata(cursor, counts[1])
    alignment = _alignment(metadata)
    if alignment is None:
        raise CheckpointError(
            f"{path}: general.alignment is {str(metadata.get(ALIGNMENT))[:60]!r}; expected a power of two"
        )
    described = [_description(cursor) for _ in range(counts[0])]
    start = _rounded_up(cursor.at, alignment)
    tensors: dict[str, Tensor] = {}
    for entry in described:
        if entry.name in tensors:
            raise CheckpointError(f"{path}: has the tensor {entry.name!r} twice")
        tensors[entry.name] = entry.tensor(path, cursor.data[start:], alignment)
    end = 0
    for entry in sorted(described, key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.offset < end:
            raise CheckpointError(f"{path}: tensor {entry.name!r} shares bytes with another")
        end = entry.offset + entry.nbytes
    return Checkpoint(path, Gguf.name, tensors, metadata, files=(file,))


@dataclass(frozen=True)
class _Entry:
    """A tensor as the header describes it."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return self.type.nbytes(prod(self.shape))

    def tensor(self, path: Path, data: Bytes, alignment: int) -> Tensor:
        """The tensor in the data of the file.

        Raises:
            CheckpointError: the file ends before, or its place is none where tensors begin.
        """
        begin, end = self.offset, self.offset + self.nbytes
        if begin % alignment:
            raise CheckpointError(
                f"{path}: tensor {self.name!r} begins at byte {begin}, which is no multiple of {alignment}"
            )
        if end > len(data):
            raise CheckpointError(
                f"{path}: tensor {self.name!r} takes bytes {begin} to {end} of {len(data)} bytes of data; is it cut off?"
            )
        raw = data[begin:end]
        load = partial(_load, self.name, self.shape, self.type, raw)
        return Tensor(self.name, self.shape, self.type.kind, load, lambda: StoredBytes(raw))


def _alignment(metadata: Mapping[str, JsonValue]) -> int | None:
    """Bytes that tensors begin at multiples of; None where metadata say no power of two.

    Metadata that were texts meanwhile, in a safetensors file, say it as one.
    """
    said = metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT)
    if isinstance(said, str) and not isinstance(metadata, GgufMetadata):
        said = next((number for number in _ALIGNMENTS if str(number) == said), None)
    return said if type(said) is int and said in _ALIGNMENTS else None


def _description(cursor: Cursor) -> _Entry:
    """The next tensor in the header."""
    name = cursor.text("the name of a tensor")
    axes = cursor.number("I", f"the number of axes of {name}")
    if axes > _MOST_AXES:
        raise cursor.error(f"tensor {name!r} has {axes} axes; expected {_MOST_AXES} at most")
    shape = tuple(reversed([cursor.number("Q", f"the shape of {name}") for _ in range(axes)]))
    number = cursor.number("I", f"the type of {name}")
    offset = cursor.number("Q", f"the place of {name}")
    if number not in BY_NUMBER:
        raise cursor.error(f"tensor {name!r} is of type {number}, which onnxquant does not know")
    kind = BY_NUMBER[number]
    if not is_shape(shape):
        raise cursor.error(f"tensor {name!r} has the shape {list(shape)}, which is too large")
    if (shape[-1] if shape else 1) % kind.block:
        raise cursor.error(f"tensor {name!r}: shape {list(shape)} does not fit {kind.name}'s blocks of {kind.block}")
    return _Entry(name, shape, kind, offset)


def _load(name: str, shape: tuple[int, ...], kind: GgmlType, raw: Bytes) -> Value:
    """The value of a tensor from its bytes."""
    form = kind.kind
    if isinstance(form, np.dtype):
        return raw.view(form).reshape(shape)
    if isinstance(form, Opaque):
        raise CheckpointError(
            f"tensor {name}: onnxquant moves codes of ggml's type {form.name}, and cannot decode them"
        )
    return from_blocks(name, form, raw, shape)
