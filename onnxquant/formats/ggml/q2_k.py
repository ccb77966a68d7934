"""q2_k: ggml's super-blocks of 256 weights with sixteen 4-bit scales and minima (``minimum_superblocks``).

Layout of a ggml block (84 bytes): 16 bytes with sc and m (``factors.FourBits``); per 128 elements 32 bytes, byte l holding
elements l, l + 32, l + 64, l + 96 from its lowest bits up; d, dmin float16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.factors import FourBits
from onnxquant.formats.ggml.minimum_superblocks import MinimumSuperBlocks
from onnxquant.formats.planes import Planes
from onnxquant.numerics.arrays import Bytes


@dataclass(frozen=True)
class Q2_K(MinimumSuperBlocks):  # noqa: N801  the field writes it so
    """ggml's 2-bit super-blocks of 256: sixteen 4-bit scales and minima."""

    name = "q2_k"
    bits = 2
    facts = Facts(rmse=0.27)
    sub_block = 16
    factor_bits = 4
    factors = FourBits()
    stride = 0.125
    block_bytes = 84

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        halves = [ggml.as_bytes(planes[name]) for name in ("scales", "minima")]
        return [self.factors.pack(planes), ggml.pairs(planes["codes"]), *halves]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        return {
            "codes": ggml.from_pairs(raw[..., 16:80]),
            "scales": ggml.as_type(raw[..., 80:82], np.float16),
            "minima": ggml.as_type(raw[..., 82:], np.float16),
            **self.factors.unpack(raw[..., :16]),
        }
