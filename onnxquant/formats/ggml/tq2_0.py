"""tq2_0: ggml's ternary blocks of 256 in two bits per weight, byte-exact (``ternary``).

Layout of a ggml block (66 bytes): per 128 elements 32 bytes, byte m holding elements m, m + 32, m + 64, m + 96 from its
lowest bits up; then d float16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.errors import WeightError
from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.ternary import TernaryBlocks
from onnxquant.formats.planes import Planes
from onnxquant.numerics.arrays import Bytes


@dataclass(frozen=True)
class TQ2_0(TernaryBlocks):  # noqa: N801  the field writes it so
    """ggml's ternary blocks of 256, meant for networks trained ternary."""

    name = "tq2_0"
    facts = Facts(rmse=0.8076)
    block_bytes = 66

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        return [ggml.pairs(planes["codes"] - np.uint8(1)), ggml.as_bytes(planes["scales"])]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        codes = ggml.from_pairs(raw[..., :64])
        if (codes == 3).any():
            raise WeightError("format tq2_0: holds the code 3, which has no meaning")
        return {"codes": codes + np.uint8(1), "scales": ggml.as_type(raw[..., 64:], np.float16)}
