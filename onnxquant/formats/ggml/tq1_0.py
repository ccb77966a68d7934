"""tq1_0: ggml's ternary blocks of 256, five weights in a byte, byte-exact (``ternary``).

As planes a weight takes 2 bits, as in tq2_0; ggml's bytes take 1.6875 with their scales.

Layout of a ggml block (54 bytes): 32 bytes, byte m holding elements m + 32 n for n = 0 .. 4; 16 bytes, byte m holding
elements 160 + m + 16 n; 4 bytes, byte m holding elements 240 + m + 4 n for n = 0 .. 3; d float16. A byte stands for the
digits trit + 1 of a number v in base 3, the first one highest, the fifth one of the last four bytes 0; it is ceil(v * 256 /
243). Digit n is the upper byte of 3 * (byte * 3^n mod 256), which any byte has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.ternary import TernaryBlocks
from onnxquant.formats.planes import Planes
from onnxquant.numerics.arrays import Bytes

# The bytes of a block that share a number of digits: first element, bytes, digits.
_RUNS = ((0, 32, 5), (160, 16, 5), (240, 4, 4))
_POWERS = np.array([81, 27, 9, 3, 1], np.uint16)[:, None]
_SHIFTS = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]


@dataclass(frozen=True)
class TQ1_0(TernaryBlocks):  # noqa: N801  the field writes it so
    """ggml's ternary blocks of 256, whose files hold five weights in a byte."""

    name = "tq1_0"
    facts = Facts(rmse=0.8076)
    block_bytes = 54

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        trits = planes["codes"] - np.uint8(1)
        runs = [_packed(trits[..., first : first + count * digits], digits) for first, count, digits in _RUNS]
        return [*runs, ggml.as_bytes(planes["scales"])]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        ends = np.cumsum([count for _, count, _ in _RUNS])
        parts = np.split(raw[..., : ends[-1]], ends[:-1], axis=-1)
        trits = [_unpacked(part, digits) for part, (_, _, digits) in zip(parts, _RUNS, strict=True)]
        codes = np.concatenate(trits, axis=-1) + np.uint8(1)
        return {"codes": codes, "scales": ggml.as_type(raw[..., ends[-1] :], np.float16)}


def _packed(trits: Bytes, digits: int) -> Bytes:
    """Bytes [.., n] of trits [.., digits * n]."""
    numbers = (trits.reshape(*trits.shape[:-1], digits, -1) * _POWERS[:digits]).sum(axis=-2, dtype=np.uint32)
    packed: Bytes = ((numbers * 256 + 242) // 243).astype(np.uint8)
    return packed


def _unpacked(raw: Bytes, digits: int) -> Bytes:
    """Trits [.., digits * n] of bytes [.., n]."""
    shifted = (raw[..., None, :] * _SHIFTS[:digits]).astype(np.uint16)
    trits = (shifted * np.uint16(3) >> np.uint16(8)).astype(np.uint8)
    return trits.reshape(*raw.shape[:-1], -1)
