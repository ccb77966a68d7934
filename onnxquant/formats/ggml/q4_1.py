"""q4_1 and q5_1: ggml's blocks of 32 with a float16 scale and minimum, byte-exact (rule: ``minimum``).

Layout of a ggml block: d float16, m float16, then for q5_1 a little-endian 32-bit word whose bit i is bit 4 of element
i's code, then 16 bytes; byte j holds the low four bits of element j low and of element j + 16 high. 20 and 24 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.minimum import MinimumCodes
from onnxquant.formats.granularity import PerBlock


@dataclass(frozen=True)
class Q4_1(ggml.NibbleBlocks, MinimumCodes):  # noqa: N801  the field writes it so
    """ggml's 4-bit blocks of 32 with a scale and a minimum."""

    name = "q4_1"
    bits = 4
    facts = Facts(rmse=0.0782, drift=0.001, tiny_error=3.0)
    granularity = PerBlock(32)
    block_bytes = 20
    filler = 0


@dataclass(frozen=True)
class Q5_1(ggml.NibbleBlocks, MinimumCodes):  # noqa: N801
    """ggml's 5-bit blocks of 32 with a scale and a minimum."""

    name = "q5_1"
    bits = 5
    facts = Facts(rmse=0.03786, drift=0.001, tiny_error=3.0)
    granularity = PerBlock(32)
    block_bytes = 24
    filler = 0
