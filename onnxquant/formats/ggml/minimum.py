"""Codes with a scale and a minimum per block: value = code * scale + minimum.

What ggml's q4_1 and q5_1 share. With top = 2^bits - 1: d = (max - min) / top, code = min(top, trunc((x - min) * (1 / d)
+ 0.5)), chosen with the unrounded float32 d and min; both are stored in float16. A constant block has d = 0, codes 0.
Of zeros of both signs the first one is the minimum.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from onnxquant.formats.base import Encoded, Plane
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.grid import Floats, Grid, Indices
from onnxquant.formats.matrix import Matrix, Planes, expand, split
from onnxquant.formats.rowwise import Rowwise
from onnxquant.numerics.casts import narrowed


@dataclass(frozen=True)
class MinimumCodes(Rowwise):
    """Base of the formats whose weights are ``code * scale + minimum``."""

    @property
    @abstractmethod
    def group(self) -> int:
        """Weights per scale along a row."""

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        return self.bits + 32 / self.group

    shifts = True

    def levels(self) -> tuple[Matrix, Indices]:  # noqa: D102
        codes = np.arange(1 << self.bits, dtype=np.uint8)
        return codes.astype(np.float32), codes

    def grid(self, encoded: Encoded) -> Grid:  # noqa: D102
        step, shift = (encoded.planes[name].astype(np.float32) for name in ("scales", "minima"))
        return Grid(self.levels()[0], step, shift, self.group, shifts=True)

    def sides(self, step: Floats, shift: Floats) -> Planes:  # noqa: D102
        return {"scales": narrowed(step, overflow="largest"), "minima": narrowed(shift, overflow="largest")}

    def _planes(self, rows: int, cols: int) -> dict[str, Plane]:
        side = Plane((rows, -(-cols // self.group)), np.dtype(np.float16))
        return {"codes": Plane((rows, cols), np.dtype(np.uint8)), "scales": side, "minima": side}

    def encode_rows(self, chunk: Matrix, first: int) -> Planes:  # noqa: D102
        groups = split(chunk, self.group)
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
        values *= expand(planes["scales"], self.group, cols).astype(np.float32)
        values += expand(planes["minima"], self.group, cols).astype(np.float32)
        return values


def _lowest(groups: Matrix) -> Matrix:
    """The minimum of each group; of zeros of both signs the first one, as in ggml."""
    low: Matrix = groups.min(axis=-1, keepdims=True)
    first = np.take_along_axis(groups, (groups == 0).argmax(axis=-1)[..., None], axis=-1)
    return np.where(low == 0, first, low)
