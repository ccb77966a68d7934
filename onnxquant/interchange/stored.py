"""Bytes of a tensor as a file holds them, and their way into another file."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from onnxquant.errors import CheckpointError
from onnxquant.numerics.arrays import Array, Bytes

# Bytes that are written at a time: the cache of a core holds them, so that a checksum and a copy read memory once.
_RUN = 1 << 18


@dataclass(frozen=True)
class StoredBytes:
    """Bytes of a tensor, whose checksum is compared when they are read.

    Attributes:
        raw: the bytes, not compared.
        crc: their CRC-32; None: the file has none.
        where: file and tensor, for errors.
    """

    raw: Bytes
    crc: int | None = None
    where: str = ""

    def checked(self) -> Bytes:
        """The bytes.

        Raises:
            CheckpointError: they are damaged.
        """
        if self.crc is not None:
            self._compare(zlib.crc32(self.raw.data))
        return self.raw

    def write(self, file: BinaryIO) -> None:
        """Write the bytes.

        Raises:
            CheckpointError: they are damaged; some of them are written.
        """
        if self.crc is not None:
            self.write_summed(file)
            return
        for run in self._runs():
            file.write(run)

    def write_summed(self, file: BinaryIO) -> int:
        """Write the bytes; their CRC-32.

        Raises:
            CheckpointError: they are damaged; some of them are written.
        """
        crc = 0
        for run in self._runs():
            crc = zlib.crc32(run, crc)
            file.write(run)
        self._compare(crc)
        return crc

    def _compare(self, crc: int) -> None:
        if self.crc not in (None, crc):
            raise CheckpointError(f"{self.where} is damaged; its checksum is not what the file says")

    def _runs(self) -> Iterator[memoryview]:
        for start in range(0, self.raw.size, _RUN):
            yield self.raw[start : start + _RUN].data


def bytes_of(array: Array) -> Bytes:
    """The bytes of an array in its order, without a copy where they lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
