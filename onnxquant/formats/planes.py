"""Planes: the arrays that an encoded weight is stored as, and the vocabulary of their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onnxquant.numerics.arrays import Bytes
from onnxquant.numerics.packing import low_bits, pack, unpack

Planes = dict[str, NDArray[Any]]


class Extent(Enum):
    """The part of a weight that one element of a plane belongs to."""

    # One weight: [rows, cols].
    WEIGHT = "weight"
    # Weights of one row: [rows, n], or [1, 1] where all rows share it.
    ROW = "row"
    # A sub-block of a super-block: [rows, n].
    SUB_BLOCK = "sub-block"
    # The whole tensor: a list of numbers, not one per row.
    TENSOR = "tensor"


# The planes that formats may have, and the extent of each.
EXTENTS: Mapping[str, Extent] = {
    "codes": Extent.WEIGHT,
    "values": Extent.WEIGHT,  # the weights themselves, as floats
    "scales": Extent.ROW,
    "minima": Extent.ROW,
    "zero_points": Extent.ROW,
    "outliers": Extent.ROW,
    "subscales": Extent.SUB_BLOCK,  # small factors of a scale
    "subminima": Extent.SUB_BLOCK,  # small factors of a minimum
    "nested_scales": Extent.TENSOR,
    "nested_offset": Extent.TENSOR,
    "outlier_columns": Extent.TENSOR,
    "permutation": Extent.TENSOR,
}


@dataclass(frozen=True)
class Plane:
    """Declaration of one stored array.

    Attributes:
        name: name in the vocabulary.
        shape: shape of the array.
        dtype: element type.
        bits: bits that an element takes when packed, at most those of its type.
        extent: the part of a weight that an element belongs to.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bits: int
    extent: Extent

    @classmethod
    def of(
        cls, name: str, shape: tuple[int, ...], dtype: DTypeLike, *, bits: int = 0, extent: Extent | None = None
    ) -> Self:
        """A plane, with the bits of its type and the extent of its name where they are not said.

        Raises:
            KeyError: the vocabulary has no such name.
        """
        kind = np.dtype(dtype)
        return cls(name, shape, kind, bits or 8 * kind.itemsize, extent or EXTENTS[name])

    @property
    def size(self) -> int:
        """Elements of the array."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the array in memory."""
        return self.size * self.dtype.itemsize

    @property
    def packed_nbytes(self) -> int:
        """Bytes of the array with its elements packed to their bits, without padding."""
        return (self.size * self.bits + 7) // 8

    @property
    def stored_nbytes(self) -> int:
        """Bytes of ``packed``, whose low and high parts are whole bytes each."""
        low = low_bits(self.bits)
        return (self.size * low + 7) // 8 + (self.size * (self.bits - low) + 7) // 8

    def packed(self, values: NDArray[Any]) -> Bytes:
        """The bytes of an array in files: elements packed to their bits, the first in the lowest.

        Elements of 3, 5 and 6 bits are two parts, the low bits of all and then the high ones.
        """
        if not self._is_packed:
            return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        low = low_bits(self.bits)
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8) & np.uint8((1 << self.bits) - 1)
        if low == self.bits:
            return pack(flat, low)
        parts = [pack(flat & np.uint8((1 << low) - 1), low), pack(flat >> np.uint8(low), self.bits - low)]
        return np.concatenate(parts)

    def unpacked(self, raw: Bytes) -> NDArray[Any]:
        """The array of bytes that ``packed`` gives, without a copy where nothing is packed."""
        if not self._is_packed:
            return raw.view(self.dtype).reshape(self.shape)
        low = low_bits(self.bits)
        middle = -(-self.size * low // 8)
        codes = unpack(raw[:middle], low, self.size)
        if low != self.bits:
            codes = codes | unpack(raw[middle:], self.bits - low, self.size) << np.uint8(low)
        return self.from_bits(codes).reshape(self.shape)

    @property
    def _is_packed(self) -> bool:
        return self.bits < 8 * self.dtype.itemsize

    def from_bits(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        """Elements from bytes that hold their packed bits alone: the sign of a signed one fills the rest."""
        if self.dtype != np.int8:
            return codes
        unused = 8 - self.bits
        signed: NDArray[np.int8] = (codes << np.uint8(unused)).view(np.int8) >> np.int8(unused)
        return signed
