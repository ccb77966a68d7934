"""Files of one encoded tensor: its planes in a safetensors file, with the format in the metadata and a checksum.

Codes are packed to their width (``Plane.packed``). The last tensor, ``sha256``, is the hash of all bytes before
it. Every reader of safetensors opens the file; ``read`` accepts what ``write`` writes and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxquant.errors import WeightError, shown
from onnxquant.formats.planes import Plane, Planes
from onnxquant.json_data import JsonObject
from onnxquant.numerics.arrays import Bytes
from onnxquant.system.files import atomically

VERSION = 1
_CHECKSUM, _CHECKSUM_BYTES = "sha256", 32
_MOST_HEADER = 1 << 20
# Larger sizes are damage; products of two of them fit 64 bits.
_MOST_ROWS = 1 << 31
_TYPES = {
    "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "float16": "F16", "bfloat16": "BF16", "float32": "F32",
    "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip


@dataclass(frozen=True)
class TensorHeader:
    """The description of an encoded tensor in its file.

    Attributes:
        format: name of the format.
        parameters: its settings, plain data.
        matrix: rows and columns that are encoded.
        shape: shape of the original array.
    """

    format: str
    parameters: JsonObject
    matrix: tuple[int, int]
    shape: tuple[int, ...]

    def metadata(self) -> dict[str, str]:
        """The entries of the file's metadata, which are texts."""
        values = {"parameters": self.parameters, "matrix": list(self.matrix), "shape": list(self.shape)}
        texts = {name: json.dumps(value, sort_keys=True, default=_plain) for name, value in values.items()}
        return {"onnxquant_tensor": str(VERSION), "format": self.format, **texts}

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> TensorHeader:
        """The inverse of ``metadata``.

        Raises:
            KeyError, ValueError, TypeError, AttributeError: an entry is missing or no such text.
        """
        values = {name: json.loads(metadata[name]) for name in ("parameters", "matrix", "shape")}
        rows, cols = values["matrix"]
        shape = tuple(values["shape"])
        sizes = (rows, cols, *shape)
        if not isinstance(values["parameters"], dict) or not all(type(n) is int and 0 <= n < _MOST_ROWS for n in sizes):
            raise ValueError(f"parameters {shown(values['parameters'])}, sizes {shown(sizes)}")
        if not isinstance(metadata["format"], str):
            raise TypeError(f"format {shown(metadata['format'])}")
        return cls(metadata["format"], values["parameters"], (rows, cols), shape)


def write(path: Path, header: TensorHeader, declared: Mapping[str, Plane], planes: Planes) -> None:
    """Write planes to a file, whole or not at all.

    Raises:
        OutputError: it cannot be written; the file that was there before has not changed.
    """
    head = _head(header, declared)
    digest = hashlib.sha256(head)
    with atomically(path) as file:
        file.write(head)
        for name, plane in declared.items():
            packed = plane.packed(planes[name]).data
            digest.update(packed)
            file.write(packed)
        file.write(digest.digest())


def read_header(path: Path) -> tuple[TensorHeader, Bytes]:
    """The description of a tensor, and all bytes of its file, whose checksum is right.

    Raises:
        WeightError: missing, damaged, something else, or of another version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        length = int.from_bytes(data[:8], "little")
        if not 0 < length <= min(_MOST_HEADER, len(data) - 8):
            raise ValueError(f"a header of {length} bytes")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        version = metadata["onnxquant_tensor"]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise WeightError(f"{path}: damaged, or no tensor that onnxquant saved") from None
    if version != str(VERSION):
        raise WeightError(f"{path}: has version {str(version)[:60]} of the file format, expected {VERSION}")
    if hashlib.sha256(memoryview(data)[:-_CHECKSUM_BYTES]).digest() != data[-_CHECKSUM_BYTES:]:
        raise WeightError(f"{path}: damaged: its bytes do not match its checksum")
    try:
        return TensorHeader.of(metadata), np.frombuffer(data, np.uint8)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightError(f"{path}: its metadata are none of onnxquant: {str(error)[:200]}") from None


def read_planes(path: Path, raw: Bytes, header: TensorHeader, declared: Mapping[str, Plane]) -> Planes:
    """The planes in the bytes of a file.

    Raises:
        WeightError: the file holds other planes than its format declares.
    """
    head = _head(header, declared)
    if raw[: len(head)].tobytes() != head or raw.size != len(head) + _nbytes(declared) + _CHECKSUM_BYTES:
        raise WeightError(f"{path}: its planes are not those of format {header.format} {list(header.matrix)}")
    planes: Planes = {}
    start = len(head)
    for name, plane in declared.items():
        end = start + plane.stored_nbytes
        planes[name] = plane.unpacked(raw[start:end]).copy()
        start = end
    return planes


def _plain(value: np.generic) -> object:
    """A number of numpy, which may be a parameter of a format, as one of Python."""
    return value.item()


def _head(header: TensorHeader, declared: Mapping[str, Plane]) -> bytes:
    """The bytes before the planes: the length of a JSON text, and the text."""
    entries: dict[str, Any] = {"__metadata__": header.metadata()}
    start = 0
    for name, plane in declared.items():
        end = start + plane.stored_nbytes
        is_packed = plane.bits < 8 * plane.dtype.itemsize
        shape = [plane.stored_nbytes] if is_packed else list(plane.shape)
        entries[name] = {"dtype": _TYPES[plane.dtype.name], "shape": shape, "data_offsets": [start, end]}
        start = end
    entries[_CHECKSUM] = {"dtype": "U8", "shape": [_CHECKSUM_BYTES], "data_offsets": [start, start + _CHECKSUM_BYTES]}
    text = json.dumps(entries, separators=(",", ":"), default=_plain).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _nbytes(declared: Mapping[str, Plane]) -> int:
    return sum(plane.stored_nbytes for plane in declared.values())
