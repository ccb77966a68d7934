"""tq2_0: ggml's ternary blocks of 256 with one float16 scale, byte-exact.

d = amax, trit = round-half-away(x * (1 / d)) in -1, 0, 1; only the stored d is rounded to float16. The code of a plane is
trit + 2, so that zero has the code every 2-bit format gives it; ggml stores trit + 1.

Layout of a ggml block (66 bytes): per 128 elements 32 bytes, byte m holding elements m, m + 32, m + 64, m + 96 from its
lowest bits up; then d float16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.errors import WeightError
from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Planes
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.numerics.arrays import Bytes

_SHIFTS = np.array([0, 2, 4, 6], np.uint8)[:, None]


@dataclass(frozen=True)
class TQ2_0(ggml.Blocks, ScaledCodes):  # noqa: N801  the field writes it so
    """ggml's ternary blocks of 256, meant for networks trained ternary."""

    name = "tq2_0"
    bits = 2
    facts = Facts(rmse=0.8076)
    bottom = 1
    granularity = PerBlock(256)
    block = 256
    block_bytes = 66
    filler = 2

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:  # noqa: D102
        scale = np.abs(groups).max(axis=-1, keepdims=True)
        codes = ggml.round_away(groups * ggml.reciprocal(scale)) + np.float32(2)
        return {"codes": codes.astype(np.uint8), "scales": ggml.half(scale)[..., 0]}

    def warning(self, sqnr_db: float) -> str | None:  # noqa: D102
        if sqnr_db > 40:
            return None
        return (
            f"tq2_0 keeps only weights near a block's extremes that were not trained ternary: {sqnr_db:.1f} dB here; "
            f"expect the model to fail"
        )

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        codes = planes["codes"] - np.uint8(1)
        quarters = codes.reshape(*codes.shape[:2], 2, 4, 32) << _SHIFTS
        packed = np.bitwise_or.reduce(quarters, axis=-2)
        return [packed.reshape(*codes.shape[:2], 64), ggml.as_bytes(planes["scales"])]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        codes = raw[..., :64].reshape(*raw.shape[:2], 2, 1, 32) >> _SHIFTS & np.uint8(3)
        if (codes == 3).any():
            raise WeightError("format tq2_0: holds the code 3, which has no meaning")
        codes = (codes + np.uint8(1)).reshape(*raw.shape[:2], 256)
        return {"codes": codes, "scales": ggml.as_type(raw[..., 64:], np.float16)}
