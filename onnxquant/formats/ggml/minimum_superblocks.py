"""Super-blocks whose sub-blocks have a scale and a minimum: base of ggml's q2_k, q4_k and q5_k.

value = (d * sc) * code - (dmin * m); d and dmin float16 per super-block, sc and m 0 .. most per sub-block of ``n`` weights.

Encoder, with top = 2^bits - 1; steps, order and sums as ``superblocks`` says.

1. Per sub-block: low = min(min x, 0), span = max x - low. At first scale = span / top, minimum = low, error = infinity.
2. For t = -6 .. 6 in this order: inverse = quotient(top + t * stride, span); q = clip(rint((x - low) * inverse), 0, top);
   sq = sum q, qq = sum q * q, sx = sum x, sqx = sum x * q; det = n * qq - sq * sq. If det is 0 go on with the next t. Least
   squares: a = (n * sqx - sx * sq) / det, b = (qq * sx - sq * sqx) / det; where b > 0 instead b = 0, a = sqx / qq.
   e = sum of squares of (a * q + b) - x. If e < error: scale = a, minimum = b, error = e.
3. Per super-block: d = half_scale(max scale / most), dmin = half_scale(max(-minimum) / most) with the minima of step 2, both
   maxima at least 0.
   sc = clip(rint(quotient(scale, d)), 0, most). Where sc is 0 the sub-block is one value: minimum = min(sx / n, 0) instead.
   m = clip(rint(quotient(-minimum, dmin)), 0, most).
4. Per sub-block with the stored values: step = d * sc, shift = dmin * m; code = clip(rint((x + shift) * quotient(1, step)),
   0, top).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Prepared
from onnxquant.formats.ggml.superblocks import SUPER, SuperBlocks, half_scale, halving_sum, quotient
from onnxquant.formats.grid import FloatArray, Indices
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Plane, Planes

_STEPS = range(-6, 7)


@dataclass(frozen=True)
class MinimumSuperBlocks(SuperBlocks):
    """Base of the K-quants whose sub-blocks have minima."""

    filler = 0
    shifts = True
    # Bits of a factor, and how far apart the scales that the encoder tries are.
    factor_bits: ClassVar[int]
    stride: ClassVar[float]

    @property
    def per_super_block(self) -> int:
        """Sub-blocks of a super-block."""
        return SUPER // self.sub_block

    @property
    def most(self) -> np.float32:
        """The largest factor."""
        return np.float32((1 << self.factor_bits) - 1)

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:  # noqa: D102
        codes = Plane.of("codes", (rows, cols), np.uint8, bits=self.bits)
        halves = [self.per_super(name, rows, cols, np.float16) for name in ("scales", "minima")]
        small = [
            self.per_super(name, rows, cols, np.uint8, self.per_super_block, bits=self.factor_bits)
            for name in ("subscales", "subminima")
        ]
        return [codes, *halves, *small]

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        rows, cols = chunk.shape
        x = self.columns(chunk)
        top = np.float32((1 << self.bits) - 1)
        scale, minimum = _search(x, top, np.float32(self.stride))
        d, dmin = self._largest(scale), self._largest(-minimum)
        subscales, step = self._small(scale, d)
        flat = np.minimum(halving_sum(x) / np.float32(self.sub_block), np.float32(0))
        subminima, shift = self._small(-np.where(subscales > 0, minimum, flat), dmin)
        codes = np.rint((x + shift) * quotient(np.float32(1), step))
        np.clip(codes, 0, top, out=codes)
        return {
            "codes": self.rows_of(codes, rows, cols),
            "scales": d.reshape(rows, -1),
            "minima": dmin.reshape(rows, -1),
            "subscales": subscales.reshape(rows, -1).astype(np.uint8),
            "subminima": subminima.reshape(rows, -1).astype(np.uint8),
        }

    def levels(self) -> tuple[Matrix, Indices]:  # noqa: D102
        codes = np.arange(1 << self.bits, dtype=np.uint8)
        return codes.astype(np.float32), codes

    def steps(self, planes: Planes) -> tuple[Matrix, Matrix]:  # noqa: D102
        step, minimum = (
            np.repeat(planes[half].astype(np.float32), self.per_super_block, axis=1) * planes[small].astype(np.float32)
            for half, small in (("scales", "subscales"), ("minima", "subminima"))
        )
        return step, -minimum

    def scale_planes(self, step: FloatArray, shift: FloatArray) -> Planes:  # noqa: D102
        planes: Planes = {}
        for half, small, side in (("scales", "subscales", step), ("minima", "subminima", -shift)):
            whole = self.whole(side)
            planes[half] = self._largest(whole)
            planes[small] = self._small(whole, planes[half])[0].astype(np.uint8)
        return {name: plane.reshape(len(step), -1) for name, plane in planes.items()}

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:  # noqa: D102
        step, shift = self.steps(planes)
        values = planes["codes"].astype(np.float32)
        values *= self.spread(step, cols)
        values += self.spread(shift, cols)
        return values

    def _largest(self, side: Matrix) -> NDArray[np.float16]:
        """The float16 of each super-block, [super-blocks, 1], by its largest scale or minimum."""
        largest = side.reshape(-1, self.per_super_block).max(axis=1, keepdims=True)
        return half_scale(np.maximum(largest, np.float32(0)) / self.most)

    def _small(self, side: Matrix, half: NDArray[np.float16]) -> tuple[Matrix, Matrix]:
        """The integer of each sub-block, and its product with the float16."""
        wide = half.astype(np.float32)
        small = np.clip(np.rint(quotient(side.reshape(-1, self.per_super_block), wide)), 0, self.most)
        return small.reshape(-1), (wide * small).reshape(-1)


def _search(x: Matrix, top: np.float32, stride: np.float32) -> tuple[Matrix, Matrix]:
    """Scale and minimum (at most 0) of each sub-block: steps 1 and 2."""
    n = np.float32(len(x))
    low = np.minimum(x.min(axis=0), np.float32(0))
    span = x.max(axis=0) - low
    best_scale, best_minimum = span / top, low
    error = np.full_like(low, np.inf)
    sx = halving_sum(x)
    for t in _STEPS:
        q = np.rint((x - low) * quotient(top + np.float32(t) * stride, span))
        np.clip(q, 0, top, out=q)
        sq, qq, sqx = halving_sum(q), halving_sum(q * q), halving_sum(x * q)
        det = n * qq - sq * sq
        some = det > 0
        safe = np.where(some, det, np.float32(1))
        a = (n * sqx - sx * sq) / safe
        b = (qq * sx - sq * sqx) / safe
        raised = b > 0
        a = np.where(raised, sqx / np.where(some, qq, np.float32(1)), a)
        b = np.where(raised, np.float32(0), b)
        difference = (a * q + b) - x
        e = halving_sum(difference * difference)
        better = some & (e < error)
        best_scale, best_minimum = np.where(better, a, best_scale), np.where(better, b, best_minimum)
        error = np.where(better, e, error)
    return best_scale, best_minimum
