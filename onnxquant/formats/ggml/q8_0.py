"""q8_0: ggml's 8-bit blocks of 32 with one float16 scale, byte-exact.

d = amax / 127, q = round-half-away(x * (1 / d)), stored as int8; the code of a plane is q + 128. Layout of a ggml block
(34 bytes): d float16, then 32 int8.
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
from onnxquant.numerics.arrays import Bytes


@dataclass(frozen=True)
class Q8_0(ggml.Blocks, ScaledCodes):  # noqa: N801  the field writes it so
    """ggml's 8-bit blocks of 32 with one scale."""

    name = "q8_0"
    bits = 8
    facts = Facts(rmse=0.00537, drift=0.001)
    bottom = 1
    granularity = PerBlock(32)
    block_bytes = 34
    filler = 128

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:  # noqa: D102
        scale = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
        codes = ggml.round_away(groups * ggml.reciprocal(scale)) + np.float32(128)
        return {"codes": codes.astype(np.uint8), "scales": ggml.half(scale)[..., 0]}

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        return [ggml.as_bytes(planes["scales"]), planes["codes"] ^ np.uint8(0x80)]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        return {"codes": raw[..., 2:] ^ np.uint8(0x80), "scales": ggml.as_type(raw[..., :2], np.float16)}
