"""q4_0: ggml's 4-bit blocks of 32 with one float16 scale, byte-exact.

The signed element of largest magnitude (the first one on ties) maps to code 0: d = max / -8. Codes are chosen with the
unrounded float32 d, only the stored d is rounded: min(15, trunc(x * (1 / d) + 8.5)). Arithmetic is float32, one rounding
per operation, no FMA. Layout of a ggml block (18 bytes): d float16, then 16 bytes; byte j holds element j low and
element j + 16 high.
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
class Q4_0(ggml.Blocks, ScaledCodes):  # noqa: N801  the field writes it so
    """ggml's 4-bit blocks of 32 with one scale."""

    name = "q4_0"
    bits = 4
    facts = Facts(rmse=0.0861)
    granularity = PerBlock(32)
    block_bytes = 18
    filler = 8

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:  # noqa: D102
        scale = ggml.extreme(groups) / np.float32(-8)
        codes = groups * ggml.reciprocal(scale)
        codes += np.float32(8.5)
        np.minimum(codes, np.float32(15), out=codes)
        return {"codes": codes.astype(np.uint8), "scales": ggml.half(scale)[..., 0]}

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        return [ggml.as_bytes(planes["scales"]), ggml.nibbles(planes["codes"])]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        return {"codes": ggml.from_nibbles(raw[..., 2:]), "scales": ggml.as_type(raw[..., :2], np.float16)}
