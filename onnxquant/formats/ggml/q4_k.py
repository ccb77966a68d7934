"""q4_k and q5_k: ggml's super-blocks of 256 weights with eight 6-bit scales and minima.

value = (d * sc) * code - (dmin * m); d and dmin float16 per super-block, sc and m 0 .. 63 per sub-block of 32.

Encoder, with top = 2^bits - 1; steps, order and sums as ``superblocks`` says.

1. Per sub-block: low = min(min x, 0), span = max x - low. At first scale = span / top, minimum = low, error = infinity.
2. For t = -6 .. 6 in this order: inverse = quotient(top + t / 4, span); q = clip(rint((x - low) * inverse), 0, top);
   n = sum q, nn = sum q * q, sx = sum x, sqx = sum x * q; det = 32 * nn - n * n. If det is 0 go on with the next t. Least
   squares: a = (32 * sqx - sx * n) / det, b = (nn * sx - n * sqx) / det; where b > 0 instead b = 0, a = sqx / nn.
   e = sum of squares of (a * q + b) - x. If e < error: scale = a, minimum = b, error = e.
3. Per super-block: d = half_scale(max scale / 63), dmin = half_scale(max(-minimum) / 63) with the minima of step 2, both
   maxima at least 0.
   sc = clip(rint(quotient(scale, d)), 0, 63). Where sc is 0 the sub-block is one value: minimum = min(sx / 32, 0) instead.
   m = clip(rint(quotient(-minimum, dmin)), 0, 63).
4. Per sub-block with the stored values: step = d * sc, shift = dmin * m; code = clip(rint((x + shift) * quotient(1, step)),
   0, top).

Layout of a ggml block: d, dmin float16; 12 bytes with sc and m: for j < 4 byte j = sc[j] | high bits of sc[j + 4] << 6, byte
4 + j the same of m, byte 8 + j = low four bits of sc[j + 4] | low four bits of m[j + 4] << 4; q5_k: 32 bytes, bit s of byte l
is bit 4 of element l of sub-block s; then 128 bytes, 32 for each two sub-blocks: the first one's codes low, the
second one's high (their low four bits). 144 and 176 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Prepared
from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.six_bits import from_six_bits, six_bits
from onnxquant.formats.ggml.superblocks import SuperBlocks, half_scale, halving_sum, quotient
from onnxquant.formats.grid import FloatArray, Indices
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Plane, Planes
from onnxquant.numerics.arrays import Bytes

_STEPS = [np.float32(t / 4) for t in range(-6, 7)]
_MOST = np.float32(63)
_LOW, _HIGH = np.uint8(15), np.uint8(4)


@dataclass(frozen=True)
class _MinimumSuperBlocks(SuperBlocks):
    """Base of q4_k and q5_k."""

    sub_block = 32
    filler = 0

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:
        codes = Plane.of("codes", (rows, cols), np.uint8, bits=self.bits)
        halves = [self.per_super(name, rows, cols, np.float16) for name in ("scales", "minima")]
        small = [self.per_super(name, rows, cols, np.uint8, 8, bits=6) for name in ("subscales", "subminima")]
        return [codes, *halves, *small]

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:
        rows, cols = chunk.shape
        x = self.columns(chunk)
        top = np.float32((1 << self.bits) - 1)
        scale, minimum = _search(x, top)
        d, dmin = _largest(scale), _largest(-minimum)
        subscales, step = _small(scale, d)
        flat = np.minimum(halving_sum(x) / np.float32(32), np.float32(0))
        subminima, shift = _small(-np.where(subscales > 0, minimum, flat), dmin)
        codes = np.rint((x + shift) * quotient(np.float32(1), step))
        np.clip(codes, 0, top, out=codes)
        return {
            "codes": self.rows_of(codes, rows, cols),
            "scales": d.reshape(rows, -1),
            "minima": dmin.reshape(rows, -1),
            "subscales": subscales.reshape(rows, -1).astype(np.uint8),
            "subminima": subminima.reshape(rows, -1).astype(np.uint8),
        }

    shifts = True

    def levels(self) -> tuple[Matrix, Indices]:
        codes = np.arange(1 << self.bits, dtype=np.uint8)
        return codes.astype(np.float32), codes

    def steps(self, planes: Planes) -> tuple[Matrix, Matrix]:
        step, minimum = (
            np.repeat(planes[half].astype(np.float32), 8, axis=1) * planes[small].astype(np.float32)
            for half, small in (("scales", "subscales"), ("minima", "subminima"))
        )
        return step, -minimum

    def scale_planes(self, step: FloatArray, shift: FloatArray) -> Planes:
        planes: Planes = {}
        for half, small, side in (("scales", "subscales", step), ("minima", "subminima", -shift)):
            whole = self.whole(side)
            planes[half] = _largest(whole)
            planes[small] = _small(whole, planes[half])[0].astype(np.uint8)
        return {name: plane.reshape(len(step), -1) for name, plane in planes.items()}

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:
        values = planes["codes"].astype(np.float32)
        values *= self._side(planes["scales"], planes["subscales"], cols)
        values -= self._side(planes["minima"], planes["subminima"], cols)
        return values

    def _side(self, half: NDArray[np.float16], small: NDArray[np.uint8], cols: int) -> Matrix:
        return self.spread(np.repeat(half.astype(np.float32), 8, axis=1) * small.astype(np.float32), cols)


def _search(x: Matrix, top: np.float32) -> tuple[Matrix, Matrix]:
    """Scale and minimum (at most 0) of each sub-block: steps 1 and 2."""
    low = np.minimum(x.min(axis=0), np.float32(0))
    span = x.max(axis=0) - low
    best_scale, best_minimum = span / top, low
    error = np.full_like(low, np.inf)
    sx = halving_sum(x)
    for t in _STEPS:
        q = np.rint((x - low) * quotient(top + t, span))
        np.clip(q, 0, top, out=q)
        n, nn, sqx = halving_sum(q), halving_sum(q * q), halving_sum(x * q)
        det = np.float32(32) * nn - n * n
        some = det > 0
        safe = np.where(some, det, np.float32(1))
        a = (np.float32(32) * sqx - sx * n) / safe
        b = (nn * sx - n * sqx) / safe
        raised = b > 0
        a = np.where(raised, sqx / np.where(some, nn, np.float32(1)), a)
        b = np.where(raised, np.float32(0), b)
        difference = (a * q + b) - x
        e = halving_sum(difference * difference)
        better = some & (e < error)
        best_scale, best_minimum = np.where(better, a, best_scale), np.where(better, b, best_minimum)
        error = np.where(better, e, error)
    return best_scale, best_minimum


def _largest(side: Matrix) -> NDArray[np.float16]:
    """The float16 of each super-block, [super-blocks, 1], by its largest scale or minimum."""
    largest = side.reshape(-1, 8).max(axis=1, keepdims=True)
    return half_scale(np.maximum(largest, np.float32(0)) / _MOST)


def _small(side: Matrix, half: NDArray[np.float16]) -> tuple[Matrix, Matrix]:
    """The integer of each sub-block, and its product with the float16."""
    wide = half.astype(np.float32)
    small = np.clip(np.rint(quotient(side.reshape(-1, 8), wide)), 0, _MOST)
    return small.reshape(-1), (wide * small).reshape(-1)


def _pack_sides(planes: Planes) -> list[Bytes]:
    shape = planes["subscales"].shape
    packed = six_bits(*(planes[name].reshape(shape[0], -1) for name in ("subscales", "subminima")))
    return [ggml.as_bytes(planes["scales"]), ggml.as_bytes(planes["minima"]), packed]


def _unpack_sides(raw: Bytes) -> Planes:
    subscales, subminima = from_six_bits(raw[..., 4:16])
    return {
        "scales": ggml.as_type(raw[..., :2], np.float16),
        "minima": ggml.as_type(raw[..., 2:4], np.float16),
        "subscales": subscales.reshape(*raw.shape[:2], 8),
        "subminima": subminima.reshape(*raw.shape[:2], 8),
    }


def _pack_nibbles(codes: Bytes) -> Bytes:
    pairs = codes.reshape(*codes.shape[:2], 4, 2, 32)
    packed = (pairs[..., 0, :] & _LOW) | pairs[..., 1, :] << _HIGH
    return packed.reshape(*codes.shape[:2], 128)


def _unpack_nibbles(raw: Bytes) -> Bytes:
    pairs = raw.reshape(*raw.shape[:2], 4, 1, 32)
    codes = np.concatenate([pairs & _LOW, pairs >> _HIGH], axis=-2)
    return codes.reshape(*raw.shape[:2], 256)


@dataclass(frozen=True)
class Q4_K(_MinimumSuperBlocks):  # noqa: N801  the field writes it so
    """ggml's 4-bit super-blocks of 256: eight 6-bit scales and minima."""

    name = "q4_k"
    bits = 4
    facts = Facts(rmse=0.0715, drift=0.1)
    block_bytes = 144

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        return [*_pack_sides(planes), _pack_nibbles(planes["codes"])]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        return {"codes": _unpack_nibbles(raw[..., 16:]), **_unpack_sides(raw)}


@dataclass(frozen=True)
class Q5_K(_MinimumSuperBlocks):  # noqa: N801
    """ggml's 5-bit super-blocks of 256: eight 6-bit scales and minima."""

    name = "q5_k"
    bits = 5
    facts = Facts(rmse=0.03574, drift=0.05)
    block_bytes = 176

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        codes = planes["codes"]
        fifth = codes.reshape(*codes.shape[:2], 8, 32) >> _HIGH << np.arange(8, dtype=np.uint8)[:, None]
        return [*_pack_sides(planes), np.bitwise_or.reduce(fifth, axis=-2), _pack_nibbles(codes)]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        fifth = raw[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
        codes = _unpack_nibbles(raw[..., 48:]) | fifth.reshape(*raw.shape[:2], 256) << _HIGH
        return {"codes": codes, **_unpack_sides(raw)}
