"""Damage of files of tensors: of any bytes, and of the JSON of a header with its lengths and checksums renewed."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NUMBERS = (
    0, 1, 2, 3, 31, 255, 256, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, (1 << 64) - 1,
)  # fmt: skip
_LEAVES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 1 << 31, 1 << 63, 1 << 64, 10**30, 1e308, float("inf"), float("nan"), "", "a", "\x1b[2J", "..",
    "../a", "/etc/passwd", "\ud800", "F16", "I32", "U8", "BF16", "nf4", "int4", "x" * 70000, [], [0], [-1, -4], [1 << 40, 0],
    [[]], {}, {"a": {}},
)  # fmt: skip


def damaged(file: Path, raw: bytes, rng: random.Random) -> bytes:
    """A file with some damage; half of it in the JSON of its header, with its lengths and checksums renewed."""
    if rng.random() < 0.5:
        if file.suffix == ".safetensors":
            return _safetensors_header(raw, rng)
        if file.suffix == ".tensor":
            whole = _safetensors_header(raw[:-32], rng) if rng.random() < 0.7 else _in_bytes(raw[:-32], rng)
            return whole + hashlib.sha256(whole).digest()
        if file.suffix == ".axqt":
            return _axqt_header(raw, rng)
        if file.suffix == ".json":
            return _in_json(raw, rng)
    return _in_bytes(raw, rng)


def _in_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, inserted or taken away; mostly in front, where headers are."""
    out = bytearray(raw)
    reach = len(out) if rng.random() < 0.4 else min(len(out), 600)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, way = rng.randrange(reach + 1), rng.randrange(5)
        if way == 0:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif way == 1:
            width = rng.choice(("<I", "<Q"))
            out[at : at + struct.calcsize(width)] = struct.pack("<Q", rng.choice(_NUMBERS))[: struct.calcsize(width)]
        elif way == 2:
            del out[at : at + rng.choice((1, 4, 8, 64))]
        elif way == 3:
            out[at:at] = rng.randbytes(rng.choice((1, 4, 8)))
        else:
            begin = rng.randrange(reach + 1)
            out[at:at] = out[begin : begin + rng.choice((4, 32, 128))]
    return bytes(out)


def _in_json(text: bytes, rng: random.Random) -> bytes:
    """Some values of JSON replaced, exchanged, or taken away."""
    data = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(data))
        holder, key = rng.choice(places)
        way = rng.randrange(6)
        if way == 0:
            del holder[key]
        elif way == 1:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place])) if place in _keys(other) else None
        elif way == 2 and isinstance(holder, dict):
            holder[rng.choice(("a", "", "__metadata__", "l.scales", "x" * 300))] = holder.pop(key)
        elif way == 3 and type(holder[key]) is int:
            holder[key] += rng.choice((-1, 1, 8, 64, 256))
        else:
            holder[key] = copy.deepcopy(rng.choice(_LEAVES))
        if not data:
            break
    return json.dumps(data).encode()


def _keys(holder: Any) -> list[Any]:  # noqa: ANN401 - JSON
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _places(data: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - JSON
    if isinstance(data, dict | list):
        for key in _keys(data):
            yield data, key
            yield from _places(data[key])


def _safetensors_header(raw: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", raw[:8])
    header = _in_json(raw[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + raw[8 + length :]


def _axqt_header(raw: bytes, rng: random.Random) -> bytes:
    start, length = struct.unpack("<QQ", raw[12:28])
    header, data = raw[start : start + length], bytearray(raw[:start])
    if rng.random() < 0.3:
        entries = json.loads(header)
        for part in rng.choice(entries["tensors"])["parts"]:
            begin, end = part["offset"], part["offset"] + part["nbytes"]
            for _ in range(rng.choice((1, 2, 9)) if end > begin else 0):
                data[rng.randrange(begin, end)] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
            part["crc32"] = zlib.crc32(data[begin:end])
        header = json.dumps(entries).encode()
    else:
        header = _in_json(header, rng)
    return raw[:8] + struct.pack("<IQQ", zlib.crc32(header), start, len(header)) + data[28:] + header
