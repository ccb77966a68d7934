"""Tables of values between -1 and 1 times the largest magnitude of a block: nf4, fp4 and dynamic8, as in bitsandbytes.

Per block of a row: scale = max |x| in float32, v = clip(x * (1 /
max(scale, 1e-38)), -1, 1), and the code is that of the nearest value: the number of midpoints (float32 (a + b) / 2 of
neighbours in order) strictly below v, so that a value on a midpoint goes down. Blocks lie within rows, so a row must be
a whole number of them; then the flat order of all weights is bitsandbytes'.

Stochastic rounding takes the upper of the two neighbours lo < hi with the probability (v - lo) / (hi - lo), by the
uniform of the weight's place (``philox``): the same bytes for any way of splitting the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError, WeightError
from onnxquant.formats.base import Encoded, Prepared
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.native_job import LevelSearch, NativeJob
from onnxquant.formats.parameters import parameter
from onnxquant.formats.planes import Planes
from onnxquant.formats.table import TableCodes, full_table, levels_of, midpoints_of
from onnxquant.numerics.arrays import Bytes
from onnxquant.numerics.philox import uniforms


@dataclass(frozen=True)
class BlockTable(TableCodes):
    """Base of bitsandbytes' formats: a table of values between -1 and 1, scaled by each block's largest magnitude.

    Attributes:
        block_size: weights per scale along a row, a power of two from 32 to 4096.
        stochastic: seed of stochastic rounding; None: round to nearest.
    """

    foreign = True

    block_size: int = parameter(64, "Weights per scale along a row, a power of two from 32 to 4096.", samples=(32, 128))
    stochastic: int | None = parameter(
        None, "Round up or down at random, as near as the neighbours are; the same seed gives the same bytes.",
        samples=(7,), metavar="SEED",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.block_size not in [1 << n for n in range(5, 13)]:
            raise RecipeError(f"block_size {self.block_size}: expected a power of two from 32 to 4096 for {self.name}")
        if self.stochastic is not None and not 0 <= self.stochastic < 1 << 64:
            raise RecipeError(f"stochastic {self.stochastic}: expected a seed from 0 to 2^64 - 1")

    @property
    def granularity(self) -> PerBlock:  # noqa: D102
        return PerBlock(self.block_size)

    @property
    def native_job(self) -> NativeJob:  # noqa: D102
        search = _search(type(self), self.stochastic is not None)
        return NativeJob(table=full_table(type(self)), search=search, seed=self.stochastic)

    @property
    def why_not_solvable(self) -> str:
        """Stochastic rounding leaves no choice of codes."""
        return "" if self.stochastic is None else "its codes are drawn at random"

    has_grid = True

    def unfit(self, rows: int, cols: int) -> str | None:  # noqa: D102
        if cols % self.block_size == 0:
            return None
        return (
            f"rows of {cols} weights are no whole number of blocks of {self.block_size}; "
            f"expected a block_size that divides {cols}"
        )

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        return self.coded(chunk, first)

    def coded(self, chunk: Matrix, first: int = 0) -> Planes:
        """Codes and scales of some rows; the first of them is row ``first`` of the weight."""
        rows, cols = chunk.shape
        groups = chunk.reshape(rows, -1, self.block_size)
        scale = np.abs(groups).max(axis=-1)
        values = groups * (np.float32(1) / np.maximum(scale, np.float32(1e-38)))[..., None]
        np.clip(values, -1, 1, out=values)
        levels, codes = levels_of(type(self))
        if self.stochastic is None:
            at = np.searchsorted(midpoints_of(type(self)), values.reshape(-1))
        else:
            at = _either(levels, values.reshape(-1), uniforms(self.stochastic, first * cols, chunk.size))
        return {"codes": codes[at].reshape(rows, cols), "scales": scale}

    def absmax(self, encoded: Encoded) -> Matrix:
        """Largest magnitude of each block, flat, as bitsandbytes keeps it."""
        return self.scales(encoded).reshape(-1)

    def to_blocks(self, encoded: Encoded) -> Bytes:
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
        shape = self.granularity.shape(rows, cols)
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
def _search(form: type[TableCodes], stochastic: bool) -> LevelSearch:
    levels, codes = levels_of(form)
    return LevelSearch.between(levels, codes, levels if stochastic else midpoints_of(form))


def _either(levels: Matrix, values: Matrix, uniform: Matrix) -> NDArray[np.intp]:
    """Index of the level below or above each value, at random."""
    below = np.clip(np.searchsorted(levels, values, side="right") - 1, 0, len(levels) - 2)
    low = levels[below]
    return below + (uniform < (values - low) / (levels[below + 1] - low))
