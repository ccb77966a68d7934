"""Ternary blocks of 256 with one float16 scale: base of ggml's tq1_0 and tq2_0, which differ in their bytes alone.

d = amax, trit = round-half-away(x * (1 / d)) in -1, 0, 1; only the stored d is rounded to float16. The code of a plane is
trit + 2, so that zero has the code every 2-bit format gives it; ggml stores trit + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Planes
from onnxquant.formats.scaled_codes import ScaledCodes


@dataclass(frozen=True)
class TernaryBlocks(ggml.Blocks, ScaledCodes):
    """Base of ggml's ternary formats."""

    bits = 2
    bottom = 1
    granularity = PerBlock(256)
    block = 256
    filler = 2

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:  # noqa: D102
        scale = np.abs(groups).max(axis=-1, keepdims=True)
        codes = ggml.round_away(groups * ggml.reciprocal(scale)) + np.float32(2)
        return {"codes": codes.astype(np.uint8), "scales": ggml.half(scale)[..., 0]}

    def warning(self, sqnr_db: float) -> str | None:  # noqa: D102
        if sqnr_db > 40:
            return None
        return (
            f"{self.name} keeps only weights near a block's extremes that were not trained ternary: {sqnr_db:.1f} dB here; "
            f"expect the model to fail"
        )
