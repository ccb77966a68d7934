"""What a format is: how a matrix of floats becomes planes, and back.

A weight is seen as ``[rows, cols]``: rows are output channels, cols the contracted channels. The commonest data model,
after MatMulNBits, is unsigned codes with an offset (``ScaledCodes``):

    value[r, c] = (codes[r, c] - zero[r, g]) * scale[r, g]

where ``g`` is the group that ``(r, c)`` belongs to. The granularity is the shape of the scale: ``[1, 1]`` one for the
tensor, ``[rows, 1]`` one per channel, ``[rows, ceil(cols / block)]`` one per block along the contracted axis. The other
models are in ``minimum``, ``superblocks``, ``table``, ``floats`` and ``llm_int8``.

Any format may store its columns in another order: the plane ``permutation`` then says which original column each stored
one is. All arithmetic is float32, one rounding per operation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.errors import RecipeError, WeightError, nearest
from onnxquant.formats.grid import Floats, Grid, Gridded, Indices
from onnxquant.formats.matrix import (
    CHUNK_BYTES,
    Matrix,
    Planes,
    check_finite,
    check_permutation,
    chunks,
    columns_by_norm,
    expand,
    split,
)
from onnxquant.formats.parameters import INTERNAL, parameters_of
from onnxquant.numerics.casts import narrowed
from onnxquant.numerics.rows import row_ranges


@dataclass(frozen=True)
class Plane:
    """Shape and type of one stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes the array takes."""
        return self.size * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Elements of the array."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Encoded:
    """An encoded weight: its format, its planes, and how to get its original shape back.

    Attributes:
        format: the format with its parameters.
        rows: output channels N.
        cols: contracted channels K.
        planes: arrays by name, as ``format.planes(rows, cols)`` declares them; ``codes`` is uint8 [N, K], one code per
            byte whatever its width.
        shape: shape of the original array.
    """

    format: Format
    rows: int
    cols: int
    planes: Planes
    shape: tuple[int, ...] = ()

    def nbytes(self) -> int:
        """Bytes of the planes with codes packed to their width, without padding."""
        return self.format.nbytes(self.rows, self.cols)


@dataclass(frozen=True)
class Format(Gridded, ABC):
    """A way to store a weight. Subclasses are frozen dataclasses whose fields are the format's parameters.

    The first line of a subclass's docstring is its summary for ``onnxquant list``.

    Attributes:
        permuted: columns are stored in the order of the plane ``permutation``.
    """

    name: ClassVar[str]
    bits: ClassVar[int]
    # Where the definition comes from.
    source: ClassVar[str] = "this package"
    # Its bytes are defined by another project; planes convert to and from them without loss (``to_blocks``).
    foreign: ClassVar[bool] = False
    # Bits that an element of a plane takes where they are fewer than its type's; ``codes`` take ``bits``.
    packed_bits: ClassVar[Mapping[str, int]] = {}

    permuted: bool = field(default=False, kw_only=True, metadata=INTERNAL)

    @property
    @abstractmethod
    def bits_per_weight(self) -> float:
        """Bits per weight on a large weight, side information included."""

    @abstractmethod
    def _planes(self, rows: int, cols: int) -> dict[str, Plane]:
        """The planes but for the permutation."""

    @abstractmethod
    def _encode(self, weight: NDArray[Any]) -> Encoded:
        """Planes of a matrix that is not empty, in the order its columns have."""

    @abstractmethod
    def _decode(self, encoded: Encoded) -> Matrix:
        """The matrix in the order that its columns are stored in."""

    def check_shape(self, rows: int, cols: int) -> None:
        """Refuse shapes that the format cannot hold.

        Raises:
            WeightError: with what was expected.
        """
        if reason := self.unfit(rows, cols):
            raise WeightError(f"format {self.name}: {reason}")

    def planes(self, rows: int, cols: int) -> dict[str, Plane]:
        """Shape and type of each plane of a ``[rows, cols]`` weight."""
        out = self._planes(rows, cols)
        if self.permuted:
            out["permutation"] = Plane((cols,), np.dtype(np.int32))
        return out

    def encode(self, weight: NDArray[Any], permutation: ArrayLike | None = None) -> Encoded:
        """Planes of a float matrix ``[rows, cols]`` by rounding to nearest, in numpy: this code defines the bytes.

        Args:
            weight: the matrix; any float type, any strides.
            permutation: stored column j is column ``permutation[j]``; None: the original order, or that of the
                columns' L2 norms, descending, where the format is ``permuted``.

        Raises:
            WeightError: a value is NaN or infinite, a scale does not fit its type, or the permutation is not one.
        """
        rows, cols = weight.shape
        self.check_shape(rows, cols)
        order = None
        if permutation is not None:
            order = check_permutation(permutation, cols)
            for _ in chunks(weight):  # NaN is reported at its original place
                pass
        elif self.permuted:
            order = columns_by_norm(weight)
        if order is not None:
            weight = weight[:, order]
        encoded = self._encode(weight) if weight.size else self._empty(rows, cols)
        if order is None:
            return encoded
        planes = {**encoded.planes, "permutation": order}
        return replace(encoded, format=encoded.format.with_(permuted=True), planes=planes)

    def decode(self, encoded: Encoded) -> Matrix:
        """The float32 matrix ``[rows, cols]`` that the planes stand for, columns in their original order."""
        if not encoded.rows * encoded.cols:
            return np.zeros((encoded.rows, encoded.cols), np.float32)
        values = self._decode(encoded)
        order = encoded.planes.get("permutation")
        if order is None:
            return values
        out = np.empty_like(values)
        out[:, check_permutation(order, encoded.cols)] = values
        return out

    def _allocate(self, rows: int, cols: int) -> Planes:
        return {name: np.zeros(plane.shape, plane.dtype) for name, plane in self._planes(rows, cols).items()}

    def _empty(self, rows: int, cols: int) -> Encoded:
        return Encoded(self, rows, cols, self._allocate(rows, cols), (rows, cols))

    def nbytes(self, rows: int, cols: int) -> int:
        """Bytes of a ``[rows, cols]`` weight with codes packed to their width, without padding."""
        return sum((p.size * self._width(name, p) + 7) // 8 for name, p in self.planes(rows, cols).items())

    def _width(self, name: str, plane: Plane) -> int:
        own = 8 * plane.dtype.itemsize
        codes = name in ("codes", "zero_points") and plane.dtype == np.uint8
        return self.packed_bits.get(name, self.bits if codes else own)

    def unfit(self, rows: int, cols: int) -> str | None:
        """Why weights of this shape cannot be stored; None when they can."""
        return None

    def folded(self) -> Self:
        """The format for a weight that is decoded at load, with parameters that are still open settled for that."""
        return self

    def warning(self, sqnr_db: float) -> str | None:
        """What to tell the user when this error shows that the format does not suit the weight."""
        return None

    @classmethod
    def summary(cls) -> str:
        """What the format is, in one line."""
        return (cls.__doc__ or cls.name).splitlines()[0].rstrip(".")

    @classmethod
    def parameters(cls) -> list[str]:
        """Names of the parameters a user may set."""
        return list(parameters_of(cls))

    def settings(self) -> dict[str, Any]:
        """Every field that is not at its default, internal ones included: ``make(settings())`` gives the format back."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def make(cls, parameters: Mapping[str, Any]) -> Self:
        """The format with these parameters.

        Raises:
            RecipeError: the format has no such parameter, or the value is of the wrong type or out of its range.
        """
        return cls().with_(**parameters)

    def with_(self, **parameters: Any) -> Self:
        """A copy with other parameters.

        Raises:
            RecipeError: as of ``make``.
        """
        known = parameters_of(type(self))
        for key, value in parameters.items():
            if key not in [f.name for f in fields(self)]:
                hint = nearest(key, list(known)) if known else f"; {self.name} is one fixed point without parameters"
                raise RecipeError(f"format {self.name!r} has no parameter {key!r}{hint}")
            if key in known and value is not None and (mistake := known[key].mistake(value)):
                raise RecipeError(f"format {self.name!r}: {mistake}")
        return replace(self, **parameters)


@dataclass(frozen=True)
class ScaledCodes(Format):
    """Base of the formats whose weights are ``(code - zero) * scale``."""

    scale_dtype: ClassVar[type[np.floating[Any]]] = np.float16
    # The format is defined by one scale for the tensor; its plane is that one number.
    one_scale: ClassVar[bool] = False

    @property
    @abstractmethod
    def group(self) -> int | None:
        """Weights per scale along a row; 0: the whole row; None: the whole tensor."""

    @property
    def has_zero_points(self) -> bool:
        """Whether each group stores a zero point; else it is ``2^(bits-1)``."""
        return False

    @property
    def float_zero_points(self) -> bool:
        """Whether the stored zero points are float16 and not codes."""
        return False

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        if not self.group:
            return float(self.bits)
        zero = (16 if self.float_zero_points else self.bits) if self.has_zero_points else 0
        return self.bits + (np.dtype(self.scale_dtype).itemsize * 8 + zero) / self.group

    @property
    def offset(self) -> int:
        """The code that stands for zero where no zero point is stored."""
        return 1 << (self.bits - 1)

    @property
    def bottom(self) -> int:
        """The smallest code that is written."""
        return 0

    @property
    def top(self) -> int:
        """The largest code that is written."""
        return (1 << self.bits) - 1

    @property
    def shifts(self) -> bool:  # noqa: D102
        return self.has_zero_points

    def levels(self) -> tuple[Matrix, Indices]:  # noqa: D102
        codes = np.arange(self.bottom, self.top + 1, dtype=np.uint8)
        return codes.astype(np.float32) - np.float32(0 if self.has_zero_points else self.offset), codes

    def grid(self, encoded: Encoded) -> Grid:  # noqa: D102
        step = encoded.planes["scales"].astype(np.float32)
        zero = encoded.planes.get("zero_points")
        shift = np.zeros_like(step) if zero is None else zero.astype(np.float32) * -step
        return Grid(self.levels()[0], step, shift, self.group or max(encoded.cols, 1), shifts=self.shifts)

    def sides(self, step: Floats, shift: Floats) -> Planes:  # noqa: D102
        scales = narrowed(step, self.scale_dtype, overflow="largest")
        if not self.has_zero_points:
            return {"scales": scales}
        wide = scales.astype(np.float64)
        zero = np.divide(-shift, wide, out=np.full(wide.shape, float(self.offset)), where=wide != 0)
        if self.float_zero_points:
            return {"scales": scales, "zero_points": narrowed(zero, overflow="largest")}
        return {"scales": scales, "zero_points": np.clip(np.rint(zero), 0, self.top).astype(np.uint8)}

    def groups(self, rows: int, cols: int) -> tuple[int, int]:
        """Shape of the scales."""
        if self.group is None:
            return 1, 1
        return rows, (-(-cols // self.group) if self.group else 1)

    def _planes(self, rows: int, cols: int) -> dict[str, Plane]:
        groups = self.groups(rows, cols)
        out = {
            "codes": Plane((rows, cols), np.dtype(np.uint8)),
            "scales": Plane(groups, np.dtype(self.scale_dtype)),
        }
        if self.has_zero_points:
            out["zero_points"] = Plane(groups, np.dtype(np.float16 if self.float_zero_points else np.uint8))
        return out

    def _encode(self, weight: NDArray[Any]) -> Encoded:
        rows, cols = weight.shape
        out = self._allocate(rows, cols)
        shared = self.tensor_statistics(weight) if self.group is None else None
        for first, chunk in chunks(weight):
            part = self.encode_groups(split(chunk, self.group), shared)
            part["codes"] = part["codes"].reshape(len(chunk), -1)[:, :cols]
            for name, plane in out.items():
                if name == "codes" or self.group is not None:
                    plane[first : first + len(chunk)] = part[name].reshape(len(chunk), -1)
                else:
                    plane[...] = part[name].reshape(-1)[:1]
        check_finite(self.name, out)
        return Encoded(self, rows, cols, out, (rows, cols))

    def tensor_statistics(self, weight: NDArray[Any]) -> Matrix | None:
        """What a per-tensor grid must know of all rows before the first can be encoded."""
        return None

    @abstractmethod
    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:
        """Codes and scales of ``groups`` float32 [rows, groups, weights of a group], finite."""

    def _decode(self, encoded: Encoded) -> Matrix:
        codes, scales = encoded.planes["codes"], encoded.planes["scales"]
        rows, cols = codes.shape
        zero = encoded.planes.get("zero_points")
        out = np.empty((rows, cols), np.float32)
        for part in row_ranges(rows, cols, CHUNK_BYTES):
            scale = self._side(scales, part, cols).astype(np.float32)
            offset: Any = np.float32(self.offset) if zero is None else self._side(zero, part, cols)
            np.subtract(codes[part], offset, out=out[part], dtype=np.float32)
            out[part] *= scale
        return out

    def _side(self, side: NDArray[Any], rows: slice, cols: int) -> NDArray[Any]:
        return side if self.group is None else expand(side[rows], self.group, cols)
