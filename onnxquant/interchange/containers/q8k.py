"""Folders of ``.q8k`` files, one tensor each, with ``.perm`` files where columns are stored in another order.

NAME.q8k: six uint32 (magic 0x4B513838, version 1, rows, columns, blocks of a row, type 0x18), then blocks of q8_k, 292
bytes each, row by row. NAME.perm: magic 0x4D524550, the number of columns, then the original column of each stored one.
``index.json``, which is ours, has names, shapes and checksums; without it each file is a tensor of its name. Source: the
file formats of the quantize-strategy project.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import quote

import numpy as np

from onnxquant.errors import CheckpointError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded
from onnxquant.formats.ggml.q8_k import Q8_K
from onnxquant.formats.matrix import check_permutation
from onnxquant.interchange.blocks import blocks_of
from onnxquant.interchange.container import Container, Output
from onnxquant.interchange.cursor import Cursor, MappedFile, first_bytes, is_file_name, json_file
from onnxquant.interchange.folders import whole_folder
from onnxquant.interchange.stored import StoredBytes
from onnxquant.interchange.tensor import Checkpoint, Tensor
from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.numerics.arrays import Bytes, Order

_MAGIC, _PERMUTATION, _VERSION, _TYPE = 0x4B513838, 0x4D524550, 1, 0x18
_INDEX, _CODES, _ORDER = "index.json", ".q8k", ".perm"
_HEADER = 24
# Key of a checksum in an entry of the index.
_CHECKSUM = "crc32"


class Q8k(Container):
    """A folder of q8_k matrices, with permutations."""

    name = "q8k"
    suffixes = (".q8k", "_q8k")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder holds such files."""
        return path.is_dir() and any(file.name.endswith(_CODES) for file in path.iterdir())

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """The tensors of a folder; its files are opened one by one, when they are read."""
        entries = _index(path)
        if entries is None:
            files = sorted(file.name for file in path.iterdir() if file.name.endswith(_CODES))
            entries = {name.removesuffix(_CODES): {"file": name} for name in files}
        tensors = {name: _tensor(path, name, entry) for name, entry in entries.items()}
        has_checksums = all(_CHECKSUM in entry for entry in entries.values())
        return Checkpoint(path, cls.name, tensors, has_checksums=has_checksums)

    @classmethod
    def why_not(cls, tensor: Tensor) -> str | None:
        """A reason unless the tensor is a matrix in q8_k whose rows are whole blocks."""
        if not isinstance(tensor.kind, Q8_K):
            return f".q8k files hold q8_k, and no {tensor.label}"
        if len(tensor.shape) != 2 or tensor.shape[1] % Q8_K.block or not tensor.size:
            return (
                f"its shape is {list(tensor.shape)}; .q8k files hold matrices whose rows are multiples of {Q8_K.block}"
            )
        return None

    @classmethod
    def is_folder(cls, path: Path) -> bool:
        """Always."""
        return True

    @classmethod
    def write(cls, output: Output, tensors: Sequence[Tensor], metadata: Mapping[str, JsonValue]) -> None:
        """Write a folder, which appears whole or not at all."""
        with whole_folder(output.path, _is_ours) as folder:
            index: JsonObject = {tensor.name: _write(folder, tensor) for tensor in tensors}
            contents = {"version": _VERSION, "tensors": index, "metadata": dict(metadata)}
            (folder / _INDEX).write_text(json.dumps(contents, indent=1))


def _is_ours(name: str) -> bool:
    return name.endswith((_CODES, _ORDER)) or name == _INDEX


def _write(folder: Path, tensor: Tensor) -> JsonObject:
    """Write the files of a tensor; its entry in the index."""
    rows, cols = tensor.shape
    stem = quote(tensor.name, safe="")
    header = struct.pack("<6I", _MAGIC, _VERSION, rows, cols, cols // Q8_K.block, _TYPE)
    order = None
    if tensor.kind == Q8_K():
        stored = blocks_of(tensor)
    else:
        encoded = tensor.encoded()
        stored = StoredBytes(Q8_K().to_blocks(encoded).reshape(-1))
        order = encoded.planes["permutation"]
    with (folder / f"{stem}{_CODES}").open("xb") as file:
        file.write(header)
        crc = stored.write_summed(file)
    entry: JsonObject = {"file": f"{stem}{_CODES}", "shape": [rows, cols], _CHECKSUM: crc}
    if order is not None:
        words = order.astype("<u4").tobytes()
        (folder / f"{stem}{_ORDER}").write_bytes(struct.pack("<2I", _PERMUTATION, cols) + words)
        entry |= {"permutation": f"{stem}{_ORDER}", "permutation_crc32": zlib.crc32(words)}
    return entry


def _index(folder: Path) -> dict[str, JsonObject] | None:
    path = folder / _INDEX
    if not path.is_file():
        return None
    size = sum(file.stat().st_size for file in folder.glob(f"*{_CODES}") if file.is_file())
    tensors = json_file(path, size).get("tensors")
    if not isinstance(tensors, dict) or not all(_is_entry(entry) for entry in tensors.values()):
        raise CheckpointError(f"{path}: is no index of .q8k files that are beside it")
    return cast(dict[str, JsonObject], tensors)


def _is_entry(entry: JsonValue) -> bool:
    """Whether an entry of an index names files, and no way out of the folder."""
    if not isinstance(entry, dict):
        return False
    names = [entry.get("file"), *([entry["permutation"]] if "permutation" in entry else [])]
    return all(map(is_file_name, names))


def _tensor(folder: Path, name: str, entry: JsonObject) -> Tensor:
    path = folder / str(entry["file"])
    if not path.is_file():
        raise CheckpointError(f"{path}: is no file")
    cursor = Cursor(path, np.frombuffer(first_bytes(path, _HEADER), np.uint8))
    fields = [cursor.number("I", "the header") for _ in range(_HEADER // 4)]
    rows, cols = fields[2:4]
    expected = [_MAGIC, _VERSION, rows, cols, cols // Q8_K.block, _TYPE]
    if fields != expected or cols % Q8_K.block or not rows * cols:
        raise CheckpointError(f"{path}: the header is {fields}; expected {expected}")
    if entry.get("shape", [rows, cols]) != [rows, cols]:
        raise CheckpointError(f"{path}: holds [{rows}, {cols}]; expected {str(entry['shape'])[:60]}, as {_INDEX} says")
    size, there = rows * cols // Q8_K.block * Q8_K.block_bytes, path.stat().st_size - _HEADER
    if size != there:
        raise CheckpointError(f"{path}: holds {there} bytes of blocks; expected {size} for [{rows}, {cols}]")
    order = _order(folder, path, cols, entry)
    form = format_named("q8_k").with_(permuted=order is not None)
    load = partial(_load, path, (rows, cols), order, entry)
    return Tensor(name, (rows, cols), form, load, partial(_blocks, path, size, entry))


def _order(folder: Path, codes: Path, cols: int, entry: JsonObject) -> Order | None:
    """The order of the stored columns; None: the original one."""
    named = entry.get("permutation")
    path = folder / str(named or f"{codes.name.removesuffix(_CODES)}{_ORDER}")
    if not named and not path.exists():
        return None
    cursor = Cursor(path, MappedFile.open(path).data)
    if [cursor.number("I", "the header") for _ in range(2)] != [_PERMUTATION, cols] or cursor.left != 4 * cols:
        raise CheckpointError(f"{path}: is no order of {cols} columns")
    raw = cursor.take(4 * cols, "the order")
    order = _stored(path, raw, entry.get("permutation_crc32")).checked().view("<u4")
    if (np.sort(order) != np.arange(cols)).any():
        raise CheckpointError(f"{path}: is no permutation of {cols} columns")
    return check_permutation(order.astype(np.int32), cols)


def _stored(path: Path, raw: Bytes, crc: JsonValue) -> StoredBytes:
    """Bytes of a file, with the checksum that the index says."""
    if crc is not None and type(crc) is not int:
        raise CheckpointError(f"{path}: {_INDEX} says the checksum {str(crc)[:60]}; expected a number")
    return StoredBytes(raw, crc, str(path))


def _blocks(path: Path, size: int, entry: JsonObject) -> StoredBytes:
    data = MappedFile.open(path).data
    if len(data) != _HEADER + size:
        raise CheckpointError(f"{path}: has another size than before")
    return _stored(path, data[_HEADER:], entry.get(_CHECKSUM))


def _load(path: Path, shape: tuple[int, int], order: Order | None, entry: JsonObject) -> Encoded:
    rows, cols = shape
    stored = _blocks(path, rows * cols // Q8_K.block * Q8_K.block_bytes, entry)
    encoded = Q8_K().from_blocks(stored.checked(), *shape)
    return encoded if order is None else encoded.with_order(order)
