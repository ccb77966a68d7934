"""The base of schemes: which arrays are one weight, what they mean, and which arrays a weight becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from onnxquant.errors import CheckpointError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.matrix import CHUNK_BYTES
from onnxquant.formats.planes import Planes
from onnxquant.interchange.tensor import Tensor, is_float
from onnxquant.json_data import JsonObject
from onnxquant.native.jobs import Execution
from onnxquant.native.packers import pack_rows
from onnxquant.numerics.arrays import Array, Bytes, Order
from onnxquant.numerics.packing import unpack
from onnxquant.numerics.rows import row_ranges

Arrays = Mapping[str, Array]
ArrayType = tuple[np.dtype[Any], tuple[int, ...]]
"""Type and shape of an array."""
# Weights of a group that our integers may have.
_SHORTEST_GROUP, _LONGEST_GROUP = 16, 256
# Rows and columns that are transposed at a time.
_TILE = 64


class Scheme(ABC):
    """A way to store a quantized weight in several arrays.

    Attributes:
        name: name for errors and reports.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def read(cls, arrays: Arrays, config: JsonObject) -> list[Tensor]:
        """The weights that some of the arrays are; each tensor names its arrays.

        Args:
            arrays: arrays of a checkpoint that no other scheme has taken.
            config: ``quantization_config`` of its config.json, empty where there is none.

        Raises:
            CheckpointError: arrays belong to this scheme, and do not fit each other.
        """

    @classmethod
    def why_not(cls, tensor: Tensor) -> str | None:
        """The reason why the scheme cannot hold an encoded tensor; None where it can."""
        return f"{cls.name} is read, and not written, here"

    @classmethod
    def types(cls, tensor: Tensor) -> dict[str, ArrayType]:
        """Types and shapes of the arrays of a tensor that the scheme holds, in their order; nothing is read for them."""
        raise NotImplementedError(cls.name)

    @classmethod
    def arrays(cls, tensor: Tensor) -> dict[str, Array]:
        """The arrays of a tensor that the scheme holds.

        Raises:
            WeightError: its values do not fit the scheme.
        """
        raise NotImplementedError(cls.name)

    @classmethod
    def config(cls, weights: Sequence[Tensor], plain: Sequence[str]) -> JsonObject:
        """``quantization_config`` of a config.json, for weights of the scheme.

        Args:
            weights: the weights.
            plain: modules of the model whose matrices are plain numbers.
        """
        raise NotImplementedError(cls.name)


@dataclass(frozen=True)
class Groups:
    """Scales and zero points of integer codes, as tools for language models have them: of groups along the rows of a weight.

    Attributes:
        name: name of the weight, for errors.
        scales: [out, groups], any float type.
        zero_points: uint8 [out, groups].
        bits: bits of a code.
        cols: columns of the weight.
        group_of: group of each column; None: columns in their order.
        has_lowest: whether some code is 0, which our symmetric integers of 8 bits do not use.
    """

    name: str
    scales: Array
    zero_points: Bytes
    bits: int
    cols: int
    group_of: Array | None = None
    has_lowest: bool = True

    def __post_init__(self) -> None:
        """Check what comes from a file.

        Raises:
            CheckpointError: scales are no finite floats of groups, or a column is of no group.
        """
        rows, groups = self.scales.shape
        expect(is_float(self.scales.dtype) and rows > 0 < groups, self.name, "has no floats as scales")
        expect(bool(np.isfinite(self.scales).all()), self.name, "has scales that are not finite")
        expect(self.zero_points.shape == self.scales.shape, self.name, "has other zero points than scales")
        if self.group_of is not None:
            fits = self.group_of.shape == (self.cols,) and self.group_of.dtype.kind in "iu"
            names_groups = fits and bool(((self.group_of >= 0) & (self.group_of < groups)).all())
            expect(names_groups, self.name, f"g_idx does not name one of {groups} groups for each column")

    @cached_property
    def form(self) -> Format:
        """The integer format that the codes are of.

        Raises:
            CheckpointError: the groups have sizes that no format has.
        """
        groups, size = self.scales.shape[1], self._size
        granularity: dict[str, object] = (
            {"per_channel": True} if groups == 1 else {"block_size": min(size, _LONGEST_GROUP)}
        )
        form = format_named(f"int{self.bits}", symmetric=self._is_symmetric, **granularity)
        return form if self._order is None else form.with_(permuted=True)

    def encoded(self, codes: Bytes) -> Encoded:
        """The weight of codes [out, in]; its columns are stored in the order of their groups.

        Raises:
            CheckpointError: a scale has a precision that the format does not know.
        """
        with np.errstate(over="ignore"):
            scales = self.scales.astype(np.float16)
        if not np.array_equal(scales.astype(np.float64), self.scales.astype(np.float64)):
            raise CheckpointError(f"{self.name}: has scales of {self.scales.dtype} that float16 does not hold")
        repeats = max(1, self._size // _LONGEST_GROUP) if self.scales.shape[1] > 1 else 1
        count = self.form.planes(*codes.shape)["scales"].shape[1]
        order = self._order
        planes: Planes = {"codes": codes if order is None else np.ascontiguousarray(codes[:, order])}
        planes["scales"] = np.repeat(scales, repeats, axis=1)[:, :count]
        if not self._is_symmetric:
            planes["zero_points"] = np.repeat(self.zero_points, repeats, axis=1)[:, :count]
        if order is not None:
            planes["permutation"] = order
        rows, cols = codes.shape
        return Encoded(self.form, rows, cols, planes, (rows, cols))

    @property
    def _is_symmetric(self) -> bool:
        is_middle = bool((self.zero_points == 1 << (self.bits - 1)).all())
        return is_middle and not (self.bits == 8 and self.has_lowest)

    @cached_property
    def _order(self) -> Order | None:
        if self.group_of is None or not (np.diff(self.group_of) < 0).any():
            return None
        return np.argsort(self.group_of, kind="stable").astype(np.int32)

    @cached_property
    def _size(self) -> int:
        """Columns of a group: as many in each but the last, and a power of two."""
        groups = self.scales.shape[1]
        size = -(-self.cols // groups)
        if self.group_of is not None:
            counts = np.bincount(np.asarray(self.group_of, np.int64), minlength=groups)
            size = int(counts[0])
            if (counts[:-1] != size).any() or counts[-1] > size:
                raise CheckpointError(
                    f"{self.name}: its groups have from {counts.min()} to {counts.max()} columns; expected equal ones"
                )
        if groups > 1 and size & (size - 1):  # a short last group
            size = 1 << (size - 1).bit_length()
        if groups > 1 and (size < _SHORTEST_GROUP or -(-self.cols // size) != groups):
            raise CheckpointError(
                f"{self.name}: {groups} groups for {self.cols} columns; expected groups of a power of two, {_SHORTEST_GROUP} "
                f"or more"
            )
        return int(size)


def transposed(matrix: Array) -> Array:
    """A matrix with rows for columns, copied tile by tile: whole columns would miss the cache with every element."""
    out = np.empty(matrix.shape[::-1], matrix.dtype)
    for first in range(0, len(matrix), _TILE):
        for column in range(0, matrix.shape[1], _TILE):
            tile = matrix[first : first + _TILE, column : column + _TILE]
            out[column : column + _TILE, first : first + _TILE] = tile.T
    return out


def words_to_codes(words: Array, bits: int, count: int) -> Bytes:
    """Codes [rows, count] of 32-bit words [rows, n], the first code in the lowest bits; 3 bits may cross words."""
    raw = np.ascontiguousarray(words).view(np.uint8)
    if bits in (2, 4, 8):
        unpacked = np.empty((len(raw), count), np.uint8)
        for part in row_ranges(len(raw), count, CHUNK_BYTES):
            unpacked[part] = unpack(raw[part], bits, count)
        return unpacked
    stream = np.unpackbits(raw, axis=-1, bitorder="little")[:, : count * bits]
    weights = (1 << np.arange(bits)).astype(np.uint8)
    codes: Bytes = (stream.reshape(len(stream), count, bits) * weights).sum(axis=-1, dtype=np.uint8)
    return codes


def codes_to_words(codes: Bytes, bits: int) -> Array:
    """32-bit words [rows, ceil(n * bits / 32)] of codes [rows, n]."""
    if bits in (2, 4, 8):
        missing = -codes.shape[1] % (32 // bits)
        whole = np.pad(codes, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(codes)
        return pack_rows(whole, bits, whole.shape[1], 0, Execution(threads=1)).view(np.int32)
    stream = np.unpackbits(np.ascontiguousarray(codes)[..., None], axis=-1, count=bits, bitorder="little")
    stream = stream.reshape(len(codes), -1)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    return np.packbits(stream, axis=-1, bitorder="little").view(np.int32)


def expect_words(words: Array, name: str) -> None:
    """Refuse an array that is no matrix of 32-bit words.

    Raises:
        CheckpointError: it is of another type or shape.
    """
    is_matrix = words.dtype in (np.int32, np.uint32) and words.ndim == 2 and words.size > 0
    expect(is_matrix, name, f"is {words.dtype} {list(words.shape)}; expected a matrix of int32")


def expect(right: bool, name: str, sentence: str) -> None:
    """Refuse arrays that do not fit each other.

    Raises:
        CheckpointError: the sentence, with the name of the weight.
    """
    if not right:
        raise CheckpointError(f"{name}: {sentence}")
