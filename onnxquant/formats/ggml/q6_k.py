"""q6_k: ggml's super-blocks of 256 weights with sixteen signed 8-bit scales.

value = (d * sc) * (code - 32); d float16 per super-block, sc -128 .. 127 per sub-block of 16.

Encoder; steps, order and sums as ``superblocks`` says.

1. Per sub-block: extreme = the signed element of largest magnitude, the first one on ties. At first scale = extreme / -32,
   gain = -1.
2. For t = -8 .. 8 in this order: inverse = quotient(-(32 + t / 2), extreme); q = clip(rint(x * inverse), -32, 31);
   nn = sum q * q, sqx = sum x * q. If nn is 0 go on with the next t. g = (sqx * sqx) / nn, by how much the scale of
   least squares lowers the error. If g > gain: scale = sqx / nn, gain = g.
3. Per super-block: largest = the scale of largest magnitude, the first one on ties; d = half_scale(largest / -128);
   sc = clip(rint(quotient(scale, d)), -128, 127).
4. Per sub-block with the stored values: code = clip(rint(x * quotient(1, d * sc)), -32, 31) + 32.

Layout of a ggml block (210 bytes): per 128 elements 64 bytes, byte l < 32 holding the low four bits of elements l (low) and
l + 64 (high), byte l + 32 those of l + 32 and l + 96; per 128 elements 32 bytes, byte l holding the high two bits of
elements l, l + 32, l + 64, l + 96 from its lowest bits up; 16 int8 sc; d float16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Prepared
from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.superblocks import SuperBlocks, half_scale, halving_sum, quotient
from onnxquant.formats.grid import FloatArray, Indices
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Plane, Planes
from onnxquant.numerics.arrays import Bytes

_STEPS = [np.float32(t / 2) for t in range(-8, 9)]
_OFFSET, _LOWEST, _HIGHEST = np.float32(32), np.float32(-32), np.float32(31)
_TWOS = np.array([0, 2, 4, 6], np.uint8)[:, None]
_LOW, _HIGH = np.uint8(15), np.uint8(4)


@dataclass(frozen=True)
class Q6_K(SuperBlocks):  # noqa: N801  the field writes it so
    """ggml's 6-bit super-blocks of 256: sixteen 8-bit scales."""

    name = "q6_k"
    bits = 6
    facts = Facts(rmse=0.01663, drift=0.02)
    sub_block = 16
    block_bytes = 210
    filler = 32

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:  # noqa: D102
        codes = Plane.of("codes", (rows, cols), np.uint8, bits=self.bits)
        scales = self.per_super("scales", rows, cols, np.float16)
        return [codes, scales, self.per_super("subscales", rows, cols, np.int8, 16)]

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        rows, cols = chunk.shape
        x = self.columns(chunk)
        scale = _search(x).reshape(-1, 16)
        d, small = _small(scale)
        codes = np.rint(x * quotient(np.float32(1), (d.astype(np.float32) * small).reshape(-1)))
        np.clip(codes, _LOWEST, _HIGHEST, out=codes)
        codes += _OFFSET
        return {
            "codes": self.rows_of(codes, rows, cols),
            "scales": d.reshape(rows, -1),
            "subscales": small.reshape(rows, -1).astype(np.int8),
        }

    def levels(self) -> tuple[Matrix, Indices]:  # noqa: D102
        codes = np.arange(64, dtype=np.uint8)
        return codes.astype(np.float32) - _OFFSET, codes

    def steps(self, planes: Planes) -> tuple[Matrix, Matrix]:  # noqa: D102
        step = np.repeat(planes["scales"].astype(np.float32), 16, axis=1) * planes["subscales"].astype(np.float32)
        return step, np.zeros_like(step)

    def scale_planes(self, step: FloatArray, shift: FloatArray) -> Planes:  # noqa: D102
        d, small = _small(self.whole(step))
        rows = len(step)
        return {"scales": d.reshape(rows, -1), "subscales": small.reshape(rows, -1).astype(np.int8)}

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:  # noqa: D102
        values = planes["codes"].astype(np.float32)
        values -= _OFFSET
        step = np.repeat(planes["scales"].astype(np.float32), 16, axis=1) * planes["subscales"].astype(np.float32)
        values *= self.spread(step, cols)
        return values

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        shape = planes["codes"].shape[:2]
        quarters = planes["codes"].reshape(*shape, 2, 4, 32)
        low = (quarters[..., :2, :] & _LOW) | quarters[..., 2:, :] << _HIGH
        high = np.bitwise_or.reduce(quarters >> _HIGH << _TWOS, axis=-2)
        sides = [ggml.as_bytes(planes[name]) for name in ("subscales", "scales")]
        return [low.reshape(*shape, 128), high.reshape(*shape, 64), *sides]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        shape = raw.shape[:2]
        low = raw[..., :128].reshape(*shape, 2, 2, 32)
        high = raw[..., 128:192].reshape(*shape, 2, 1, 32) >> _TWOS & np.uint8(3)
        codes = np.concatenate([low & _LOW, low >> _HIGH], axis=-2) | high << _HIGH
        return {
            "codes": codes.reshape(*shape, 256),
            "scales": ggml.as_type(raw[..., 208:], np.float16),
            "subscales": ggml.as_type(raw[..., 192:208], np.int8),
        }


def _small(scale: Matrix) -> tuple[NDArray[np.float16], Matrix]:
    """The float16 of each super-block, and the integers of its sub-blocks, from their scales [super-blocks, 16]."""
    d = half_scale(ggml.extreme(scale) / np.float32(-128))
    return d, np.clip(np.rint(quotient(scale, d.astype(np.float32))), np.float32(-128), np.float32(127))


def _search(x: Matrix) -> Matrix:
    """Scale of each sub-block: steps 1 and 2."""
    extreme = ggml.extreme(x.T)[:, 0]
    best, gain = extreme / -_OFFSET, np.full_like(extreme, -1)
    for t in _STEPS:
        q = np.rint(x * quotient(-(_OFFSET + t), extreme))
        np.clip(q, _LOWEST, _HIGHEST, out=q)
        nn, sqx = halving_sum(q * q), halving_sum(x * q)
        some = nn > 0
        safe = np.where(some, nn, np.float32(1))
        g = (sqx * sqx) / safe
        better = some & (g > gain)
        best = np.where(better, sqx / safe, best)
        gain = np.where(better, g, gain)
    return best
