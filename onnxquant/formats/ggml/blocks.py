"""Base of ggml's block formats: float32 reciprocals, float16 scales, and the conversion of blocks to bytes and back.

A row is cut into blocks of 32 or 256 weights. A row that is no multiple of them ends in a short block; in bytes it is
filled with the code of zero.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onnxquant.errors import WeightError
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.matrix import CHUNK_BYTES, Matrix
from onnxquant.formats.planes import Plane, Planes
from onnxquant.numerics.arrays import Bytes
from onnxquant.numerics.casts import narrowed
from onnxquant.numerics.rows import row_ranges

_FIELDS = np.array([0, 2, 4, 6], np.uint8)[:, None]


def reciprocal(scale: Matrix) -> Matrix:
    """1 / scale in float32; 0 where the scale is 0 or so small that its reciprocal overflows (ggml leaves that open)."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def half(scale: Matrix) -> NDArray[np.float16]:
    """The scale as it is stored: float16, infinite when it is out of range (``check_range`` refuses it)."""
    return narrowed(scale, overflow="infinity")


def extreme(groups: Matrix) -> Matrix:
    """The signed element of largest magnitude of each group, the first one on ties; [.., 1]."""
    at = np.abs(groups).argmax(axis=-1, keepdims=True)
    return np.take_along_axis(groups, at, axis=-1)


def round_away(values: Matrix) -> Matrix:
    """The nearest integers, halves away from zero; x - trunc(x) is exact, so the comparison is too."""
    whole = np.trunc(values)
    whole += np.copysign((np.abs(values - whole) >= np.float32(0.5)).astype(np.float32), values)
    return whole


@dataclass(frozen=True)
class Blocks(Format):
    """Base of the formats whose bytes ggml defines: a fixed number of weights in a fixed number of bytes."""

    foreign = True
    source = "ggml (llama.cpp): block structures and reference quantizers"
    block: ClassVar[int] = 32
    block_bytes: ClassVar[int]
    # The code that fills a short last block.
    filler: ClassVar[int]

    @abstractmethod
    def block_parts(self, planes: Planes) -> list[Bytes]:
        """The fields of a block in their order, each [rows, blocks, bytes], from planes [rows, blocks, per block]."""

    @abstractmethod
    def block_planes(self, raw: Bytes) -> Planes:
        """Planes [rows, blocks, per block] from bytes [rows, blocks, block_bytes]."""

    def to_blocks(self, encoded: Encoded) -> Bytes:
        """The weight as ggml blocks: uint8 [rows, blocks, bytes of a block], columns in the order they are stored."""
        rows, cols = encoded.rows, encoded.cols
        count = -(-cols // self.block)
        if not rows * count:
            return np.empty((rows, count, self.block_bytes), np.uint8)
        planes = {name: p.reshape(rows, count, -1) for name, p in encoded.planes.items() if _per_block(name)}
        codes = encoded.planes["codes"]
        if cols % self.block:
            codes = np.concatenate([codes, np.full((rows, -cols % self.block), self.filler, np.uint8)], axis=1)
        planes["codes"] = codes.reshape(rows, count, self.block)
        blocks = np.empty((rows, count, self.block_bytes), np.uint8)
        for part in row_ranges(rows, cols, CHUNK_BYTES):
            own = {name: plane[part] for name, plane in planes.items()}
            np.concatenate(self.block_parts(own), axis=-1, out=blocks[part])
        return blocks

    def from_blocks(self, blocks: NDArray[Any], rows: int, cols: int) -> Encoded:
        """The weight that ggml blocks stand for; ``blocks``: rows * ceil(cols / block) * block_bytes bytes.

        Raises:
            WeightError: the byte count does not fit, or a code has no meaning.
        """
        count, size = -(-cols // self.block), self.block_bytes
        raw = np.ascontiguousarray(blocks).reshape(-1).view(np.uint8)
        if raw.size != rows * count * size:
            raise WeightError(
                f"format {self.name}: {raw.size} bytes, expected {rows * count * size} for shape [{rows}, {cols}]"
            )
        form = self.with_(permuted=False)
        planes = form.allocate(rows, cols)
        for part in row_ranges(rows, cols, CHUNK_BYTES):
            for name, plane in self.block_planes(raw.reshape(rows, count, size)[part]).items():
                planes[name][part] = plane.reshape(part.stop - part.start, -1)[:, : planes[name].shape[1]]
        return Encoded(form, rows, cols, planes, (rows, cols))


@dataclass(frozen=True)
class NibbleBlocks(Blocks):
    """Blocks of 32 codes of 4 or 5 bits: scales and minima, the word of fifth bits where there are such, then nibbles."""

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        codes = planes["codes"]
        fifth = [fifth_bits(codes)] if self.bits == 5 else []
        return [*(as_bytes(planes[side.name]) for side in self._sides()), *fifth, nibbles(codes)]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        planes: Planes = {"codes": from_nibbles(raw[..., -16:])}
        start = 0
        for side in self._sides():
            end = start + side.dtype.itemsize
            planes[side.name] = as_type(raw[..., start:end], side.dtype)
            start = end
        if self.bits == 5:
            planes["codes"] |= from_fifth_bits(raw[..., start:-16])
        return planes

    def _sides(self) -> list[Plane]:
        """The planes of one block but for its codes, in their order."""
        return [plane for plane in self.declared_planes(1, self.block) if plane.name != "codes"]


def _per_block(name: str) -> bool:
    return name not in ("codes", "permutation")


def as_bytes(values: NDArray[Any]) -> Bytes:
    """Numbers [rows, blocks, n] as bytes [rows, blocks, n * itemsize]."""
    return np.ascontiguousarray(values).view(np.uint8)


def as_type(raw: Bytes, dtype: DTypeLike) -> NDArray[Any]:
    """Bytes [rows, blocks, n * itemsize] as numbers [rows, blocks, n]."""
    return np.ascontiguousarray(raw).view(dtype)


def nibbles(codes: Bytes) -> Bytes:
    """The low four bits of codes [.., 32] as 16 bytes: element j low, element j + 16 high."""
    halves = np.ascontiguousarray(codes).view(np.complex128)  # as in from_nibbles
    low, high = (np.ascontiguousarray(half).view(np.uint8) for half in (halves[..., :1], halves[..., 1:]))
    return low & np.uint8(15) | high << np.uint8(4)


def from_nibbles(raw: Bytes) -> Bytes:
    """Codes [.., 32] of 16 bytes."""
    packed = np.ascontiguousarray(raw)
    codes = np.empty((*raw.shape[:-1], 32), np.uint8)
    halves = codes.view(np.complex128)  # 16 bytes at a time: numpy copies short rows slowly
    halves[..., :1] = (packed & np.uint8(15)).view(np.complex128)
    halves[..., 1:] = (packed >> np.uint8(4)).view(np.complex128)
    return codes


def fifth_bits(codes: Bytes) -> Bytes:
    """Bit 4 of each code [.., 32] as a little-endian 32-bit word: bit i belongs to element i."""
    return np.packbits(codes >> np.uint8(4), axis=-1, bitorder="little")


def from_fifth_bits(raw: Bytes) -> Bytes:
    """Bit 4 in its place, [.., 32], of a word of 4 bytes."""
    return np.unpackbits(raw, axis=-1, bitorder="little") << np.uint8(4)


def pairs(codes: Bytes) -> Bytes:
    """Codes of two bits [.., 256] as 64 bytes: per 128 codes byte l holds l, l + 32, l + 64, l + 96, the first one lowest."""
    quarters = codes.reshape(*codes.shape[:-1], 2, 4, 32) << _FIELDS
    packed: Bytes = np.bitwise_or.reduce(quarters, axis=-2)
    return packed.reshape(*codes.shape[:-1], 64)


def from_pairs(raw: Bytes) -> Bytes:
    """Codes [.., 256] of 64 bytes."""
    quarters = raw.reshape(*raw.shape[:-1], 2, 1, 32) >> _FIELDS & np.uint8(3)
    return quarters.reshape(*raw.shape[:-1], 256)


def bits_of_eighths(bits: Bytes) -> Bytes:
    """Bits [.., 256] as 32 bytes: bit s of byte l belongs to element l + 32 s."""
    return np.packbits(bits.reshape(*bits.shape[:-1], 8, 32), axis=-2, bitorder="little")[..., 0, :]


def from_bits_of_eighths(raw: Bytes) -> Bytes:
    """Bits [.., 256] of 32 bytes."""
    return np.unpackbits(raw[..., None, :], axis=-2, bitorder="little").reshape(*raw.shape[:-1], 256)
