"""mxfp4: OCP's microscaling format of 4-bit floats (E2M1) in blocks of 32 with one power of two (E8M0), byte-exact to ggml's.

Values are 0, 0.5, 1, 1.5, 2, 3, 4 and 6 with a sign; of the two zeros only code 0 is written. The exponent is that of
the largest magnitude less 2, so that it falls between 4 and 8: what is above 6 becomes 6. Codes are those of the
nearest values, of two equally near ones the smaller magnitude. The exponent is floor(log2(max)) with a float32
logarithm, as in ggml: a magnitude so closely below a power of two that its logarithm is rounded to that power counts
as it. Exponents are clipped to what leaves all codes finite, from -127 to 125; ggml wraps around below. Exponent code
255 is NaN, as OCP says, and is never written; ggml reads it as 2^128. Layout of a ggml block (17 bytes): exponent
code, then 16 bytes as of q4_0.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Prepared
from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.matrix import Matrix, split
from onnxquant.formats.planes import Planes
from onnxquant.formats.table import TableCodes

_MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
# The largest exponent code with which no code stands for infinity.
_LARGEST = 252
_BOUNDS = (_MAGNITUDES[1:] + _MAGNITUDES[:-1]) / np.float32(2)


@dataclass(frozen=True)
class MXFP4(ggml.NibbleBlocks, TableCodes):
    """OCP microscaling: 4-bit floats in blocks of 32 with a power of two."""

    name = "mxfp4"
    bits = 4
    facts = Facts(rmse=0.1151)
    source = "OCP Microscaling Formats (MX) 1.0: MXFP4; ggml (llama.cpp) for the rounding"
    granularity = PerBlock(32)
    scale_dtype = ml_dtypes.float8_e8m0fnu
    block_bytes = 17
    filler = 0

    @classmethod
    def table(cls) -> Matrix:  # noqa: D102
        return np.concatenate([_MAGNITUDES, np.float32(0) - _MAGNITUDES])

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        rows, cols = chunk.shape
        groups = split(chunk, 32)
        scales = exponent_codes(np.abs(groups).max(axis=-1)).view(self.scale_dtype)
        # A power of two: bounds are exact, be they subnormal.
        bounds = _BOUNDS * scales.astype(np.float32)[..., None]
        codes = (np.abs(groups)[..., None] > bounds[..., None, :]).sum(axis=-1, dtype=np.uint8)
        codes |= ((groups < 0) & (codes > 0)).astype(np.uint8) << np.uint8(3)
        return {"codes": codes.reshape(rows, -1)[:, :cols], "scales": scales}


def exponent_codes(largest: Matrix) -> NDArray[np.uint8]:
    """Exponent codes of blocks by their largest magnitudes, without a logarithm, which machines round differently.

    Below 2^k, k not 0, the float32 logarithm rounds to k for floor(ln 2 * 2^j) floats, where 2^j is the largest power of two
    not above abs(k), or half of it where k itself is that power.
    """
    bits = largest.view(np.int32).astype(np.int64)
    floor, below = bits >> 23, 0x800000 - (bits & 0x7FFFFF)
    above = floor - 126  # the exponent k of the power of two above
    size = np.where((above > 0) & (above & (above - 1) == 0), above // 2, np.abs(above))
    power = np.exp2(np.floor(np.log2(np.maximum(size, 1).astype(np.float64))))
    lifted = np.where(size > 0, np.floor(power * np.log(2)), 0)
    codes: NDArray[np.uint8] = np.clip(floor - 2 + (below <= lifted), 0, _LARGEST).astype(np.uint8)
    return codes
