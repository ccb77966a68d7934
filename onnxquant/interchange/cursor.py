"""Files of tensors as bytes in memory, read from front to back with every bound checked."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxquant.errors import CheckpointError
from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.numerics.arrays import Bytes
from onnxquant.system.files import is_special

# Bytes of the longest text that is a name or a key.
_LONGEST_NAME = 1 << 12
# Memory that JSON may take when it is parsed, beside twice the file's: four bytes for one, and a hundred for each value.
_MEMORY, _PER_BYTE, _PER_VALUE = 1 << 26, 4, 100


@dataclass(frozen=True)
class MappedFile:
    """A file in memory, read from disk when its bytes are used.

    Attributes:
        path: the file.
        data: its bytes.
    """

    path: Path
    data: Bytes
    _map: mmap.mmap | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path) -> MappedFile:
        """The file of a path.

        Raises:
            CheckpointError: there is no such file, or it cannot be read.
        """
        if is_special(path):
            raise CheckpointError(f"{path}: is a device, a FIFO or a socket; expected a file")
        try:
            with path.open("rb") as file:
                if not path.stat().st_size:  # an empty file cannot be mapped
                    return cls(path, np.zeros(0, np.uint8))
                whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        return cls(path, np.frombuffer(whole, np.uint8), whole)

    def forget(self) -> None:
        """Free the memory of bytes that were read; they are read from disk again when they are used."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file, which may be fewer; none where it is no file, or cannot be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(count)
    except (OSError, ValueError):
        return b""


def is_file_name(name: object) -> bool:
    """Whether something is the name of a file in a folder, and no way out of the folder."""
    return isinstance(name, str) and 0 < len(name) < 256 and name.isprintable() and Path(name).name == name != ".."


def parsed_json(where: str, raw: bytes, file_bytes: int) -> JsonObject:
    """The object in a text of JSON.

    Args:
        where: the file, for errors.
        raw: the text.
        file_bytes: bytes of the file that it is of or speaks of, which say how long it may be.

    Raises:
        CheckpointError: it is too long, no JSON, no object, has a key twice, or a text that is not Unicode.
    """
    most = longest_json(file_bytes)
    if len(raw) > most:
        raise CheckpointError(f"{where}: has {len(raw)} bytes of JSON; expected {most} at most")
    refuse_costly_json(where, raw, file_bytes)
    try:
        data = json.loads(raw, object_pairs_hook=_without_doubles)
        if b"\\ud" in raw.lower():  # half of a pair of UTF-16, which no text can have alone
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: is no JSON: {str(error)[:100]}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{where}: is no JSON object")
    return data


def longest_json(file_bytes: int) -> int:
    """Bytes of the longest JSON that is read for a file of so many bytes."""
    return (_MEMORY + 2 * file_bytes) // _PER_BYTE


def refuse_costly_json(where: str, raw: bytes, file_bytes: int) -> None:
    """Refuse JSON that would take more memory than its file pays for; see ``parsed_json``.

    Raises:
        CheckpointError: it would.
    """
    cost = _PER_BYTE * len(raw) + _PER_VALUE * sum(raw.count(mark) for mark in (b"[", b"{", b",", b":"))
    if cost > _MEMORY + 2 * file_bytes:
        raise CheckpointError(
            f"{where}: its JSON of {len(raw)} bytes takes more memory than a file of {file_bytes} bytes is given"
        )


def json_file(path: Path, file_bytes: int) -> JsonObject:
    """The object in a file of JSON; see ``parsed_json``.

    Raises:
        CheckpointError: it cannot be read, or is no such text.
    """
    try:
        size = path.stat().st_size
        if is_special(path) or size > longest_json(file_bytes):
            raise CheckpointError(
                f"{path}: is {size} bytes long, or no file; expected {longest_json(file_bytes)} at most"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parsed_json(str(path), raw, file_bytes)


def _without_doubles(pairs: Sequence[tuple[str, JsonValue]]) -> JsonObject:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name is there twice")
    return entries


@dataclass
class Cursor:
    """A place in a file; every read moves it on.

    Attributes:
        path: the file, for errors.
        data: its bytes.
        at: offset of the next byte.
    """

    path: Path
    data: Bytes
    at: int = field(default=0)

    @property
    def left(self) -> int:
        """Bytes from here to the end of the file."""
        return len(self.data) - self.at

    def take(self, count: int, what: str) -> Bytes:
        """The next bytes, without a copy.

        Raises:
            CheckpointError: the file ends before.
        """
        if not 0 <= count <= self.left:
            raise self.error(f"{what} takes {count} bytes, and {self.left} are left; is the file cut off?")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str, what: str) -> int:
        """The next little-endian integer, of a type as ``struct`` names it.

        Raises:
            CheckpointError: the file ends before.
        """
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(code), what).tobytes())
        return int(value)

    def text(self, what: str, longest: int = _LONGEST_NAME) -> str:
        """The next text: its length as 64 bits, then UTF-8.

        Raises:
            CheckpointError: the file ends before, the text is too long, or it is not UTF-8.
        """
        length = self.number("Q", f"the length of {what}")
        if length > longest:
            raise self.error(f"{what} is {length} bytes long; expected {longest} at most")
        try:
            return self.take(length, what).tobytes().decode()
        except UnicodeDecodeError:
            raise self.error(f"{what} is not UTF-8") from None

    def error(self, sentence: str) -> CheckpointError:
        """An error that names the file and the place."""
        return CheckpointError(f"{self.path}: byte {self.at}: {sentence}")
