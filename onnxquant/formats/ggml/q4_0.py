"""q4_0 and q5_0: ggml's 4-bit and 5-bit blocks of 32 with one float16 scale, byte-exact.

The signed element of largest magnitude (the first one on ties) maps to code 0: d = max / -8 for q4_0, max / -16 for q5_0.
Codes are chosen with the unrounded float32 d, only the stored d is rounded: min(15, trunc(x * (1 / d) + 8.5)), and min(31,
trunc(x * (1 / d) + 16.5)). Arithmetic is float32, one rounding per operation, no FMA. Layout of a ggml block (18 and 22
bytes): d float16, then for q5_0 a little-endian 32-bit word whose bit i is bit 4 of element i's code, then 16 bytes; byte j
holds the low four bits of element j low and of element j + 16 high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Planes
from onnxquant.formats.scaled_codes import ScaledCodes


@dataclass(frozen=True)
class _OneScale(ggml.NibbleBlocks, ScaledCodes):
    """Base of both: the middle code, which is the filler, stands for zero."""

    granularity = PerBlock(32)

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:
        scale = ggml.extreme(groups) / np.float32(-self.filler)
        codes = groups * ggml.reciprocal(scale)
        codes += np.float32(self.filler + 0.5)
        np.minimum(codes, np.float32(self.top), out=codes)
        return {"codes": codes.astype(np.uint8), "scales": ggml.half(scale)[..., 0]}


@dataclass(frozen=True)
class Q4_0(_OneScale):  # noqa: N801  the field writes it so
    """ggml's 4-bit blocks of 32 with one scale."""

    name = "q4_0"
    bits = 4
    facts = Facts(rmse=0.0861)
    block_bytes = 18
    filler = 8


@dataclass(frozen=True)
class Q5_0(_OneScale):  # noqa: N801
    """ggml's 5-bit blocks of 32 with one scale."""

    name = "q5_0"
    bits = 5
    facts = Facts(rmse=0.0428)
    block_bytes = 22
    filler = 16
