"""A file of tensors as bytes in memory, read from front to back with every bound checked."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxquant.errors import CheckpointError
from onnxquant.numerics.arrays import Bytes
from onnxquant.system.files import is_special

# Bytes of the longest name.
_LONGEST_NAME = 1 << 16


def mapped(path: Path) -> Bytes:
    """The bytes of a file, read from disk when they are used.

    Raises:
        CheckpointError: there is no such file, or it cannot be read.
    """
    if is_special(path):
        raise CheckpointError(f"{path}: is a device, a FIFO or a socket; expected a file")
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:  # an empty file cannot be mapped
                return np.zeros(0, np.uint8)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


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
