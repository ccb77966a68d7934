"""Format ``demo8``: codes of 8 bits that use only -100 .. 100, with one scale per row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.facts import Facts
from onnxquant.formats.granularity import PerRow
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Planes
from onnxquant.formats.scaled_codes import ScaledCodes

LARGEST = 100


@dataclass(frozen=True)
class Demo8(ScaledCodes):
    """Codes of 8 bits from -100 to 100, one scale per row."""

    name = "demo8"
    bits = 8
    facts = Facts(rmse=0.01)
    granularity = PerRow()

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:
        """Codes and scales of rows."""
        scales = np.maximum(np.abs(groups).max(axis=-1), 1e-4) / LARGEST
        scales = scales.astype(np.float16)
        codes = np.clip(np.rint(groups / scales[..., None].astype(np.float32)), -LARGEST, LARGEST) + self.offset
        return {"codes": codes.astype(np.uint8), "scales": scales}
