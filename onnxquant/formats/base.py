"""Formats: a matrix of floats as planes, and back.

A weight is seen as ``[rows, cols]``: rows are output channels, cols the contracted channels. ``granularity`` says which
weights share a scale, ``planes`` which arrays are stored. The commonest formats are ``scaled_codes``; the others are in
``table``, ``floats``, ``ggml`` and ``bitsandbytes``.

Any format may store its columns in another order: the plane ``permutation`` then says which original column each stored
one is. All arithmetic is float32, one rounding per operation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.errors import OnnxQuantError, WeightError
from onnxquant.formats import tensor_file
from onnxquant.formats.granularity import Granularity
from onnxquant.formats.grid import is_even
from onnxquant.formats.matrix import (
    CHUNK_BYTES,
    Matrix,
    check_finite,
    check_permutation,
    chunks,
    columns_by_norm,
)
from onnxquant.formats.named import NamedFormat, make_format
from onnxquant.formats.native_job import NativeJob
from onnxquant.formats.parameters import INTERNAL
from onnxquant.formats.planes import Extent, Plane, Planes
from onnxquant.formats.solvable import SolvableFormat
from onnxquant.formats.survey import Survey, Surveyed, survey
from onnxquant.formats.tensor_statistics import TensorStatistics, statistics_of
from onnxquant.numerics.rows import row_ranges


@dataclass(frozen=True)
class Encoded:
    """An encoded weight: its format, its planes, and how to get its original shape back.

    Values are ``(codes - zero_points) * scales`` or ``codes * scales + minima`` or ``table[codes] * scales``, each scale for
    the weights of one row, block or sub-block.

    Attributes:
        format: the format with its parameters.
        rows: output channels N.
        cols: contracted channels K.
        planes: arrays by name, as ``format.planes(rows, cols)`` declares them; ``codes`` is uint8 [N, K], one code per
            byte whatever its width.
        shape: shape of the original array; it may hold fewer values than the matrix, whose last row is then filled up.
    """

    format: Format
    rows: int
    cols: int
    planes: Planes
    shape: tuple[int, ...] = ()

    def nbytes(self) -> int:
        """Bytes of the planes with codes packed to their width, without padding."""
        return self.format.nbytes(self.rows, self.cols)

    def with_order(self, order: NDArray[np.int32]) -> Encoded:
        """The weight with its columns stored in an order: column j is column ``order[j]`` of the original."""
        form = self.format.with_(permuted=True)
        return replace(self, format=form, planes={**self.planes, "permutation": order})

    @property
    def scales(self) -> Matrix | None:
        """Scales as they are used, float32 [rows, groups] or [1, 1]; None: the format has none."""
        return self.format.scales(self)

    @property
    def zero_points(self) -> NDArray[Any] | None:
        """The code of zero in the shape of ``scales``; None: the format has none."""
        return self.format.zero_points(self)

    @property
    def minima(self) -> Matrix | None:
        """Minima that are added to scaled codes, float32 in the shape of ``scales``; None: the format has none."""
        return self.format.minima(self)

    def in_shape(self, values: Matrix) -> Matrix:
        """Values of the matrix in the shape of the original array."""
        shape = self.shape or (self.rows, self.cols)
        return values.reshape(-1)[: prod(shape)].reshape(shape)

    def statistics(self, array: NDArray[Any]) -> TensorStatistics:
        """Errors against a float array of the original shape, and the compression ratio.

        Raises:
            WeightError: the array has another shape.
        """
        decoded = self.in_shape(self.format.decode(self))
        return statistics_of(np.asarray(array), decoded, self.nbytes())

    def save(self, path: str | Path) -> None:
        """Write the weight to one file, whole or not at all: safetensors, with codes packed and a checksum.

        Raises:
            OutputError: it cannot be written.
        """
        header = tensor_file.TensorHeader(
            self.format.name, self.format.settings(), (self.rows, self.cols), self.shape or (self.rows, self.cols)
        )
        tensor_file.write(Path(path), header, self.format.planes(self.rows, self.cols), self.planes)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The weight in a file that ``save`` wrote.

        Raises:
            WeightError: missing, damaged, something else, or of a format that is not here.
        """
        header, raw = tensor_file.read_header(Path(path))
        (rows, cols), shape = header.matrix, header.shape
        try:
            form = make_format(Format, header.format, header.parameters)  # type: ignore[type-abstract]
        except OnnxQuantError as error:
            raise WeightError(f"{path}: {error}") from None
        if not rows * cols - max(cols, 1) < prod(shape) <= rows * cols:
            raise WeightError(f"{path}: a matrix of [{rows}, {cols}] holds no array of {list(shape)}")
        planes = tensor_file.read_planes(Path(path), raw, header, form.planes(rows, cols))
        return cls(form, rows, cols, planes, shape)


@dataclass(frozen=True)
class Prepared:
    """A format made ready for one weight.

    Attributes:
        format: the format, with the fields that encoding sets.
        shared: float32 numbers that every row is encoded with; None: rows share nothing.
        planes: planes that are known before the first row is encoded.
    """

    format: Format
    shared: Matrix | None = None
    planes: Planes = field(default_factory=dict)


@dataclass(frozen=True)
class Format(SolvableFormat["Encoded"], NamedFormat, ABC):
    """A way to store a weight. Subclasses are frozen dataclasses whose fields are the format's parameters.

    Attributes:
        permuted: columns are stored in the order of the plane ``permutation``.
    """

    # The paper or project that defines the format.
    source: ClassVar[str] = "this package"
    # Its bytes are defined by another project; planes convert to and from them without loss (``to_blocks``). They are one
    # array, or, in bitsandbytes' formats, an array of codes and others beside it.
    foreign: ClassVar[bool] = False
    # Bytes of the other project exist for multiples of so many columns.
    foreign_cols: ClassVar[int] = 1

    # Its values are the weights themselves: there is nothing to encode in a model.
    changes_nothing: ClassVar[bool] = False

    permuted: bool = field(default=False, kw_only=True, metadata=INTERNAL)

    # ---- what a subclass states ----

    @property
    def granularity(self) -> Granularity | None:
        """The weights that share a scale; None: there are no scales."""
        return None

    @property
    @abstractmethod
    def bits_per_weight(self) -> float:
        """Bits per weight on a large weight, side information included."""

    @abstractmethod
    def declared_planes(self, rows: int, cols: int) -> list[Plane]:
        """The planes of a ``[rows, cols]`` weight but for the permutation."""

    @abstractmethod
    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:
        """Planes of some rows.

        Args:
            chunk: the rows, contiguous and finite.
            first: number of their first row in the weight.
            prepared: this format, ready for the weight.
        """

    @abstractmethod
    def decode_rows(self, planes: Planes, cols: int) -> Matrix:
        """The values of some rows, from their planes and those of the tensor."""

    @property
    def surveyed(self) -> Surveyed:
        """Numbers of the whole weight that ``prepare`` needs."""
        return Surveyed.NOTHING

    def prepare(self, survey: Survey | None) -> Prepared:
        """This format, ready for a weight.

        Args:
            survey: the numbers that ``surveyed`` asks for; None: it asks for nothing.
        """
        return Prepared(self)

    @property
    def inner(self) -> Format:
        """The format that codes are chosen in; another one than this where its scales are encoded once more."""
        return self

    def nest(self, planes: Planes) -> Planes:
        """Planes of this format from those of ``inner``."""
        return planes

    def unnest(self, planes: Planes) -> Planes:
        """Planes of ``inner`` from those of this format."""
        return planes

    @property
    def is_compiled(self) -> bool:
        """Whether codes with these settings are those that the compiled library means by the format's name."""
        return True

    @property
    def native_job(self) -> NativeJob:
        """Parameters of the compiled encoder, if the library has one of this name."""
        return NativeJob()

    def scales(self, encoded: Encoded) -> Matrix | None:
        """Scales as they are used, float32 [rows, groups] or [1, 1]; None: there are none."""
        return None if self.why_not_solvable else self.grid(encoded).step

    def zero_points(self, encoded: Encoded) -> NDArray[Any] | None:
        """The code of zero in the shape of the scales; None: there is none."""
        if self.why_not_solvable or self.shifts or not is_even(self.levels()[0]):
            return None
        levels, codes = self.levels()
        return np.full(self.grid(encoded).step.shape, codes[0] - levels[0], np.uint8)

    def minima(self, encoded: Encoded) -> Matrix | None:
        """Minima that are added to scaled codes, float32 in the shape of the scales; None: there are none."""
        return self.grid(encoded).shift if self.shifts else None

    def unfit(self, rows: int, cols: int) -> str | None:
        """The reason why weights of this shape cannot be stored; None when they can."""
        return None

    def check_range(self, weight: NDArray[Any], planes: Planes) -> None:
        """Refuse planes that do not decode to finite values.

        Raises:
            RangeError: a group's values are beyond what the plane's type can express.
        """
        check_finite(self.name, planes)

    def for_decoding_at_load(self) -> Self:
        """The format for a weight that is decoded at load, with parameters that are still open settled for that."""
        return self

    def warning(self, sqnr_db: float) -> str | None:
        """A warning for the user when this error shows that the format does not suit the weight."""
        return None

    # ---- encoding and decoding ----

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
        encoded = self._encode(weight) if weight.size else self.empty(rows, cols)
        return encoded if order is None else encoded.with_order(order)

    def _encode(self, weight: NDArray[Any]) -> Encoded:
        """The planes of a weight that is not empty and in its stored order."""
        rows, cols = weight.shape
        prepared = self.prepare(survey(weight, self.surveyed) if self.surveyed is not Surveyed.NOTHING else None)
        form = prepared.format
        planes = form.inner.allocate(rows, cols) | prepared.planes
        divided = form.inner.planes_by_row(rows, cols)
        for first, chunk in chunks(weight):
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                encoded = form.inner.encode_rows(chunk, first, prepared)
            for name, plane in encoded.items():
                place = slice(first, first + len(chunk)) if name in divided else slice(None)
                planes[name][place] = plane
        check_finite(self.name, planes)
        return Encoded(form, rows, cols, form.nest(planes), (rows, cols))

    def decode(self, encoded: Encoded) -> Matrix:
        """The float32 matrix ``[rows, cols]`` that the planes stand for, columns in their original order."""
        rows, cols = encoded.rows, encoded.cols
        values = np.zeros((rows, cols), np.float32)
        if not values.size:
            return values
        planes = self.unnest(encoded.planes)
        divided = self.inner.planes_by_row(rows, cols)
        for part in row_ranges(rows, cols, CHUNK_BYTES):
            own = {name: plane[part] if name in divided else plane for name, plane in planes.items()}
            values[part] = self.inner.decode_rows(own, cols)
        order = encoded.planes.get("permutation")
        if order is None:
            return values
        out = np.empty_like(values)
        out[:, check_permutation(order, cols)] = values
        return out

    # ---- shapes and sizes ----

    def check_shape(self, rows: int, cols: int) -> None:
        """Refuse shapes that the format cannot hold.

        Raises:
            WeightError: the reason, and the shape that was expected.
        """
        if reason := self.unfit(rows, cols):
            raise WeightError(f"format {self.name}: {reason}")

    def planes(self, rows: int, cols: int) -> dict[str, Plane]:
        """The planes of a ``[rows, cols]`` weight by name."""
        planes = self.declared_planes(rows, cols)
        if self.permuted:
            planes = [*planes, Plane.of("permutation", (cols,), np.int32)]
        return {plane.name: plane for plane in planes}

    def planes_by_row(self, rows: int, cols: int) -> set[str]:
        """Names of the planes that hold something of their own for each row."""
        planes = self.declared_planes(rows, cols)
        return {p.name for p in planes if p.extent is not Extent.TENSOR and p.shape[0] == rows}

    def allocate(self, rows: int, cols: int) -> Planes:
        """Planes of zeros, without the permutation."""
        return {plane.name: np.zeros(plane.shape, plane.dtype) for plane in self.declared_planes(rows, cols)}

    def empty(self, rows: int, cols: int) -> Encoded:
        """A weight without elements, encoded."""
        return Encoded(self, rows, cols, self.allocate(rows, cols), (rows, cols))

    def nbytes(self, rows: int, cols: int) -> int:
        """Bytes of a ``[rows, cols]`` weight with codes packed to their width, without padding."""
        return sum(plane.packed_nbytes for plane in self.planes(rows, cols).values())
