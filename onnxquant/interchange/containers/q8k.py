"""Folders of ``.q8k`` files, one tensor each, with ``.perm`` files where columns are stored in another order.

NAME.q8k: six uint32 (magic 0x4B513838, version 1, rows, columns, blocks of a row, type 0x18), then blocks of q8_k, 292
bytes each, row by row. NAME.perm: magic 0x4D524550, the number of columns, then the original column of each stored one.
``index.json``, which is ours, has names, shapes and checksums; without it each file is a tensor of its name. Source: the
file formats of the quantize-strategy project.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import quote

import numpy as np

from onnxquant.errors import CheckpointError, OutputError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded
from onnxquant.formats.ggml.q8_k import Q8_K
from onnxquant.formats.matrix import check_permutation
from onnxquant.interchange.blocks import blocks_of
from onnxquant.interchange.container import Container
from onnxquant.interchange.cursor import Cursor, mapped
from onnxquant.interchange.tensor import Checkpoint, Tensor
from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.numerics.arrays import Bytes, Order
from onnxquant.system.files import temporary_name

_MAGIC, _PERMUTATION, _VERSION, _TYPE = 0x4B513838, 0x4D524550, 1, 0x18
_INDEX, _CODES, _ORDER = "index.json", ".q8k", ".perm"
_LONGEST_INDEX = 1 << 26


class Q8k(Container):
    """A folder of q8_k matrices, with permutations."""

    name = "q8k"
    suffixes = (".q8k", "_q8k")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a folder holds such files."""
        return path.is_dir() and any(file.suffix == _CODES for file in path.iterdir())

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """The tensors of a folder."""
        index = _index(path)
        if index is None:
            files = sorted(file for file in path.iterdir() if file.suffix == _CODES)
            index = {file.stem: {"file": file.name} for file in files}
        return Checkpoint(path, cls.name, {name: _tensor(path, name, entry) for name, entry in index.items()})

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
    def write(cls, path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, JsonValue]) -> None:
        """Write a folder, which appears whole or not at all."""
        temporary = temporary_name(path.parent, "folder")
        try:
            temporary.mkdir()
            index: JsonObject = {}
            for tensor in tensors:
                index[tensor.name] = _write(temporary, tensor)
            contents = {"version": _VERSION, "tensors": index, "metadata": dict(metadata)}
            (temporary / _INDEX).write_text(json.dumps(contents, indent=1))
            if path.exists():
                replaced = temporary_name(path.parent, "replaced")
                path.rename(replaced)
                temporary.rename(path)
                shutil.rmtree(replaced)
            else:
                temporary.rename(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, tensor: Tensor) -> JsonObject:
    """Write the files of a tensor; its entry in the index."""
    rows, cols = tensor.shape
    stem = quote(tensor.name, safe="")
    header = struct.pack("<6I", _MAGIC, _VERSION, rows, cols, cols // Q8_K.block, _TYPE)
    order = None
    if tensor.kind == Q8_K():
        raw = blocks_of(tensor)
    else:
        encoded = tensor.encoded()
        raw, order = Q8_K().to_blocks(encoded).reshape(-1), encoded.planes["permutation"]
    with (folder / f"{stem}{_CODES}").open("xb") as file:
        file.write(header)
        file.write(raw.data)
        file.flush()
        os.fsync(file.fileno())
    entry: JsonObject = {"file": f"{stem}{_CODES}", "shape": [rows, cols], "crc32": zlib.crc32(raw.data)}
    if order is not None:
        words = order.astype("<u4").tobytes()
        (folder / f"{stem}{_ORDER}").write_bytes(struct.pack("<2I", _PERMUTATION, cols) + words)
        entry |= {"permutation": f"{stem}{_ORDER}", "permutation_crc32": zlib.crc32(words)}
    return entry


def _index(folder: Path) -> dict[str, JsonObject] | None:
    path = folder / _INDEX
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _LONGEST_INDEX:
            raise CheckpointError(f"{path}: is {path.stat().st_size} bytes long; expected {_LONGEST_INDEX} at most")
        tensors = json.loads(path.read_bytes())["tensors"]
        right = all(isinstance(entry["file"], str) and "/" not in entry["file"] for entry in tensors.values())
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, OSError):
        right = False
    if not right:
        raise CheckpointError(f"{path}: is no index of .q8k files")
    return cast(dict[str, JsonObject], tensors)


def _tensor(folder: Path, name: str, entry: JsonObject) -> Tensor:
    path = folder / str(entry["file"])
    cursor = Cursor(path, mapped(path))
    fields = [cursor.number("I", "the header") for _ in range(6)]
    rows, cols = fields[2:4]
    expected = [_MAGIC, _VERSION, rows, cols, cols // Q8_K.block, _TYPE]
    if fields != expected or cols % Q8_K.block:
        raise CheckpointError(f"{path}: the header is {fields}; expected {expected}")
    if entry.get("shape", [rows, cols]) != [rows, cols]:
        raise CheckpointError(f"{path}: holds [{rows}, {cols}]; expected {entry['shape']}, as {_INDEX} says")
    size = rows * cols // Q8_K.block * Q8_K.block_bytes
    if size != cursor.left:
        raise CheckpointError(f"{path}: holds {cursor.left} bytes of blocks; expected {size} for [{rows}, {cols}]")
    raw = cursor.take(size, "the blocks")
    order = _order(folder, path, cols, entry)
    form = format_named("q8_k").with_(permuted=order is not None)
    load = partial(_load, path, raw, (rows, cols), order, entry)
    return Tensor(name, (rows, cols), form, load, partial(_checked, path, raw, entry))


def _order(folder: Path, codes: Path, cols: int, entry: JsonObject) -> Order | None:
    """The order of the stored columns; None: the original one."""
    named = entry.get("permutation")
    path = folder / str(named) if named else codes.with_suffix(_ORDER)
    if not path.exists() and not named:
        return None
    cursor = Cursor(path, mapped(path))
    if [cursor.number("I", "the header") for _ in range(2)] != [_PERMUTATION, cols] or cursor.left != 4 * cols:
        raise CheckpointError(f"{path}: is no order of {cols} columns")
    raw = cursor.take(4 * cols, "the order")
    _check(path, raw, entry.get("permutation_crc32"))
    order = raw.view("<u4")
    if (np.sort(order) != np.arange(cols)).any():
        raise CheckpointError(f"{path}: is no permutation of {cols} columns")
    return check_permutation(order.astype(np.int32), cols)


def _check(path: Path, raw: Bytes, crc: JsonValue) -> None:
    if crc is not None and zlib.crc32(raw.data) != crc:
        raise CheckpointError(f"{path}: is damaged; its checksum is not what {_INDEX} says")


def _checked(path: Path, raw: Bytes, entry: JsonObject) -> Bytes:
    _check(path, raw, entry.get("crc32"))
    return raw


def _load(path: Path, raw: Bytes, shape: tuple[int, int], order: Order | None, entry: JsonObject) -> Encoded:
    encoded = Q8_K().from_blocks(_checked(path, raw, entry), *shape)
    return encoded if order is None else encoded.with_order(order)
