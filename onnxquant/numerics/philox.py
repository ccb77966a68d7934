"""Philox4x32-10 (Salmon et al. 2011): random numbers by position, which do not depend on the order of computation.

The number of element i: key = (seed's low 32 bits, its high 32 bits), counter = (i // 4 as two words of 32 bits, low
first, then 0, 0), word i % 4 of the result; as a uniform in [0, 1): (word >> 8) * 2^-24.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]  # words of 32 bits, in 64 so that products fit

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: list[Words], key: tuple[int, int]) -> list[Words]:
    """Ten rounds on counters of four words.

    >>> [hex(int(w)) for w in philox([np.zeros((), np.uint64)] * 4, (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    a, b, c, d = counter
    for turn in range(10):
        k0, k1 = (np.uint64((k + turn * w) & 0xFFFFFFFF) for k, w in zip(key, _WEYL, strict=True))
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (second >> _HALF) ^ b ^ k0, second & _MASK, (first >> _HALF) ^ d ^ k1, first & _MASK
    return [a, b, c, d]


def uniforms(seed: int, start: int, count: int) -> NDArray[np.float32]:
    """Uniforms in [0, 1) of the elements ``start`` .. ``start + count - 1``."""
    index = np.arange(start // 4, -(-(start + count) // 4), dtype=np.uint64)
    zero = np.zeros_like(index)
    words = philox([index & _MASK, index >> _HALF, zero, zero], (seed & 0xFFFFFFFF, seed >> 32))
    flat = np.stack(words, axis=-1).reshape(-1)[start % 4 : start % 4 + count]
    return (flat >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)
