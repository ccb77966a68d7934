"""q6_k: ggml's super-blocks of 256 weights with sixteen signed 8-bit scales (``signed_superblocks``).

Layout of a ggml block (210 bytes): per 128 elements 64 bytes, byte l < 32 holding the low four bits of elements l (low) and
l + 64 (high), byte l + 32 those of l + 32 and l + 96; per 128 elements 32 bytes, byte l holding the high two bits of
elements l, l + 32, l + 64, l + 96 from its lowest bits up; 16 int8 sc; d float16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.factors import SignedBytes
from onnxquant.formats.ggml.signed_superblocks import SignedSuperBlocks
from onnxquant.formats.planes import Planes
from onnxquant.numerics.arrays import Bytes

_LOW, _HIGH = np.uint8(15), np.uint8(4)


@dataclass(frozen=True)
class Q6_K(SignedSuperBlocks):  # noqa: N801  the field writes it so
    """ggml's 6-bit super-blocks of 256: sixteen 8-bit scales."""

    name = "q6_k"
    bits = 6
    facts = Facts(rmse=0.01663, drift=0.02)
    factor_bits = 8
    factors = SignedBytes()
    stride = 0.5
    block_bytes = 210
    filler = 32

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        codes = planes["codes"]
        quarters = codes.reshape(*codes.shape[:2], 2, 4, 32)
        low = (quarters[..., :2, :] & _LOW) | quarters[..., 2:, :] << _HIGH
        sides = [ggml.as_bytes(planes[name]) for name in ("subscales", "scales")]
        return [low.reshape(*codes.shape[:2], 128), ggml.pairs(codes >> _HIGH), *sides]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        low = raw[..., :128].reshape(*raw.shape[:2], 2, 2, 32)
        codes = np.concatenate([low & _LOW, low >> _HIGH], axis=-2).reshape(*raw.shape[:2], 256)
        return {
            "codes": codes | ggml.from_pairs(raw[..., 128:192]) << _HIGH,
            "scales": ggml.as_type(raw[..., 208:], np.float16),
            "subscales": ggml.as_type(raw[..., 192:208], np.int8),
        }
