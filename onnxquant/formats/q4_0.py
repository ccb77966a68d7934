"""q4_0: ggml's 4-bit blocks of 32 with one float16 scale, byte-exact.

The signed element of largest magnitude (the first one on ties) maps to code 0: d = max / -8. Codes are chosen with the
unrounded float32 d, only the stored d is rounded. Arithmetic is float32, one rounding per operation, no FMA.
Layout of a ggml block (18 bytes): d float16, then 16 bytes; byte j holds element j low and element j + 16 high.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats import ggml
from onnxquant.formats.base import Encoded, Matrix, Planes, ScaledCodes


@dataclass(frozen=True)
class Q4_0(ScaledCodes):  # noqa: N801  the field writes it so
    """ggml's q4_0: 4.5 bits per weight."""

    name = "q4_0"
    bits = 4
    foreign = True
    group = 32

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:  # noqa: D102
        at = np.abs(groups).argmax(axis=-1, keepdims=True)
        extreme = np.take_along_axis(groups, at, axis=-1)
        scale = extreme / np.float32(-8)
        codes = groups * ggml.reciprocal(scale)
        codes += np.float32(8.5)
        np.minimum(codes, np.float32(15), out=codes)
        return {"codes": codes.astype(np.uint8), "scales": ggml.half(scale)[..., 0]}

    def to_blocks(self, encoded: Encoded) -> NDArray[np.uint8]:
        """The weight as ggml blocks: uint8 [rows, blocks, 18]."""
        codes, scales = ggml.blocks_of(self, encoded)
        low, high = codes[..., :16], codes[..., 16:]
        return np.concatenate([scales, low | high << 4], axis=-1)

    def from_blocks(self, blocks: NDArray[Any], rows: int, cols: int) -> Encoded:
        """The weight that ggml blocks stand for; ``blocks`` uint8 of rows * ceil(cols / 32) * 18 bytes."""
        packed = ggml.shaped(self, blocks, rows, cols, 18)
        nibbles = packed[..., 2:]
        codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
        return ggml.encoded_of(self, packed[..., :2], codes, rows, cols)


FORMATS = [Q4_0]
