"""q5_0: ggml's 5-bit blocks of 32 with one float16 scale, byte-exact.

As q4_0 with one more bit: d = max / -16 with the signed element of largest magnitude, code = min(31, trunc(x * (1 / d) +
16.5)). Layout of a ggml block (22 bytes): d float16, a little-endian 32-bit word whose bit i is bit 4 of element i's
code, then 16 bytes; byte j holds the low four bits of element j low and of element j + 16 high.
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
class Q5_0(ggml.Blocks, ScaledCodes):  # noqa: N801  the field writes it so
    """ggml's 5-bit blocks of 32 with one scale."""

    name = "q5_0"
    bits = 5
    facts = Facts(rmse=0.0428)
    granularity = PerBlock(32)
    block_bytes = 22
    filler = 16

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:  # noqa: D102
        scale = ggml.extreme(groups) / np.float32(-16)
        codes = groups * ggml.reciprocal(scale)
        codes += np.float32(16.5)
        np.minimum(codes, np.float32(31), out=codes)
        return {"codes": codes.astype(np.uint8), "scales": ggml.half(scale)[..., 0]}

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        codes = planes["codes"]
        return [ggml.as_bytes(planes["scales"]), ggml.fifth_bits(codes), ggml.nibbles(codes)]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        codes = ggml.from_nibbles(raw[..., 6:]) | ggml.from_fifth_bits(raw[..., 2:6])
        return {"codes": codes, "scales": ggml.as_type(raw[..., :2], np.float16)}
