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
    wide = packed.astype(f"<u{8 // bits}", order="C")  # as many bytes as there are codes in one
    codes = wide.copy()
    for i in range(1, 8 // bits):  # code i goes from bit i * bits to byte i; what lands between is masked
        codes |= wide << wide.dtype.type(i * (8 - bits))
    codes &= wide.dtype.type(int.from_bytes([(1 << bits) - 1] * (8 // bits), "little"))
    return codes.view(np.uint8)[..., :count]
