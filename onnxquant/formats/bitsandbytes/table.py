"""Codes that index a table of values: value = table[code] * scale.

Block tables (nf4, fp4, dynamic8) follow bitsandbytes. Per block of a row: scale = max |x| in float32, v = clip(x * (1 /
max(scale, 1e-38)), -1, 1), and the code is that of the nearest value: the number of midpoints (float32 (a + b) / 2 of
neighbours in order) strictly below v, so that a value on a midpoint goes down. Blocks lie within rows, so a row must be
a whole number of them; then the flat order of all weights is bitsandbytes'.

Stochastic rounding takes the upper of the two neighbours lo < hi with the probability (v - lo) / (hi - lo), by the
uniform of the weight's place (``philox``): the same bytes for any way of splitting the work.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError, WeightError
from onnxquant.formats.base import Encoded, Plane
from onnxquant.formats.grid import Floats, Grid
from onnxquant.formats.matrix import Matrix, Planes, expand
from onnxquant.formats.parameters import parameter
from onnxquant.formats.rowwise import Rowwise
from onnxquant.numerics.casts import narrowed
from onnxquant.numerics.philox import uniforms

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class TableCodes(Rowwise):
    """Base of the formats whose weights are ``table[code] * scale``."""

    @property
    @abstractmethod
    def group(self) -> int:
        """Weights per scale along a row; 0: the whole row."""

    @classmethod
    @abstractmethod
    def table(cls) -> Matrix:
        """The value of each code, float32 [2^bits]."""

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        return self.bits + (32 / self.group if self.group else 0)

    def groups(self, rows: int, cols: int) -> tuple[int, int]:
        """Shape of the scales."""
        return rows, (-(-cols // self.group) if self.group else 1)

    def levels(self) -> tuple[Matrix, Codes]:  # noqa: D102
        return _levels(type(self))

    def grid(self, encoded: Encoded) -> Grid:  # noqa: D102
        step = self.scales(encoded)
        return Grid(self.levels()[0], step, np.zeros_like(step), self.group or max(encoded.cols, 1))

    def scales(self, encoded: Encoded) -> Matrix:
        """Scales as they are used, float32 [rows, groups]."""
        return encoded.planes["scales"].astype(np.float32, copy=False)

    def sides(self, step: Floats, shift: Floats) -> Planes:  # noqa: D102
        return {"scales": narrowed(step, np.float32, overflow="largest")}

    def _planes(self, rows: int, cols: int) -> dict[str, Plane]:
        scales = Plane(self.groups(rows, cols), np.dtype(np.float32))
        return {"codes": Plane((rows, cols), np.dtype(np.uint8)), "scales": scales}

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:  # noqa: D102
        values = self.table()[planes["codes"]]
        values *= expand(planes["scales"], self.group, cols)
        return values


@dataclass(frozen=True)
class BlockTable(TableCodes):
    """Base of bitsandbytes' formats: a table of values between -1 and 1, scaled by each block's largest magnitude.

    Attributes:
        block_size: weights per scale along a row, a power of two from 32 to 4096.
        stochastic: seed of stochastic rounding; None: round to nearest.
    """

    foreign = True

    block_size: int = parameter(64, "Weights per scale along a row, a power of two from 32 to 4096.")
    stochastic: int | None = parameter(
        None, "Round up or down at random, as near as the neighbours are; the same seed gives the same bytes.",
        metavar="SEED",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.block_size not in [1 << n for n in range(5, 13)]:
            raise RecipeError(f"block_size {self.block_size}: expected a power of two from 32 to 4096 for {self.name}")
        if self.stochastic is not None and not 0 <= self.stochastic < 1 << 64:
            raise RecipeError(f"stochastic {self.stochastic}: expected a seed from 0 to 2^64 - 1")

    @property
    def group(self) -> int:
        """Weights per scale."""
        return self.block_size

    @property
    def unsolvable(self) -> str:
        """Rounding at random leaves no choice."""
        return "" if self.stochastic is None else "its codes are drawn at random"

    def unfit(self, rows: int, cols: int) -> str | None:  # noqa: D102
        if cols % self.block_size == 0:
            return None
        return (
            f"rows of {cols} weights are no whole number of blocks of {self.block_size}; "
            f"expected a block_size that divides {cols}"
        )

    def encode_rows(self, chunk: Matrix, first: int) -> Planes:  # noqa: D102
        rows, cols = chunk.shape
        groups = chunk.reshape(rows, -1, self.block_size)
        scale = np.abs(groups).max(axis=-1)
        values = groups * (np.float32(1) / np.maximum(scale, np.float32(1e-38)))[..., None]
        np.clip(values, -1, 1, out=values)
        levels, codes = _levels(type(self))
        if self.stochastic is None:
            at = np.searchsorted(_midpoints(type(self)), values.reshape(-1))
        else:
            at = _either(levels, values.reshape(-1), uniforms(self.stochastic, first * cols, chunk.size))
        return {"codes": codes[at].reshape(rows, cols), "scales": scale}

    def absmax(self, encoded: Encoded) -> Matrix:
        """Largest magnitude of each block, flat, as bitsandbytes keeps it."""
        return self.scales(encoded).reshape(-1)

    def to_blocks(self, encoded: Encoded) -> Codes:
        """Packed bytes as bitsandbytes has them, flat: at 4 bits the even element is the high nibble."""
        flat = encoded.planes["codes"].reshape(-1)
        return flat[0::2] << np.uint8(4) | flat[1::2] if self.bits == 4 else flat.copy()

    def from_blocks(self, blocks: NDArray[Any], rows: int, cols: int, absmax: NDArray[Any]) -> Encoded:
        """The weight of bitsandbytes' packed bytes and the largest magnitude of each block.

        Raises:
            WeightError: wrong sizes.
        """
        self.check_shape(rows, cols)
        form = self.with_(permuted=False)
        raw = np.ascontiguousarray(blocks).reshape(-1).view(np.uint8)
        shape = self.groups(rows, cols)
        sides = np.asarray(absmax, np.float32).reshape(-1)
        if raw.size != rows * cols * self.bits // 8 or sides.size != shape[0] * shape[1]:
            raise WeightError(
                f"format {self.name}: {raw.size} bytes and {sides.size} scales, expected "
                f"{rows * cols * self.bits // 8} and {shape[0] * shape[1]} for shape [{rows}, {cols}]"
            )
        codes = np.stack([raw >> 4, raw & 15], axis=-1) if self.bits == 4 else raw.copy()
        planes: Planes = {"codes": codes.reshape(rows, cols), "scales": sides.reshape(shape).copy()}
        return Encoded(form, rows, cols, planes, (rows, cols))


@cache
def _levels(form: type[TableCodes]) -> tuple[Matrix, Codes]:
    """Distinct finite values in ascending order, and the lowest code of each (of fp4's two zeros the positive one)."""
    levels, codes = np.unique(form.table(), return_index=True)
    finite = np.isfinite(levels)
    return levels[finite], codes[finite].astype(np.uint8)


@cache
def _midpoints(form: type[TableCodes]) -> Matrix:
    levels = _levels(form)[0]
    return ((levels[1:] + levels[:-1]) / np.float32(2)).astype(np.float32)


def _either(levels: Matrix, values: Matrix, uniform: Matrix) -> NDArray[np.intp]:
    """Index of the level below or above each value, at random."""
    below = np.clip(np.searchsorted(levels, values, side="right") - 1, 0, len(levels) - 2)
    low = levels[below]
    return below + (uniform < (values - low) / (levels[below + 1] - low))
