"""The header of safetensors files: a JSON object of names, types, shapes and places, behind its length.

Source: the format's description in the safetensors package.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np

from onnxquant.errors import CheckpointError
from onnxquant.interchange.cursor import Cursor, MappedFile, longest_json, parsed_json
from onnxquant.interchange.tensor import are_counts, is_shape
from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.numerics.arrays import Array

DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "I64": np.int64, "I32": np.int32,
        "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}  # fmt: skip
NAMES: Mapping[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}
METADATA = "__metadata__"


@dataclass(frozen=True)
class SafetensorsFile:
    """Arrays of a file by name, mapped, and texts beside them."""

    file: MappedFile
    arrays: Mapping[str, Array]
    metadata: Mapping[str, str]


def read_file(path: Path) -> SafetensorsFile:
    """The arrays of a safetensors file.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = MappedFile.open(path)
    cursor = Cursor(path, file.data)
    length = cursor.number("Q", "the length of the header")
    if length > min(cursor.left, longest_json(len(cursor.data))):
        raise cursor.error(f"the header is said to be {length} bytes long, in a file of {len(cursor.data)}")
    header = parsed_json(f"{path}: its header", cursor.take(length, "the header").tobytes(), len(cursor.data))
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: {METADATA} holds something else than texts")
    places = sorted((_place(path, name, entry) for name, entry in header.items()), key=lambda p: (p.start, p.end))
    end = 0
    for place in places:
        if place.start != end:
            raise CheckpointError(
                f"{path}: tensor {place.name!r} begins at byte {place.start} of the data; expected {end}"
            )
        end = place.end
    if end != cursor.left:
        raise CheckpointError(f"{path}: {cursor.left} bytes of data, and its tensors take {end}; is it cut off?")
    data = cursor.take(end, "the data")
    at = {place.name: place for place in places}
    arrays = {name: data[at[name].start : at[name].end].view(at[name].dtype) for name in header}
    shaped = {name: array.reshape(at[name].shape) for name, array in arrays.items()}
    return SafetensorsFile(file, shaped, cast(dict[str, str], metadata))


@dataclass(frozen=True)
class _Place:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int


def _place(path: Path, name: str, entry: JsonValue) -> _Place:
    """The place of a tensor, checked by itself."""
    if isinstance(entry, dict) and str(entry.get("dtype")) in DTYPES:
        dtype, shape, ends = DTYPES[str(entry["dtype"])], entry.get("shape"), entry.get("data_offsets")
        if (
            is_shape(shape)
            and are_counts(ends)
            and len(ends) == 2
            and ends[1] - ends[0] == prod(shape) * dtype.itemsize
        ):
            return _Place(name, dtype, tuple(shape), *ends)
    raise CheckpointError(
        f"{path}: tensor {name[:60]!r}: {str(entry)[:120]} is no type, shape and place that fit each other"
    )


def header_of(shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The bytes in front of the data of a file whose arrays have these types and shapes."""
    header: JsonObject = {METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape) in shapes.items():
        size = prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw
