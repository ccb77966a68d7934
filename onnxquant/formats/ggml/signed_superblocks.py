"""Super-blocks whose sub-blocks of 16 weights have signed scales: base of ggml's q3_k and q6_k.

value = (d * sc) * (code - middle), middle = 2^(bits-1); d float16 per super-block, sc -least .. least - 1 per sub-block.

Encoder; steps, order and sums as ``superblocks`` says.

1. Per sub-block: extreme = the signed element of largest magnitude, the first one on ties. At first scale = extreme /
   -middle, gain = -1.
2. For t = -8 .. 8 in this order: inverse = quotient(-(middle + t * stride), extreme); q = clip(rint(x * inverse), -middle,
   middle - 1); qq = sum q * q, sqx = sum x * q. If qq is 0 go on with the next t. g = (sqx * sqx) / qq, by how much the scale
   of least squares lowers the error. If g > gain: scale = sqx / qq, gain = g.
3. Per super-block: largest = the scale of largest magnitude, the first one on ties; d = half_scale(largest / -least);
   sc = clip(rint(quotient(scale, d)), -least, least - 1).
4. Per sub-block with the stored values: code = clip(rint(x * quotient(1, d * sc)), -middle, middle - 1) + middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Prepared
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.superblocks import SuperBlocks, half_scale, halving_sum, quotient
from onnxquant.formats.grid import FloatArray, Indices
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Plane, Planes

_STEPS = range(-8, 9)


@dataclass(frozen=True)
class SignedSuperBlocks(SuperBlocks):
    """Base of the K-quants whose sub-blocks have signed scales."""

    sub_block = 16
    # Bits of a scale of a sub-block, and how far apart the scales that the encoder tries are.
    factor_bits: ClassVar[int]
    stride: ClassVar[float]

    @property
    def middle(self) -> np.float32:
        """The code of zero."""
        return np.float32(1 << (self.bits - 1))

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:  # noqa: D102
        codes = Plane.of("codes", (rows, cols), np.uint8, bits=self.bits)
        scales = self.per_super("scales", rows, cols, np.float16)
        return [codes, scales, self.per_super("subscales", rows, cols, np.int8, 16, bits=self.factor_bits)]

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        rows, cols = chunk.shape
        x = self.columns(chunk)
        scale = _search(x, self.middle, np.float32(self.stride)).reshape(-1, 16)
        d, small = self._small(scale)
        codes = np.rint(x * quotient(np.float32(1), (d.astype(np.float32) * small).reshape(-1)))
        np.clip(codes, -self.middle, self.middle - np.float32(1), out=codes)
        codes += self.middle
        return {
            "codes": self.rows_of(codes, rows, cols),
            "scales": d.reshape(rows, -1),
            "subscales": small.reshape(rows, -1).astype(np.int8),
        }

    def levels(self) -> tuple[Matrix, Indices]:  # noqa: D102
        codes = np.arange(1 << self.bits, dtype=np.uint8)
        return codes.astype(np.float32) - self.middle, codes

    def steps(self, planes: Planes) -> tuple[Matrix, Matrix]:  # noqa: D102
        step = np.repeat(planes["scales"].astype(np.float32), 16, axis=1) * planes["subscales"].astype(np.float32)
        return step, np.zeros_like(step)

    def scale_planes(self, step: FloatArray, shift: FloatArray) -> Planes:  # noqa: D102
        d, small = self._small(self.whole(step))
        rows = len(step)
        return {"scales": d.reshape(rows, -1), "subscales": small.reshape(rows, -1).astype(np.int8)}

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:  # noqa: D102
        values = planes["codes"].astype(np.float32)
        values -= self.middle
        values *= self.spread(self.steps(planes)[0], cols)
        return values

    def _small(self, scale: Matrix) -> tuple[NDArray[np.float16], Matrix]:
        """The float16 of each super-block, and the integers of its sub-blocks, from their scales [super-blocks, 16]."""
        least = np.float32(1 << (self.factor_bits - 1))
        d = half_scale(ggml.extreme(scale) / -least)
        return d, np.clip(np.rint(quotient(scale, d.astype(np.float32))), -least, least - np.float32(1))


def _search(x: Matrix, middle: np.float32, stride: np.float32) -> Matrix:
    """Scale of each sub-block: steps 1 and 2."""
    extreme = ggml.extreme(x.T)[:, 0]
    best, gain = extreme / -middle, np.full_like(extreme, -1)
    for t in _STEPS:
        q = np.rint(x * quotient(-(middle + np.float32(t) * stride), extreme))
        np.clip(q, -middle, middle - np.float32(1), out=q)
        qq, sqx = halving_sum(q * q), halving_sum(x * q)
        some = qq > 0
        safe = np.where(some, qq, np.float32(1))
        g = (sqx * sqx) / safe
        better = some & (g > gain)
        best = np.where(better, sqx / safe, best)
        gain = np.where(better, g, gain)
    return best
