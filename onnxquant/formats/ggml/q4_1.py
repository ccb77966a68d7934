"""q4_1 and q5_1: ggml's blocks of 32 with a float16 scale and minimum, byte-exact (rule: ``minimum``).

Layout of a ggml block: d float16, m float16, then for q5_1 a little-endian 32-bit word whose bit i is bit 4 of element
i's code, then 16 bytes; byte j holds the low four bits of element j low and of element j + 16 high. 20 and 24 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.minimum import MinimumCodes
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.planes import Planes
from onnxquant.numerics.arrays import Bytes


@dataclass(frozen=True)
class Q4_1(ggml.Blocks, MinimumCodes):  # noqa: N801  the field writes it so
    """ggml's 4-bit blocks of 32 with a scale and a minimum."""

    name = "q4_1"
    bits = 4
    facts = Facts(rmse=0.0782, drift=0.001, tiny_error=3.0)
    granularity = PerBlock(32)
    block_bytes = 20
    filler = 0

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        return [*(ggml.as_bytes(planes[name]) for name in ("scales", "minima")), ggml.nibbles(planes["codes"])]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        return {"codes": ggml.from_nibbles(raw[..., 4:]), **_sides(raw)}


@dataclass(frozen=True)
class Q5_1(ggml.Blocks, MinimumCodes):  # noqa: N801
    """ggml's 5-bit blocks of 32 with a scale and a minimum."""

    name = "q5_1"
    bits = 5
    facts = Facts(rmse=0.03786, drift=0.001, tiny_error=3.0)
    granularity = PerBlock(32)
    block_bytes = 24
    filler = 0

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        sides = [ggml.as_bytes(planes[name]) for name in ("scales", "minima")]
        return [*sides, ggml.fifth_bits(planes["codes"]), ggml.nibbles(planes["codes"])]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        codes = ggml.from_nibbles(raw[..., 8:]) | ggml.from_fifth_bits(raw[..., 4:8])
        return {"codes": codes, **_sides(raw)}


def _sides(raw: Bytes) -> Planes:
    return {"scales": ggml.as_type(raw[..., :2], np.float16), "minima": ggml.as_type(raw[..., 2:4], np.float16)}
