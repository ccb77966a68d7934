"""q3_k: ggml's super-blocks of 256 weights with sixteen signed 6-bit scales (``signed_superblocks``).

Layout of a ggml block (110 bytes): 32 bytes, bit s of byte l being bit 2 of element l + 32 s; per 128 elements 32 bytes,
byte l holding the low two bits of elements l, l + 32, l + 64, l + 96 from its lowest bits up; 12 bytes with sc
(``factors.SignedSixBits``); d float16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.factors import SignedSixBits
from onnxquant.formats.ggml.signed_superblocks import SignedSuperBlocks
from onnxquant.formats.planes import Planes
from onnxquant.numerics.arrays import Bytes

_HIGH = np.uint8(2)


@dataclass(frozen=True)
class Q3_K(SignedSuperBlocks):  # noqa: N801  the field writes it so
    """ggml's 3-bit super-blocks of 256: sixteen 6-bit scales."""

    name = "q3_k"
    bits = 3
    facts = Facts(rmse=0.1434, drift=0.05)
    factor_bits = 6
    factors = SignedSixBits()
    stride = 0.125
    block_bytes = 110
    filler = 4

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        codes = planes["codes"]
        high = ggml.bits_of_eighths(codes >> _HIGH)
        return [high, ggml.pairs(codes & np.uint8(3)), self.factors.pack(planes), ggml.as_bytes(planes["scales"])]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        return {
            "codes": ggml.from_pairs(raw[..., 32:96]) | ggml.from_bits_of_eighths(raw[..., :32]) << _HIGH,
            "scales": ggml.as_type(raw[..., 108:], np.float16),
            **self.factors.unpack(raw[..., 96:108]),
        }
