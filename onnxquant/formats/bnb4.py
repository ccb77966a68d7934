"""nf4 and fp4: bitsandbytes' 4-bit tables (rule: ``table``).

nf4's values are quantiles of a normal distribution (Dettmers et al. 2023, QLoRA). fp4's are a sign bit and 0, 1/192, 2/3,
1, 1/3, 1/2, 1/6, 1/4; it is not OCP's E2M1. Of fp4's two zeros only code 0 is written: bitsandbytes writes code 8 for tiny
values of one sign, which sign depending on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.matrix import Matrix
from onnxquant.formats.table import BlockTable

_NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
_MAGNITUDES = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
_FP4 = np.concatenate([_MAGNITUDES, -_MAGNITUDES])


@dataclass(frozen=True)
class NF4(BlockTable):
    """bitsandbytes' 4-bit quantiles of a normal distribution."""

    name = "nf4"
    bits = 4
    source = "bitsandbytes: NF4 (Dettmers et al. 2023, QLoRA)"

    @classmethod
    def table(cls) -> Matrix:  # noqa: D102
        return _NF4


@dataclass(frozen=True)
class FP4(BlockTable):
    """bitsandbytes' 4-bit floats."""

    name = "fp4"
    bits = 4
    source = "bitsandbytes: FP4"

    @classmethod
    def table(cls) -> Matrix:  # noqa: D102
        return _FP4


FORMATS = [NF4, FP4]
