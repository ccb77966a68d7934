"""q8_0: ggml's 8-bit blocks of 32 with one float16 scale, byte-exact.

d = amax / 127, q = round-half-away(x * (1 / d)), stored as int8; the code of a plane is q + 128. Layout of a ggml block
(34 bytes): d float16, then 32 int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats import ggml
from onnxquant.formats.base import Encoded, Matrix, Planes, ScaledCodes


@dataclass(frozen=True)
class Q8_0(ScaledCodes):  # noqa: N801  the field writes it so
    """ggml's q8_0: 8.5 bits per weight."""

    name = "q8_0"
    bits = 8
    foreign = True
    group = 32

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:  # noqa: D102
        scale = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
        scaled = groups * ggml.reciprocal(scale)
        # Round half away from zero: rint would round half to even. x - trunc(x) is exact, so the comparison is too.
        whole = np.trunc(scaled)
        whole += np.copysign((np.abs(scaled - whole) >= np.float32(0.5)).astype(np.float32), scaled)
        codes = (whole + np.float32(128)).astype(np.uint8)
        return {"codes": codes, "scales": ggml.half(scale)[..., 0]}

    def to_blocks(self, encoded: Encoded) -> NDArray[np.uint8]:
        """The weight as ggml blocks: uint8 [rows, blocks, 34]."""
        codes, scales = ggml.blocks_of(self, encoded)
        return np.concatenate([scales, codes ^ np.uint8(0x80)], axis=-1)

    def from_blocks(self, blocks: NDArray[Any], rows: int, cols: int) -> Encoded:
        """The weight that ggml blocks stand for; ``blocks`` uint8 of rows * ceil(cols / 32) * 34 bytes."""
        packed = ggml.shaped(self, blocks, rows, cols, 34)
        return ggml.encoded_of(self, packed[..., :2], packed[..., 2:] ^ np.uint8(0x80), rows, cols)


FORMATS = [Q8_0]
