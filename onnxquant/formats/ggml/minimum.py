"""Codes with a scale and a minimum per block: value = code * scale + minimum. Base of ggml's q4_1 and q5_1.

With top = 2^bits - 1: d = (max - min) / top, code = min(top, trunc((x - min) * (1 / d)
+ 0.5)), chosen with the unrounded float32 d and min; both are stored in float16. A constant block has d = 0, codes 0.
Of zeros of both signs the first one is the minimum.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from onnxquant.formats.base import Encoded, Format, Prepared
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.grid import FloatArray, Indices, LevelGrid
from onnxquant.formats.matrix import Matrix, split
from onnxquant.formats.planes import Plane, Planes
from onnxquant.numerics.casts import narrowed


@dataclass(frozen=True)
class MinimumCodes(Format):
    """Base of the formats whose weights are ``code * scale + minimum``."""

    @property
    @abstractmethod
    def granularity(self) -> PerBlock:
        """The weights that share a scale and a minimum."""

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        return self.bits + 32 / self.granularity.size

    shifts = True
    why_not_solvable = ""
    why_scales_fixed = ""

    def levels(self) -> tuple[Matrix, Indices]:  # noqa: D102
        codes = np.arange(1 << self.bits, dtype=np.uint8)
        return codes.astype(np.float32), codes

    def grid(self, encoded: Encoded) -> LevelGrid:  # noqa: D102
        step, shift = (encoded.planes[name].astype(np.float32) for name in ("scales", "minima"))
        return LevelGrid(self.levels()[0], step, shift, self.granularity.size, shifts=True)

    def scale_planes(self, step: FloatArray, shift: FloatArray) -> Planes:  # noqa: D102
        return {"scales": narrowed(step, overflow="largest"), "minima": narrowed(shift, overflow="largest")}

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:  # noqa: D102
        codes = Plane.of("codes", (rows, cols), np.uint8, bits=self.bits)
        groups = self.granularity.shape(rows, cols)
        return [codes, *(Plane.of(name, groups, np.float16) for name in ("scales", "minima"))]

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        groups = split(chunk, self.granularity.size)
        low = _lowest(groups)
        top = np.float32((1 << self.bits) - 1)
        # A highest value of zero is the positive one, as the difference is then.
        scale = (groups.max(axis=-1, keepdims=True) + np.float32(0) - low) / top
        codes = (groups - low) * ggml.reciprocal(scale)
        codes += np.float32(0.5)
        np.minimum(codes, top, out=codes)
        return {
            "codes": codes.astype(np.uint8).reshape(len(chunk), -1)[:, : chunk.shape[1]],
            "scales": ggml.half(scale)[..., 0],
            "minima": ggml.half(low)[..., 0],
        }

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:  # noqa: D102
        values = planes["codes"].astype(np.float32)
        values *= self.granularity.expand(planes["scales"], cols).astype(np.float32)
        values += self.granularity.expand(planes["minima"], cols).astype(np.float32)
        return values


def _lowest(groups: Matrix) -> Matrix:
    """The minimum of each group; of zeros of both signs the first one, as in ggml."""
    low: Matrix = groups.min(axis=-1, keepdims=True)
    first = np.take_along_axis(groups, (groups == 0).argmax(axis=-1)[..., None], axis=-1)
    return np.where(low == 0, first, low)
