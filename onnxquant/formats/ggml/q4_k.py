"""q4_k and q5_k: ggml's super-blocks of 256 weights with eight 6-bit scales and minima (``minimum_superblocks``).

Layout of a ggml block: d, dmin float16; 12 bytes with sc and m (``factors.SixBits``); q5_k: 32 bytes, bit s of byte l is bit
4 of element l of sub-block s; then 128 bytes, 32 for each two sub-blocks: the first one's codes low, the second one's high
(their low four bits). 144 and 176 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.ggml.factors import SixBits
from onnxquant.formats.ggml.minimum_superblocks import MinimumSuperBlocks
from onnxquant.formats.planes import Planes
from onnxquant.numerics.arrays import Bytes

_LOW, _HIGH = np.uint8(15), np.uint8(4)


@dataclass(frozen=True)
class _SixBitSuperBlocks(MinimumSuperBlocks):
    """Base of q4_k and q5_k."""

    sub_block = 32
    factor_bits = 6
    factors = SixBits()
    stride = 0.25


def _pack_sides(planes: Planes) -> list[Bytes]:
    return [ggml.as_bytes(planes["scales"]), ggml.as_bytes(planes["minima"]), SixBits().pack(planes)]


def _unpack_sides(raw: Bytes) -> Planes:
    scales, minima = (ggml.as_type(raw[..., at : at + 2], np.float16) for at in (0, 2))
    return {"scales": scales, "minima": minima, **SixBits().unpack(raw[..., 4:16])}


def _pack_nibbles(codes: Bytes) -> Bytes:
    pairs = codes.reshape(*codes.shape[:2], 4, 2, 32)
    packed = (pairs[..., 0, :] & _LOW) | pairs[..., 1, :] << _HIGH
    return packed.reshape(*codes.shape[:2], 128)


def _unpack_nibbles(raw: Bytes) -> Bytes:
    pairs = raw.reshape(*raw.shape[:2], 4, 1, 32)
    codes = np.concatenate([pairs & _LOW, pairs >> _HIGH], axis=-2)
    return codes.reshape(*raw.shape[:2], 256)


@dataclass(frozen=True)
class Q4_K(_SixBitSuperBlocks):  # noqa: N801  the field writes it so
    """ggml's 4-bit super-blocks of 256: eight 6-bit scales and minima."""

    name = "q4_k"
    bits = 4
    facts = Facts(rmse=0.0715, drift=0.1)
    block_bytes = 144

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        return [*_pack_sides(planes), _pack_nibbles(planes["codes"])]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        return {"codes": _unpack_nibbles(raw[..., 16:]), **_unpack_sides(raw)}


@dataclass(frozen=True)
class Q5_K(_SixBitSuperBlocks):  # noqa: N801
    """ggml's 5-bit super-blocks of 256: eight 6-bit scales and minima."""

    name = "q5_k"
    bits = 5
    facts = Facts(rmse=0.03574, drift=0.05)
    block_bytes = 176

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        codes = planes["codes"]
        return [*_pack_sides(planes), ggml.bits_of_eighths(codes >> _HIGH), _pack_nibbles(codes)]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        codes = _unpack_nibbles(raw[..., 48:]) | ggml.from_bits_of_eighths(raw[..., 16:48]) << _HIGH
        return {"codes": codes, **_unpack_sides(raw)}
