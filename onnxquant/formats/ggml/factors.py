"""Factors of super-blocks: the small integers by which sub-blocks multiply the scales and minima of 256 weights.

Planes hold one factor per element. ggml's blocks and the kernels share the bytes that are written here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from onnxquant.formats.planes import Extent, Plane, Planes
from onnxquant.numerics.arrays import Array, Bytes

_LOW, _SIX, _PAIR = np.uint8(15), np.uint8(63), np.uint8(3)
_TWO, _FOUR = np.uint8(2), np.uint8(4)
_TWOS = np.array([0, 2, 4, 6], np.uint8)[:, None]
_MIDDLE = np.int8(32)


@dataclass(frozen=True)
class Factors(ABC):
    """Factors of a super-block as bytes. Axes before the last one are of any number."""

    # Bytes of a super-block, and whether each of them belongs to one sub-block.
    count: ClassVar[int]
    one_per_sub_block: ClassVar[bool] = False
    dtype: ClassVar[DTypeLike] = np.uint8

    @abstractmethod
    def pack(self, planes: Planes) -> Array:
        """Bytes [.., count] from planes [.., sub-blocks]."""

    @abstractmethod
    def unpack(self, packed: Array) -> Planes:
        """Planes [.., sub-blocks] from bytes [.., count]."""

    def plane(self, rows: int, supers: int) -> Plane:
        """The plane that kernels read, before its rows are interleaved."""
        shape = (rows, supers * self.count) if self.one_per_sub_block else (rows, supers, self.count)
        return Plane.of("factors", shape, self.dtype, extent=Extent.SUB_BLOCK)


@dataclass(frozen=True)
class SignedBytes(Factors):
    """Sixteen scales of 8 bits, signed."""

    count = 16
    one_per_sub_block = True
    dtype = np.int8

    def pack(self, planes: Planes) -> Array:  # noqa: D102
        return planes["subscales"]

    def unpack(self, packed: Array) -> Planes:  # noqa: D102
        return {"subscales": packed}


@dataclass(frozen=True)
class FourBits(Factors):
    """Sixteen scales and minima of 4 bits: a byte is scale | minimum << 4."""

    count = 16
    one_per_sub_block = True

    def pack(self, planes: Planes) -> Array:  # noqa: D102
        packed: Bytes = planes["subscales"] | planes["subminima"] << _FOUR
        return packed

    def unpack(self, packed: Array) -> Planes:  # noqa: D102
        return {"subscales": packed & _LOW, "subminima": packed >> _FOUR}


@dataclass(frozen=True)
class SixBits(Factors):
    """Eight scales and minima of 6 bits.

    For j < 4 byte j is scale[j] | high bits of scale[j + 4] << 6, byte 4 + j the same of the minima, byte 8 + j the low four
    bits of scale[j + 4] | those of minimum[j + 4] << 4.
    """

    count = 12

    def pack(self, planes: Planes) -> Array:  # noqa: D102
        sc, m = planes["subscales"], planes["subminima"]
        first, second = (values[..., :4] | values[..., 4:] >> _FOUR << np.uint8(6) for values in (sc, m))
        third = sc[..., 4:] & _LOW | (m[..., 4:] & _LOW) << _FOUR
        return np.concatenate([first, second, third], axis=-1)

    def unpack(self, packed: Array) -> Planes:  # noqa: D102
        first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
        scales = np.concatenate([first & _SIX, third & _LOW | first >> np.uint8(6) << _FOUR], axis=-1)
        minima = np.concatenate([second & _SIX, third >> _FOUR | second >> np.uint8(6) << _FOUR], axis=-1)
        return {"subscales": scales, "subminima": minima}


@dataclass(frozen=True)
class SignedSixBits(Factors):
    """Sixteen scales of 6 bits, signed: stored 32 higher.

    Byte j < 8 is the low four bits of scale[j] | those of scale[j + 8] << 4; byte 8 + j holds the high two bits of
    scale[j], scale[j + 4], scale[j + 8], scale[j + 12] from its lowest bits up.
    """

    count = 12

    def pack(self, planes: Planes) -> Array:  # noqa: D102
        sc = (planes["subscales"] + _MIDDLE).view(np.uint8)
        low = sc[..., :8] & _LOW | (sc[..., 8:] & _LOW) << _FOUR
        quarters = (sc >> _FOUR).reshape(*sc.shape[:-1], 4, 4) << _TWOS
        return np.concatenate([low, np.bitwise_or.reduce(quarters, axis=-2)], axis=-1)

    def unpack(self, packed: Array) -> Planes:  # noqa: D102
        low, high = packed[..., :8], packed[..., None, 8:] >> _TWOS & _PAIR
        sc = np.concatenate([low & _LOW, low >> _FOUR], axis=-1) | high.reshape(*packed.shape[:-1], 16) << _FOUR
        return {"subscales": sc.view(np.int8) - _MIDDLE}
