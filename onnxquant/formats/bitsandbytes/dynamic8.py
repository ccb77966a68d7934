"""dynamic8: bitsandbytes' 8-bit dynamic map, values spread over seven decades (rule: ``block_table``).

The map (Dettmers 2015, 2022): for i = 0 .. 6 the interval [0.1, 1] is cut into 2^i equal parts, whose midpoints times
10^(i-6) are values, with both signs; then 0 and 1. 256 values in ascending order: code 127 is 0, code 255 is 1, and the
lowest is -0.99296874. bitsandbytes' CPU kernel looks codes up in 65536 bins and so sometimes misses the nearest value;
here it is always the nearest. bitsandbytes' default block is 4096; here it is 64, which rows of most weights are a
multiple of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from onnxquant.formats.bitsandbytes.block_table import BlockTable
from onnxquant.formats.facts import Facts
from onnxquant.formats.matrix import Matrix


@cache
def signed_map() -> Matrix:
    """The 256 values, float32."""
    values = [np.zeros(1, np.float32), np.ones(1, np.float32)]
    for i in range(7):
        ends = _spaced(2**i)
        middles = (ends[1:] + ends[:-1]) / np.float32(2) * np.float32(10.0 ** (i - 6))
        values += [middles, -middles]
    return np.sort(np.concatenate(values))


def _spaced(parts: int) -> Matrix:
    """The ends of equal parts of [0.1, 1], each rounded to float32 once, from the nearer end."""
    at = np.arange(parts + 1)
    low, high = np.float64(np.float32(0.1)), 1.0
    step = np.float64((np.float32(1) - np.float32(0.1)) / np.float32(parts))
    return np.where(2 * at < parts + 1, low + step * at, high - step * (parts - at)).astype(np.float32)


@dataclass(frozen=True)
class Dynamic8(BlockTable):
    """bitsandbytes' 8-bit dynamic map: fine near zero, over seven decades."""

    name = "dynamic8"
    bits = 8
    facts = Facts(rmse=0.00952, drift=0.02)
    source = "bitsandbytes: blockwise 8-bit dynamic quantization (Dettmers et al. 2022)"

    @classmethod
    def table(cls) -> Matrix:  # noqa: D102
        return signed_map()
