"""AXQT: version 1 of the axonml-quant project, and version 2, which is ours.

Version 1: "AXQT", uint8 version, uint8 type (0 Q8_0, 1 Q4_0, 2 Q4_1, 3 Q5_0, 4 Q5_1, 5 F16, 6 F32), uint32 number of
tensors, uint64 number of weights; then for each tensor uint32 axes, uint32 sizes, uint32 number of blocks, and its blocks
over the flattened tensor. They are as large as ggml's, but codes 2i and 2i + 1 share a byte. There are no names and no
checksum, and its own writer loses Q5_0, Q5_1, F16 and F32; these are refused.

Version 2: "AXQT", uint8 2, three zeros, uint32 CRC-32 of the header, uint64 offset and uint64 length of the header; then
data, each part at a multiple of 64; the header, in JSON, is last. It has ``metadata`` and ``tensors``: name, shape,
``dtype`` or ``format`` with its ``parameters``, ``original_dtype`` where it is known, and ``parts``, each with name, offset,
bytes and CRC-32. Formats of ggml and BitNet are stored as their bytes, others as planes whose codes are packed, the first
code in the lowest bits (3, 5 and 6 bits: low part, then high part).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import ml_dtypes
import numpy as np

from onnxquant.errors import CheckpointError, OnnxQuantError, OutputError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.ggml.blocks import Blocks, from_nibbles, nibbles
from onnxquant.formats.matrix import check_permutation
from onnxquant.formats.planes import Planes
from onnxquant.interchange.blocks import blocks_of, from_blocks, has_blocks
from onnxquant.interchange.container import Container, Output
from onnxquant.interchange.cursor import Cursor, MappedFile, first_bytes, longest_json, parsed_json, refuse_costly_json
from onnxquant.interchange.ggml_types import Opaque
from onnxquant.interchange.stored import StoredBytes
from onnxquant.interchange.tensor import Checkpoint, Tensor, are_counts, is_float, is_shape, original_dtype, rows_of
from onnxquant.json_data import JsonObject, JsonValue, to_object
from onnxquant.numerics.arrays import Array, Bytes
from onnxquant.system.files import atomically

_MAGIC = b"AXQT"
_FIRST_TYPES = {0: "q8_0", 1: "q4_0", 2: "q4_1"}
_LOST_TYPES = {3: "Q5_0", 4: "Q5_1", 5: "F16", 6: "F32"}
_ALIGNMENT = 64
_MOST_AXES = 32
# Tensors of a small file of version 1; each takes a thousand bytes of memory, so a larger one may have more.
_MOST_TENSORS, _BYTES_PER_TENSOR = 1 << 14, 1024


class Axqt(Container):
    """axonml-quant's file, in its version 1 and in one of ours that holds every format."""

    name = "axqt"
    suffixes = (".axqt",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file begins with its four letters."""
        return first_bytes(path, 4) == _MAGIC

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """The tensors of a file of either version."""
        file = MappedFile.open(path)
        cursor = Cursor(path, file.data)
        cursor.take(4, "the header")
        version = cursor.number("B", "the version")
        if version not in (1, 2):
            raise CheckpointError(f"{path}: is version {version} of AXQT; expected 1 or 2")
        return replace(_first(cursor) if version == 1 else _second(cursor), files=(file,))

    @classmethod
    def why_not(cls, tensor: Tensor) -> str | None:
        """A reason where its codes or numbers cannot be read."""
        if isinstance(tensor.kind, np.dtype) and not (is_float(tensor.kind) or tensor.kind.kind in "iub"):
            return f"AXQT holds numbers, and no {tensor.label}"
        if isinstance(tensor.kind, Opaque):
            return f"onnxquant does not know the codes of {tensor.label}"
        return None

    @classmethod
    def write(cls, output: Output, tensors: Sequence[Tensor], metadata: Mapping[str, JsonValue]) -> None:
        """Write version 2; the header goes in front when all checksums are known."""
        with atomically(output.path) as file:
            file.write(bytes(_ALIGNMENT))
            entries: list[JsonValue] = [_write(file, tensor) for tensor in tensors]
            start = file.tell()
            header = json.dumps({"tensors": entries, "metadata": dict(metadata)}).encode()
            refuse_costly_json(str(output.path), header, start + len(header))
            file.write(header)
            file.seek(0)
            file.write(_MAGIC + struct.pack("<B3xIQQ", 2, zlib.crc32(header), start, len(header)))


class AxqtV1(Axqt):
    """axonml-quant's version 1: q8_0, q4_0 or q4_1, without names."""

    name = "axqt-v1"
    suffixes = (".axqt1",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Never: ``Axqt`` reads both versions."""
        return False

    @classmethod
    def why_not(cls, tensor: Tensor) -> str | None:
        """A reason unless the tensor is in q8_0, q4_0 or q4_1, in its original order."""
        if not isinstance(tensor.kind, Format) or tensor.kind.name not in _FIRST_TYPES.values() or tensor.kind.permuted:
            return f"version 1 of AXQT holds {', '.join(_FIRST_TYPES.values())}, and no {tensor.label}"
        if tensor.matrix_shape[1] % 32 or max(tensor.shape) >= 1 << 32:
            return f"its shape is {list(tensor.shape)}; expected rows of whole blocks of 32"
        return None

    @classmethod
    def write(cls, output: Output, tensors: Sequence[Tensor], metadata: Mapping[str, JsonValue]) -> None:
        """Write tensors of one format; their names are lost."""
        kinds = {tensor.label for tensor in tensors}
        if len(kinds) != 1:
            names = ", ".join(sorted(kinds))
            raise OutputError(
                f"{output.path}: version 1 of AXQT has one format for all tensors, and these have {names}"
            )
        number = next(n for n, name in _FIRST_TYPES.items() if name in kinds)
        with atomically(output.path) as file:
            total = sum(tensor.size for tensor in tensors)
            file.write(_MAGIC + struct.pack("<BBIQ", 1, number, len(tensors), total))
            for tensor in tensors:
                form = cast(Blocks, tensor.kind)
                file.write(struct.pack(f"<{len(tensor.shape) + 1}I", len(tensor.shape), *tensor.shape))
                file.write(struct.pack("<I", tensor.size // form.block))
                file.write(_in_pairs(form, blocks_of(tensor).checked()).data)


def _in_pairs(form: Blocks, raw: Bytes) -> Bytes:
    """Ggml's blocks with codes 2i and 2i + 1 in a byte."""
    if form.bits != 4:
        return raw
    blocks = raw.reshape(-1, form.block_bytes).copy()
    codes = from_nibbles(blocks[:, -16:])
    blocks[:, -16:] = codes[:, 0::2] | codes[:, 1::2] << np.uint8(4)
    return blocks.reshape(-1)


def _from_pairs(form: Blocks, raw: Bytes) -> Bytes:
    if form.bits != 4:
        return raw
    blocks = raw.reshape(-1, form.block_bytes).copy()
    pairs = blocks[:, -16:]
    blocks[:, -16:] = nibbles(np.stack([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=-1).reshape(-1, 32))
    return blocks.reshape(-1)


def _first(cursor: Cursor) -> Checkpoint:
    number = cursor.number("B", "the type")
    if number not in _FIRST_TYPES:
        name = _LOST_TYPES.get(number, str(number))
        raise CheckpointError(f"{cursor.path}: its type is {name}, which version 1 of AXQT does not store whole")
    count, _ = cursor.number("I", "the number of tensors"), cursor.number("Q", "the number of weights")
    most = min(cursor.left // 8, _MOST_TENSORS + cursor.left // _BYTES_PER_TENSOR)
    if count > most:
        raise cursor.error(f"the file says that it has {count} tensors; expected {most} at most")
    form = cast(Blocks, format_named(_FIRST_TYPES[number]))
    tensors: dict[str, Tensor] = {}
    for place in range(count):
        name = f"tensor_{place}"
        axes = cursor.number("I", f"the axes of {name}")
        if axes > _MOST_AXES:
            raise cursor.error(f"{name} has {axes} axes; expected {_MOST_AXES} at most")
        shape = tuple(cursor.number("I", f"the shape of {name}") for _ in range(axes))
        blocks = cursor.number("I", f"the number of blocks of {name}")
        if blocks != -(-prod(shape) // form.block):
            raise cursor.error(f"{name} has {blocks} blocks for shape {list(shape)}")
        raw = cursor.take(blocks * form.block_bytes, f"the blocks of {name}")
        in_rows = bool(shape) and shape[-1] % form.block == 0
        matrix = None if in_rows else (1, prod(shape))  # blocks cross rows
        tensors[name] = Tensor(name, shape, form, partial(_load_first, name, form, raw, shape, matrix), matrix=matrix)
    notes = ("version 1 of AXQT has no names: tensors are called by their places",)
    return Checkpoint(cursor.path, Axqt.name, tensors, notes=notes)


def _load_first(name: str, form: Blocks, raw: Bytes, shape: tuple[int, ...], matrix: tuple[int, int] | None) -> Encoded:
    return from_blocks(name, form, _from_pairs(form, raw), shape, matrix)


def _write(file: BinaryIO, tensor: Tensor) -> JsonObject:
    """Write the data of a tensor; its entry in the header."""
    entry: JsonObject = {"name": tensor.name, "shape": list(tensor.shape)}
    if tensor.original_dtype is not None:
        entry["original_dtype"] = tensor.original_dtype
    if not isinstance(tensor.kind, Format):
        return entry | {"dtype": tensor.label, "parts": [_part(file, "values", blocks_of(tensor))]}
    if has_blocks(tensor.kind) and not tensor.kind.permuted and tensor.matrix_shape[1] % tensor.kind.foreign_cols == 0:
        value: Encoded | None = None
        form, parts = tensor.kind, [_part(file, "blocks", blocks_of(tensor))]
    else:
        value = tensor.encoded()
        form = value.format
        parts = [_part(file, name, StoredBytes(raw)) for name, raw in _packed(value).items()]
    rows, cols = tensor.matrix_shape if value is None else (value.rows, value.cols)
    parameters = to_object(form.settings())
    return entry | {"format": form.name, "parameters": parameters, "rows": rows, "cols": cols, "parts": list(parts)}


def _part(file: BinaryIO, name: str, stored: StoredBytes) -> JsonObject:
    file.write(bytes(-file.tell() % _ALIGNMENT))
    offset = file.tell()
    crc = stored.write_summed(file)
    return {"name": name, "offset": offset, "nbytes": stored.raw.size, "crc32": crc}


def _packed(encoded: Encoded) -> dict[str, Bytes]:
    """The planes of a weight as bytes, elements packed to their bits."""
    planes = encoded.format.planes(encoded.rows, encoded.cols)
    return {name: planes[name].packed(encoded.planes[name]) for name in planes}


def _second(cursor: Cursor) -> Checkpoint:
    cursor.take(3, "the header")
    crc = cursor.number("I", "the header")
    start, length = cursor.number("Q", "the header"), cursor.number("Q", "the header")
    if length > min(len(cursor.data), longest_json(len(cursor.data))):
        raise cursor.error(f"the header is said to be {length} bytes long, in a file of {len(cursor.data)}")
    cursor.at = min(start, len(cursor.data))
    raw = cursor.take(length, "the header").tobytes()
    if zlib.crc32(raw) != crc or cursor.left:
        raise CheckpointError(f"{cursor.path}: the header is damaged")
    header = parsed_json(f"{cursor.path}: its header", raw, len(cursor.data))
    tensors: dict[str, Tensor] = {}
    try:
        for entry in cast(list[Any], header["tensors"]):
            tensor = _read(cursor, entry)
            if tensor.name in tensors:
                raise ValueError(f"tensor {tensor.name!r} is there twice")
            tensors[tensor.name] = tensor
        _refuse_shared_bytes(cast(list[Any], header["tensors"]))
        metadata = dict(cast(JsonObject, header["metadata"]))
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OnnxQuantError) as error:
        raise CheckpointError(f"{cursor.path}: the header is damaged: {str(error)[:200]}") from None
    return Checkpoint(cursor.path, Axqt.name, tensors, metadata, has_checksums=True)


def _refuse_shared_bytes(entries: Sequence[Any]) -> None:
    end = 0
    for start, size in sorted((part["offset"], part["nbytes"]) for entry in entries for part in entry["parts"]):
        if start < end:
            raise ValueError(f"two parts share byte {start}")
        end = start + size


def _read(cursor: Cursor, entry: Any) -> Tensor:  # noqa: ANN401 - JSON
    """A tensor by its entry in the header."""
    name, sizes = entry["name"], entry["shape"]
    if not isinstance(name, str) or not is_shape(sizes):
        raise ValueError(f"{str(name)[:60]!r}, {str(sizes)[:60]} are no name and no shape")
    shape = tuple(sizes)
    parts = {str(part["name"]): _stored(cursor, name, part) for part in entry["parts"]}
    if "dtype" in entry:
        dtype = _dtype(entry["dtype"])
        _expect(parts["values"].raw.size == prod(shape) * dtype.itemsize, cursor, name)
        return Tensor(name, shape, dtype, partial(_load_plain, parts["values"], dtype, shape))
    form = format_named(str(entry["format"])).with_(**entry["parameters"])
    dtype_before = original_dtype(entry.get("original_dtype"))
    rows, cols = entry["rows"], entry["cols"]
    fits = is_shape((rows, cols)) and 0 <= rows * cols - prod(shape) < max(cols, 1) and form.unfit(rows, cols) is None
    _expect(fits, cursor, name)
    matrix = rows_of(shape, rows, cols)
    if "blocks" in parts:
        _expect(has_blocks(form) and not form.permuted, cursor, name)
        part = parts["blocks"]
        load_blocks = partial(_load_blocks, name, form, part, shape, matrix)
        return Tensor(name, shape, form, load_blocks, lambda: part, matrix=matrix, original_dtype=dtype_before)
    planes = form.planes(rows, cols)
    for plane in planes.values():
        _expect(plane.name in parts and parts[plane.name].raw.size == plane.stored_nbytes, cursor, name)
    load = partial(_load_planes, form, (rows, cols), parts, shape)
    return Tensor(name, shape, form, load, matrix=matrix, original_dtype=dtype_before)


def _stored(cursor: Cursor, name: str, entry: Any) -> StoredBytes:  # noqa: ANN401 - JSON
    """The part of an entry in the header."""
    begin, size, crc = entry["offset"], entry["nbytes"], entry["crc32"]
    is_place = are_counts((begin, size)) and type(crc) is int and begin + size <= len(cursor.data)
    _expect(is_place, cursor, name)
    return StoredBytes(cursor.data[begin : begin + size], crc, f"{cursor.path}: tensor {name!r}")


def _expect(right: bool, cursor: Cursor, name: str) -> None:
    if not right:
        raise CheckpointError(f"{cursor.path}: tensor {name[:200]!r}: its parts do not fit its shape")


def _dtype(name: object) -> np.dtype[Any]:
    text = str(name)
    dtype = np.dtype(getattr(ml_dtypes, text)) if hasattr(ml_dtypes, text) else np.dtype(text)
    if not (is_float(dtype) or dtype.kind in "iub"):
        raise ValueError(f"{text!r} is no type of numbers")
    return dtype


def _load_plain(part: StoredBytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    return part.checked().view(dtype).reshape(shape)


def _load_blocks(
    name: str, form: Format, part: StoredBytes, shape: tuple[int, ...], matrix: tuple[int, int] | None
) -> Encoded:
    return from_blocks(name, form, part.checked(), shape, matrix)


def _load_planes(
    form: Format, sizes: tuple[int, int], parts: Mapping[str, StoredBytes], shape: tuple[int, ...]
) -> Encoded:
    declared = form.planes(*sizes)
    planes: Planes = {name: plane.unpacked(parts[name].checked()) for name, plane in declared.items()}
    if "permutation" in planes:
        check_permutation(planes["permutation"], sizes[1])
    columns = planes.get("outlier_columns", np.zeros(0, np.int32))
    if len(np.unique(columns)) != len(columns) or ((columns < 0) | (columns >= sizes[1])).any():
        raise CheckpointError(f"columns of outliers are not among {sizes[1]}, or there twice")
    return Encoded(form, *sizes, planes, shape)
