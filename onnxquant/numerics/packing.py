"""The bit packer: unsigned codes of 1, 2, 4 or 8 bits along the last axis, first code in the lowest bits."""

from __future__ import annotations

import numpy as np

from onnxquant.numerics.arrays import Bytes

# A code of one of these widths is stored as low bits of a width that divides a byte, and the high bits that remain.
_LOW_BITS = {3: 2, 5: 4, 6: 4}


def low_bits(bits: int) -> int:
    """Width of the low part of codes of this width: all of them, except at 3, 5 and 6 bits."""
    return _LOW_BITS.get(bits, bits)


def pack(codes: Bytes, bits: int) -> Bytes:
    """Pack codes [..., n] into bytes [..., ceil(n * bits / 8)]; a short last byte is filled with zero bits.

    >>> pack(np.array([1, 2, 3, 4, 5], np.uint8), 4).tobytes().hex()
    '214305'
    """
    if bits == 8:
        return np.ascontiguousarray(codes)
    per_byte = 8 // bits
    if codes.shape[-1] % per_byte:
        fill = np.zeros((*codes.shape[:-1], -codes.shape[-1] % per_byte), np.uint8)
        codes = np.concatenate([codes, fill], axis=-1)
    out = codes[..., ::per_byte].copy()
    for i in range(1, per_byte):
        out |= codes[..., i::per_byte] << np.uint8(i * bits)
    return out


def unpack(packed: Bytes, bits: int, count: int) -> Bytes:
    """The first ``count`` codes of each packed row.

    >>> unpack(np.frombuffer(bytes.fromhex("214305"), np.uint8), 4, 5).tolist()
    [1, 2, 3, 4, 5]
    """
    if bits == 8:
        return packed[..., :count]
    per_byte = 8 // bits
    out = np.empty((*packed.shape[:-1], packed.shape[-1] * per_byte), np.uint8)
    for i in range(per_byte):
        out[..., i::per_byte] = packed >> np.uint8(i * bits) & np.uint8((1 << bits) - 1)
    return out[..., :count]
