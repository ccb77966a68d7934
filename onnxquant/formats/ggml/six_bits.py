"""The 12 bytes of ggml's super-blocks that hold eight 6-bit scales and eight 6-bit minima.

For j < 4 byte j is scale[j] | high bits of scale[j + 4] << 6, byte 4 + j the same of the minima, byte 8 + j the low four
bits of scale[j + 4] | those of minimum[j + 4] << 4.
"""

from __future__ import annotations

import numpy as np

from onnxquant.numerics.arrays import Bytes

SIX_BIT_BYTES = 12
_LOW, _SIX, _TWO, _FOUR = np.uint8(15), np.uint8(63), np.uint8(6), np.uint8(4)


def six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """Bytes [rows, supers, 12] from scales and minima [rows, 8 supers]."""
    sc, m = (values.reshape(len(values), -1, 8) for values in (scales, minima))
    first, second = (values[..., :4] | values[..., 4:] >> _FOUR << _TWO for values in (sc, m))
    third = sc[..., 4:] & _LOW | (m[..., 4:] & _LOW) << _FOUR
    return np.concatenate([first, second, third], axis=-1)


def from_six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Scales and minima [rows, 8 supers] from bytes [rows, supers, 12]."""
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([first & _SIX, third & _LOW | first >> _TWO << _FOUR], axis=-1)
    minima = np.concatenate([second & _SIX, third >> _FOUR | second >> _TWO << _FOUR], axis=-1)
    return scales.reshape(len(packed), -1), minima.reshape(len(packed), -1)
