"""llm_int8: 8-bit rows with the columns of outliers kept in float16 (Dettmers et al. 2022, LLM.int8()).

Weights are rounded to float16 first, as bitsandbytes does. A column is an outlier when its largest magnitude is at least
``threshold``. With ``quantile`` the ceil((1 - quantile) * K) columns of largest magnitude are outliers, the left ones first
among equals. Over the other columns SCB = the row's largest magnitude in float32, code = 128 + round-half-even(w * (127 /
SCB)), value = (code - 128) * scale with scale = SCB / 127. Outlier columns have the code 128 and are decoded from the plane
``outliers``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RangeError, RecipeError, WeightError
from onnxquant.formats.base import Encoded, Format, Prepared
from onnxquant.formats.facts import Facts
from onnxquant.formats.granularity import PerRow
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.parameters import INTERNAL, parameter
from onnxquant.formats.planes import Plane, Planes
from onnxquant.formats.survey import Survey, Surveyed
from onnxquant.numerics.casts import narrowed

_TOP, _OFFSET = np.float32(127), np.float32(128)


@dataclass(frozen=True)
class LlmInt8(Format):
    """8-bit integers per row; columns that hold outliers stay in float16.

    Attributes:
        threshold: a column with a weight of at least this magnitude is kept in float16.
        quantile: keep the largest 1 - quantile of all columns instead, at least one.
        outliers: number of columns that stay in float16; set by encoding.
    """

    name = "llm_int8"
    bits = 8
    facts = Facts(rmse=0.00701, drift=0.001)
    source = "bitsandbytes: LLM.int8() (Dettmers et al. 2022)"
    foreign = True
    granularity = PerRow()
    surveyed = Surveyed.COLUMNS

    threshold: float = parameter(
        6.0, "Columns with a weight of at least this magnitude stay in float16.", samples=(2.5,), metavar="X"
    )
    quantile: float | None = parameter(
        None, "Instead the largest 1 - Q of all columns stay in float16, at least one.", samples=(0.95,), metavar="Q"
    )
    outliers: int | None = field(default=None, kw_only=True, metadata=INTERNAL)

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not self.threshold > 0:
            raise RecipeError(f"threshold {self.threshold}: expected a magnitude above 0")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise RecipeError(f"quantile {self.quantile}: expected a number between 0 and 1, such as 0.99")

    why_not_solvable = "its columns of outliers are float16, and no codes"

    @property
    def bits_per_weight(self) -> float:
        """Without outliers; each column of them takes another 16 bits for each of its weights."""
        return 8.0

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:  # noqa: D102
        count = self.outliers or 0
        return [
            Plane.of("codes", (rows, cols), np.uint8),
            Plane.of("scales", (rows, 1), np.float32),
            Plane.of("outlier_columns", (count,), np.int32),
            Plane.of("outliers", (rows, count), np.float16),
        ]

    def prepare(self, survey: Survey | None) -> Prepared:
        """The columns of outliers follow from the largest magnitude of each column."""
        if survey is None:
            raise TypeError("llm_int8 needs a survey of the columns")
        columns = self.outliers_of(narrowed(survey.column_peaks, overflow="infinity"))
        return Prepared(self.with_(outliers=len(columns)), planes={"outlier_columns": columns.astype(np.int32)})

    def encode_rows(self, chunk: Matrix, first: int, prepared: Prepared) -> Planes:  # noqa: D102
        columns = prepared.planes["outlier_columns"]
        halves = chunk.astype(np.float16)
        outliers = halves[:, columns]
        halves[:, columns] = 0
        values = halves.astype(np.float32)
        scb = np.abs(values).max(axis=1, keepdims=True)
        factor = _TOP / np.where(scb > 0, scb, np.inf).astype(np.float32)
        codes = (np.rint(values * factor) + _OFFSET).astype(np.uint8)
        return {"codes": codes, "scales": scb / _TOP, "outliers": outliers}

    def outliers_of(self, largest: NDArray[np.float16]) -> NDArray[np.intp]:
        """Columns that stay in float16, ascending.

        Args:
            largest: largest magnitude of each column.

        Raises:
            RangeError: a magnitude is beyond float16.
        """
        if np.isinf(largest).any():
            raise RangeError(f"format {self.name}: column {int(largest.argmax())} is beyond float16 (6.55e+04)")
        if self.quantile is None:
            return np.flatnonzero(largest.astype(np.float64) >= self.threshold)
        # 1 - quantile is not exact in binary: what exceeds a whole number by rounding only must not count.
        count = max(1, math.ceil((1 - self.quantile) * largest.size - 1e-9))
        order = np.argsort(-largest.astype(np.float32), kind="stable")
        return np.sort(order[:count])

    def decode_rows(self, planes: Planes, cols: int) -> Matrix:  # noqa: D102
        values = planes["codes"].astype(np.float32)
        values -= _OFFSET
        values *= planes["scales"]
        values[:, planes["outlier_columns"]] = planes["outliers"]
        return values

    def scales(self, encoded: Encoded) -> Matrix:
        """Scales of the columns that are codes, float32 [rows, 1]."""
        return encoded.planes["scales"]

    def zero_points(self, encoded: Encoded) -> NDArray[np.uint8]:  # noqa: D102
        return np.full((encoded.rows, 1), _OFFSET, np.uint8)

    def absmax(self, encoded: Encoded) -> Matrix:
        """Largest magnitude of each row, as bitsandbytes keeps it: a float16 value, so rounding to it is exact."""
        return (encoded.planes["scales"][:, 0] * _TOP).astype(np.float16).astype(np.float32)

    def to_blocks(self, encoded: Encoded) -> NDArray[np.int8]:
        """The int8 matrix of bitsandbytes, zeros in the columns kept in float16."""
        return (encoded.planes["codes"] ^ np.uint8(0x80)).view(np.int8)

    def from_blocks(self, blocks: NDArray[Any], rows: int, cols: int, absmax: NDArray[Any]) -> Encoded:
        """The weight of bitsandbytes' int8 matrix and its SCB.

        Raises:
            WeightError: wrong sizes.
        """
        raw = np.ascontiguousarray(blocks).reshape(-1).view(np.uint8)
        scb = np.asarray(absmax, np.float32).reshape(-1)
        if raw.size != rows * cols or scb.size != rows:
            raise WeightError(
                f"format {self.name}: {raw.size} bytes and {scb.size} scales, expected {rows * cols} and {rows} "
                f"for shape [{rows}, {cols}]"
            )
        form = self.with_(permuted=False, outliers=0)
        planes = form.allocate(rows, cols)
        planes["codes"] = (raw ^ np.uint8(0x80)).reshape(rows, cols)
        planes["scales"] = scb[:, None] / _TOP
        return Encoded(form, rows, cols, planes, (rows, cols))
