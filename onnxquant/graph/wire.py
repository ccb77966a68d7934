"""Outlines tensor bytes of a serialized model so that they stay in the mapped file.

``onnx.load`` copies every tensor into memory. A converter needs the graph at once but its tensors one at a time, so
this module walks the protobuf wire format (by lengths, never byte by byte) and rewrites each large ``raw_data`` field
into an external reference that points back into the very same buffer.

Wire format: https://protobuf.dev/programming-guides/encoding/ ; field numbers: onnx/onnx.proto3.
"""

from __future__ import annotations

from typing import NamedTuple

from onnxquant.errors import ModelError

# A location no file can have: it marks tensors whose bytes lie in the model file itself.
INLINE = "\x00inline"
# The beginning of locations that no file can have: tensors that were computed lie in temporary files.
COMPUTED = "\x00computed"
OUTLINE_ABOVE = 1024
MAX_DEPTH = 128

# message -> {field number: message kept inside that can hold tensors}
_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14


def outline(buffer: memoryview) -> bytes:
    """The model of ``buffer`` with every ``raw_data`` above 1 KiB replaced by a reference into ``buffer``.

    Args:
        buffer: a serialized ModelProto.

    Returns:
        a serialized ModelProto; outlined tensors have ``location`` INLINE and an offset and length in ``buffer``.

    Raises:
        ModelError: the bytes are not a well-formed protobuf message.
    """
    try:
        return _message(buffer, 0, len(buffer), "model", 0)
    except IndexError:
        raise ModelError("the file ends in the middle of a field: it is truncated or not an ONNX model") from None


def _message(buffer: memoryview, start: int, end: int, kind: str, depth: int) -> bytes:
    """The bytes of a message without the large tensors inside it, which refer to their place in the buffer instead."""
    if depth > MAX_DEPTH:
        raise ModelError(f"graphs are nested deeper than {MAX_DEPTH} messages")
    if kind == "tensor":
        return _tensor(buffer, start, end)
    nested = _NESTED[kind]
    out: list[bytes | memoryview] = []
    position = copied = start
    while position < end:
        field_start = position
        number, wire, position, size = _field(buffer, position, end)
        if wire == 2 and number in nested and size > OUTLINE_ABOVE:
            out.append(buffer[copied:field_start])
            body = _message(buffer, position, position + size, nested[number], depth + 1)
            out.append(varint(number << 3 | 2) + varint(len(body)) + body)
            copied = position + size
        position += size
    out.append(buffer[copied:end])
    return b"".join(out)


def _tensor(buffer: memoryview, start: int, end: int) -> bytes:
    """The bytes of a tensor; raw data that is large becomes a reference to its place in the buffer."""
    out: list[bytes | memoryview] = []
    position = copied = start
    reference: tuple[int, int] | None = None
    while position < end:
        field_start = position
        number, wire, position, size = _field(buffer, position, end)
        if number == _RAW_DATA and wire == 2 and size > OUTLINE_ABOVE:
            out.append(buffer[copied:field_start])
            reference = (position, size)
            copied = position + size
        position += size
    out.append(buffer[copied:end])
    if reference:
        entries = {"location": INLINE, "offset": str(reference[0]), "length": str(reference[1])}
        out += [_length_delimited(_EXTERNAL_DATA, _entry(k, v)) for k, v in entries.items()]
        out.append(varint(_DATA_LOCATION << 3) + b"\x01")
    return b"".join(out)


class _Field(NamedTuple):
    """A field of a message: its number and wire type, and the start and size of its payload."""

    number: int
    wire: int
    start: int
    size: int


def _field(buffer: memoryview, position: int, end: int) -> _Field:
    """The field at a position."""
    tag, position = _read_varint(buffer, position)
    wire = tag & 7
    if wire == 0:
        _, after = _read_varint(buffer, position)
        size = after - position
    elif wire == 1:
        size = 8
    elif wire == 2:
        size, position = _read_varint(buffer, position)
    elif wire == 5:
        size = 4
    else:
        raise ModelError(f"not an ONNX model: wire type {wire} at byte {position}")
    if position + size > end:
        raise ModelError(
            f"the file is truncated or not an ONNX model: a field at byte {position} claims {size} bytes, "
            f"{end - position} are left"
        )
    return _Field(tag >> 3, wire, position, size)


def _read_varint(buffer: memoryview, position: int) -> tuple[int, int]:
    """The integer at a position, and the position behind it."""
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ModelError(f"not an ONNX model: an integer at byte {position} has more than 64 bits")


def varint(value: int) -> bytes:
    """A non-negative integer in protobuf's base-128 form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _length_delimited(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def _entry(key: str, value: str) -> bytes:
    return _length_delimited(1, key.encode()) + _length_delimited(2, value.encode())
