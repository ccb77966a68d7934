"""Weights that lie on a grid already: floats of a constant that an exporter has folded fake quantization into.

They keep their codes, whichever scale rounding to nearest would choose. Decoded they are the same floats, bit for bit where
the exporter multiplied codes with float32 scales, else within two units in the last place of the largest weight that shares
the scale; of zeros alone the sign is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded
from onnxquant.formats.granularity import Granularity, PerTensor
from onnxquant.formats.integers import Integers
from onnxquant.formats.matrix import CHUNK_BYTES, Matrix, expand, split
from onnxquant.numerics.arrays import Array, Bytes
from onnxquant.numerics.casts import narrowed
from onnxquant.numerics.own_grid import GroupSteps, concatenated, group_steps, joined
from onnxquant.numerics.rows import by_rows, row_ranges

# Bytes of the rows that are looked at first: they show that most weights lie on no grid.
_FIRST_BYTES = 16 << 10
# Error of a scale that is no more than rounding to float16 makes where it is not subnormal.
_HALF_ULP = 2.0**-11
_BLOCKS = (256, 128, 64, 32, 16)


@dataclass(frozen=True)
class OwnGrid:
    """The grid of a weight, as a format stores it.

    Attributes:
        form: the format.
        scales: float32 in the shape of the format's scales; zero where all weights of a group are.
        zeros: code of zero, uint8 in the same shape.
    """

    form: Integers
    scales: Matrix
    zeros: Bytes

    @property
    def is_exact(self) -> bool:
        """Whether the format stores the scales as they are."""
        stored = narrowed(self.scales, self.form.scale_dtype, overflow="infinity")
        return np.array_equal(stored.astype(np.float32), self.scales)

    @property
    def in_float16(self) -> OwnGrid | None:
        """The same codes with scales in float16; None where it has not their digits."""
        stored = narrowed(self.scales, overflow="infinity").astype(np.float64)
        if (np.abs(stored - self.scales) > _HALF_ULP * np.abs(self.scales)).any():
            return None
        return replace(self, form=self.form.with_(wide_scales=False))

    def encoded(self, weight: NDArray[Any]) -> Encoded:
        """The weight with its own codes.

        Args:
            weight: the matrix [rows, cols] that the grid is of.
        """
        form, (rows, cols) = self.form, weight.shape
        codes = np.empty((rows, cols), np.uint8)
        for part in row_ranges(rows, cols, CHUNK_BYTES):
            scale, zero = (self._by_weight(side, part, cols) for side in (self.scales, self.zeros))
            ratio = np.divide(weight[part], scale, out=np.zeros((len(codes[part]), cols)), where=scale != 0)
            codes[part] = np.rint(ratio) + zero
        planes = {"codes": codes, "scales": narrowed(self.scales, form.scale_dtype, overflow="infinity")}
        if form.has_zero_points:
            planes["zero_points"] = self.zeros.astype(form.planes(rows, cols)["zero_points"].dtype)
        return Encoded(form, rows, cols, planes, (rows, cols))

    def _by_weight(self, side: Array, part: slice, cols: int) -> Array:
        granularity = self.form.granularity
        own = granularity.rows(side, part)
        return own if own.shape[1] == 1 else expand(own, granularity.columns(cols), cols)


def own_grid(form: Integers, weight: NDArray[Any]) -> OwnGrid | None:
    """The grid that a weight lies on, where the format has codes enough for it; None where it has not, or there is none.

    Args:
        form: the format; where its granularity is open, the coarsest is taken.
        weight: matrix [rows, cols] of floats.
    """
    return next((grid for own in _granularities(form) if (grid := _grid(own, weight))), None)


def _granularities(form: Integers) -> list[Integers]:
    """The format with every granularity that it leaves open, the coarsest first."""
    if form.block_size is not None or form.per_channel is not None:
        return [form]
    least = 32 if form.bits in (3, 5) else 16
    return [form.with_(per_channel=True), *(form.with_(block_size=size) for size in _BLOCKS if size >= least)]


def _grid(form: Integers, weight: NDArray[Any]) -> OwnGrid | None:
    """The grid of a weight in a granularity."""
    steps = _steps(weight, form.granularity, form.top if form.has_zero_points else form.offset)
    if steps is None:
        return None
    if form.has_zero_points:
        zeros, signs = -steps.least, np.ones_like(steps.least)
        fits = steps.most - steps.least <= form.top
    else:
        zeros, last = np.full_like(steps.least, form.offset), form.offset - 1
        straight = steps.most <= last
        # Below 8 bits a scale may be negative, as that of rounding to nearest.
        fits = straight | ((-steps.least <= last) & (form.bits < 8))
        signs = np.where(straight, 1, -1)
    if not fits.all():
        return None
    shape = form.granularity.shape(*weight.shape)
    scales = (steps.step * signs).astype(np.float32).reshape(shape)
    grid = OwnGrid(form.with_(wide_scales=False), scales, zeros.astype(np.uint8).reshape(shape))
    return grid if grid.is_exact else replace(grid, form=form.with_(wide_scales=True))


def _steps(weight: NDArray[Any], granularity: Granularity, most: int) -> GroupSteps | None:
    """Steps of the groups of a weight; None where one of them lies on no grid.

    Args:
        weight: matrix [rows, cols] of floats.
        granularity: the weights that share a step.
        most: largest magnitude of a code.
    """
    rows, cols = weight.shape
    size = granularity.columns(cols)
    if weight.dtype not in (np.float32, np.float16) or rows == 0 or min(size, cols) < 2:
        return None  # one weight alone lies on any grid

    def of(part: NDArray[Any]) -> GroupSteps | None:
        return group_steps(split(np.ascontiguousarray(part), size).reshape(-1, size), most)

    first = next(row_ranges(rows, cols, _FIRST_BYTES))
    if of(weight[first]) is None:
        return None
    parts = [steps for steps in by_rows(rows, cols, lambda part: of(weight[part])) if steps is not None]
    if sum(len(steps.low) for steps in parts) < granularity.shape(rows, cols)[1] * rows:
        return None
    return joined(parts, most) if isinstance(granularity, PerTensor) else concatenated(parts)
