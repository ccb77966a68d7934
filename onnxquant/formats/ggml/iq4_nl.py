"""iq4_nl: ggml's 4-bit blocks of 32 whose codes choose from a table of uneven steps, with one float16 scale, byte-exact.

The table holds integers from -127 to 113, denser near zero. The signed element of largest magnitude (the first one on
ties) is to become -127: codes are those of the values nearest to x * (1 / (max / -127)), the larger one of two that
are equally near. The scale is then the one with the least squared error, where errors are weighted by x^2: sum(x^2 q
x) / sum(x^2 q q), added from the first weight to the last. Codes are not chosen again for it. A block whose largest
magnitude is below 1e-15 has scale 0; ggml leaves its codes open, here they are those of the value nearest to zero.
Arithmetic is float32, one rounding per operation, no FMA. Layout of a ggml block (18 bytes): as of q4_0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.base import Prepared
from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.matrix import Matrix, split
from onnxquant.formats.planes import Planes
from onnxquant.formats.table import TableCodes, midpoints_of

_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
# Blocks of smaller weights count as zero.
_SMALLEST = np.float32(1e-15)


@dataclass(frozen=True)
class IQ4_NL(ggml.NibbleBlocks, TableCodes):  # noqa: N801  the field writes it so
    """ggml's 4-bit blocks of 32 with uneven steps and one scale."""

    name = "iq4_nl"
    bits = 4
    facts = Facts(rmse=0.0787)
    granularity = PerBlock(32)
    scale_dtype = np.float16
    block_bytes = 18
    filler = 8

    @classmethod
    def table(cls) -> Matrix:  # noqa: D102
        return _VALUES

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        rows, cols = chunk.shape
        groups = split(chunk, 32)
        top = ggml.extreme(groups)
        live = np.abs(top) >= _SMALLEST
        inverse = np.float32(1) / np.where(live, top / _VALUES[0], np.float32(1))
        codes = np.searchsorted(midpoints_of(type(self)), groups * inverse, side="right").astype(np.uint8)
        codes[~live[..., 0]] = self.filler
        values = _VALUES[codes]
        weighted = groups * groups * values
        scales = _in_order(weighted * groups) / _in_order(weighted * values)
        scales = np.where(live[..., 0], scales, np.float32(0))
        return {"codes": codes.reshape(rows, -1)[:, :cols], "scales": ggml.half(scales)}


def _in_order(terms: Matrix) -> Matrix:
    """Sums over the last axis in float32, from the first term to the last."""
    sums: Matrix = np.add.accumulate(terms, axis=-1)[..., -1]
    return sums
