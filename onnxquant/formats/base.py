"""What a format is: how a matrix of floats becomes planes, and back.

A weight is seen as ``[rows, cols]``: rows are output channels, cols the contracted channels. All formats here but
float16 share one data model, after MatMulNBits: unsigned codes with an offset,

    value[r, c] = (codes[r, c] - zero[r, g]) * scale[r, g]

where ``g`` is the group that ``(r, c)`` belongs to. The granularity is the shape of the scale: ``[1, 1]`` one for the
tensor, ``[rows, 1]`` one per channel, ``[rows, ceil(cols / block)]`` one per block along the contracted axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RangeError, RecipeError, WeightError, nearest

Matrix = NDArray[np.float32]
Planes = dict[str, NDArray[Any]]

# Rows are encoded this many bytes of float32 at a time: temporaries stay in cache and never grow with the weight.
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Plane:
    """Shape and type of one stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes the array takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Encoded:
    """An encoded weight: its format, its planes, and how to get its original shape back.

    Attributes:
        format: the format with its parameters.
        rows: output channels N.
        cols: contracted channels K.
        planes: ``codes`` uint8 [N, K] (one code per byte), ``scales`` and where the format has it ``zero_points``
            uint8, each [N or 1, groups or 1]; float16 has the one plane ``values`` [N, K].
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
class Format(ABC):
    """A way to store a weight. Subclasses are frozen dataclasses whose fields are the format's parameters."""

    name: ClassVar[str]
    bits: ClassVar[int]
    # Its bytes are defined by another project; planes convert to and from them without loss (``to_blocks``).
    foreign: ClassVar[bool] = False

    @property
    @abstractmethod
    def bits_per_weight(self) -> float:
        """Bits per weight on a large weight, side information included."""

    @abstractmethod
    def planes(self, rows: int, cols: int) -> dict[str, Plane]:
        """Shape and type of each plane of a ``[rows, cols]`` weight."""

    @abstractmethod
    def encode(self, weight: NDArray[Any]) -> Encoded:
        """Planes of a float matrix ``[rows, cols]`` by rounding to nearest.

        Raises:
            WeightError: a value is NaN or infinite, or a scale does not fit its type.
        """

    @abstractmethod
    def decode(self, encoded: Encoded) -> Matrix:
        """The float32 matrix ``[rows, cols]`` that the planes stand for."""

    def nbytes(self, rows: int, cols: int) -> int:
        """Bytes of a ``[rows, cols]`` weight with codes packed to their width, without padding."""
        return sum(
            (p.nbytes * self.bits + 7) // 8 if name in ("codes", "zero_points") else p.nbytes
            for name, p in self.planes(rows, cols).items()
        )

    def folded(self) -> Self:
        """The format for a weight that is decoded at load, with parameters that are still open settled for that."""
        return self

    def warning(self, sqnr_db: float) -> str | None:
        """What to tell the user when this error shows that the format does not suit the weight."""
        return None

    @classmethod
    def parameters(cls) -> list[str]:
        """Names of the parameters a user may set."""
        return [f.name for f in fields(cls)]

    @classmethod
    def make(cls, parameters: Mapping[str, Any]) -> Self:
        """The format with these parameters.

        Raises:
            RecipeError: the format has no such parameter, or the value is out of its range.
        """
        for key in parameters:
            if key not in cls.parameters():
                known = cls.parameters()
                hint = nearest(key, known) if known else f"; {cls.name} is one fixed point without parameters"
                raise RecipeError(f"format {cls.name!r} has no parameter {key!r}{hint}")
        return cls(**parameters)

    def with_(self, **parameters: Any) -> Self:
        """A copy with other parameters."""
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
    def bits_per_weight(self) -> float:  # noqa: D102
        if not self.group:
            return float(self.bits)
        side = np.dtype(self.scale_dtype).itemsize * 8 + (self.bits if self.has_zero_points else 0)
        return self.bits + side / self.group

    @property
    def offset(self) -> int:
        """The code that stands for zero where no zero point is stored."""
        return 1 << (self.bits - 1)

    def groups(self, rows: int, cols: int) -> tuple[int, int]:
        """Shape of the scales."""
        if self.group is None:
            return 1, 1
        return rows, (-(-cols // self.group) if self.group else 1)

    def planes(self, rows: int, cols: int) -> dict[str, Plane]:  # noqa: D102
        groups = self.groups(rows, cols)
        out = {
            "codes": Plane((rows, cols), np.dtype(np.uint8)),
            "scales": Plane(groups, np.dtype(self.scale_dtype)),
        }
        if self.has_zero_points:
            out["zero_points"] = Plane(groups, np.dtype(np.uint8))
        return out

    def encode(self, weight: NDArray[Any]) -> Encoded:  # noqa: D102
        rows, cols = weight.shape
        out = {name: np.empty(plane.shape, plane.dtype) for name, plane in self.planes(rows, cols).items()}
        shared = self.tensor_statistics(weight) if self.group is None else None
        for first, chunk in chunks(weight):
            part = self._encode_chunk(chunk, shared)
            for name, plane in out.items():
                if plane.shape[0] == rows and not (name != "codes" and self.group is None):
                    plane[first : first + len(chunk)] = part[name].reshape(len(chunk), -1)[:, : plane.shape[1]]
                else:
                    plane[...] = part[name].reshape(-1)[:1]
        encoded = Encoded(self, rows, cols, out, (rows, cols))
        _check_scales(self.name, out["scales"])
        return encoded

    def _encode_chunk(self, chunk: Matrix, shared: Matrix | None) -> Planes:
        """Planes of some rows: a short last block is padded with a value it already holds."""
        rows, cols = chunk.shape
        group = self.group or cols
        padded = -cols % group
        if padded:
            chunk = np.concatenate([chunk, np.repeat(chunk[:, -1:], padded, axis=1)], axis=1)
        part = self.encode_groups(chunk.reshape(rows, -1, group), shared)
        part["codes"] = part["codes"].reshape(rows, -1)
        return part

    def tensor_statistics(self, weight: NDArray[Any]) -> Matrix | None:
        """What a per-tensor grid must know of all rows before the first can be encoded."""
        return None

    @abstractmethod
    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:
        """Codes and scales of ``groups`` float32 [rows, groups, weights of a group], finite."""

    def decode(self, encoded: Encoded) -> Matrix:  # noqa: D102
        codes, scales = encoded.planes["codes"], encoded.planes["scales"]
        rows, cols = codes.shape
        zero = encoded.planes.get("zero_points")
        out = np.empty((rows, cols), np.float32)
        step = max(1, _CHUNK_BYTES // (4 * max(cols, 1)))
        for first in range(0, rows, step):
            part = slice(first, min(first + step, rows))
            scale = _expand(scales, part, self.group, cols).astype(np.float32)
            offset: Any = np.float32(self.offset) if zero is None else _expand(zero, part, self.group, cols)
            np.subtract(codes[part], offset, out=out[part], dtype=np.float32)
            out[part] *= scale
        return out


def chunks(weight: NDArray[Any]) -> Iterator[tuple[int, Matrix]]:
    """Rows of a weight as contiguous float32, a few megabytes at a time, checked to be finite.

    Raises:
        WeightError: NaN or infinity, with its position.
    """
    rows, cols = weight.shape
    step = max(1, _CHUNK_BYTES // (4 * max(cols, 1)))
    for first in range(0, rows, step):
        with np.errstate(over="ignore", invalid="ignore"):
            chunk = np.ascontiguousarray(weight[first : first + step], dtype=np.float32)
            total = chunk.sum(dtype=np.float64)
        # One reduction finds both NaN and infinity; the search for the culprit runs only when it is needed.
        if not np.isfinite(total) and not np.isfinite(chunk).all():
            row, col = (int(i) for i in np.argwhere(~np.isfinite(chunk))[0])
            raise WeightError(f"holds {chunk[row, col]} at row {first + row}, column {col}; expected finite values")
        yield first, chunk


def _expand(side: NDArray[Any], rows: slice, group: int | None, cols: int) -> NDArray[Any]:
    if group is None:
        return side
    side = side[rows]
    return np.repeat(side, group, axis=1)[:, :cols] if group else side


def _check_scales(name: str, scales: NDArray[Any]) -> None:
    if not np.isfinite(scales).all():
        where = [int(i) for i in np.argwhere(~np.isfinite(scales))[0]]
        raise RangeError(
            f"format {name}: the scale of group {where} is beyond {scales.dtype} ({np.finfo(scales.dtype).max:.4g})"
        )
