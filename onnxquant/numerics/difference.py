"""Differences between arrays, accumulated in float64 over any number of arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.json_data import OPTIONAL
from onnxquant.numerics.decibels import decibels

_CHUNK = 1 << 20


@dataclass(frozen=True)
class ErrorFigures:
    """Figures of the difference between a reference and other values.

    Attributes:
        sqnr_db: signal to quantization noise ratio in decibels; infinite for equal values.
        mse, rmse: mean squared error, and its root.
        max_error: largest magnitude of an error.
        mean_error: mean of the errors.
        cosine: cosine similarity.
        unequal: number of values that differ.
        count: number of values.
        not_finite: number of values that are infinite or NaN where the reference is not; None: none is.
        shape_mismatch: both shapes where they cannot be compared.
        comparison: the way in which values of another number were compared; None: one with one.
    """

    sqnr_db: float
    mse: float
    rmse: float
    max_error: float
    mean_error: float
    cosine: float
    unequal: int
    count: int
    not_finite: int | None = field(default=None, metadata=OPTIONAL)
    shape_mismatch: str | None = field(default=None, metadata=OPTIONAL)
    comparison: str | None = field(default=None, metadata=OPTIONAL)


@dataclass
class Difference:
    """Accumulated difference between reference arrays and the actual ones.

    ``sqnr_db`` is 10 log10(sum reference^2 / sum (actual - reference)^2), infinite for equal arrays.

    Attributes:
        count: number of elements.
        error: sum of squares of actual - reference.
        signed: sum of actual - reference.
        reference: sum of squares of the reference.
        actual: sum of squares of the actual values.
        dot: sum of reference * actual.
        max_error: largest magnitude of actual - reference.
        unequal: number of elements that differ.
        not_finite: number of elements that are finite in the reference alone.
        overflows: whether a reference is infinite or NaN.
        shape_mismatch: both shapes, where they differ; empty: they do not.
        comparison: way in which arrays of other shapes were compared; empty: element by element.

    >>> d = Difference(); d.add(np.array([3.0, 4.0]), np.array([3.0, 4.5])); round(d.sqnr_db, 2)
    20.0
    """

    count: int = 0
    error: float = 0.0
    signed: float = 0.0
    reference: float = 0.0
    actual: float = 0.0
    dot: float = 0.0
    max_error: float = 0.0
    unequal: int = 0
    not_finite: int = 0
    overflows: bool = False
    shape_mismatch: str = ""
    comparison: str = ""

    def add(self, reference: NDArray[Any], actual: NDArray[Any]) -> None:
        """Add one pair of arrays; positions where the reference is infinite or NaN are not compared."""
        reference, actual = np.asarray(reference), np.asarray(actual)
        if reference.shape != actual.shape:
            self.shape_mismatch = f"{list(actual.shape)} instead of {list(reference.shape)}"
            return
        a, b = reference.reshape(-1), actual.reshape(-1)
        self.count += a.size
        if a.dtype.kind not in "fV":
            self.unequal += int((a != b).sum())
            return
        for start in range(0, a.size, _CHUNK):
            self._add(a[start : start + _CHUNK].astype(np.float64), b[start : start + _CHUNK].astype(np.float64))

    def _add(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
        """Add the sums of two flat arrays; pairs that are not finite are counted alone."""
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            self.not_finite += int((~finite & np.isfinite(a)).sum())
            self.overflows |= not np.isfinite(a).all()
            a, b = a[finite], b[finite]
        delta = b - a
        self.unequal += int(np.count_nonzero(delta))
        self.error += float(delta @ delta)
        self.signed += float(delta.sum())
        self.reference += float(a @ a)
        self.actual += float(b @ b)
        self.dot += float(a @ b)
        if delta.size:
            self.max_error = max(self.max_error, float(np.abs(delta).max()))

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return self.error / self.count if self.count else 0.0

    @property
    def blamed(self) -> int:
        """Number of values that are infinite or NaN; none where the reference itself has such values."""
        return 0 if self.overflows else self.not_finite

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in decibels."""
        if self.blamed or self.shape_mismatch:
            return -math.inf
        if self.error == 0.0:
            # Integer outputs have no noise to measure: any unequal element is a failure.
            return math.inf if not self.unequal else -math.inf
        return decibels(self.reference, self.error)

    @property
    def cosine(self) -> float:
        """Cosine similarity; 1 when both are zero."""
        norm = math.sqrt(self.reference * self.actual)
        return self.dot / norm if norm else (1.0 if self.reference == self.actual else 0.0)

    def figures(self) -> ErrorFigures:
        """The figures of everything that was added so far."""
        return ErrorFigures(
            sqnr_db=self.sqnr_db,
            mse=self.mse,
            rmse=math.sqrt(self.mse),
            max_error=self.max_error,
            mean_error=self.signed / self.count if self.count else 0.0,
            cosine=self.cosine,
            unequal=self.unequal,
            count=self.count,
            not_finite=self.blamed or None,
            shape_mismatch=self.shape_mismatch or None,
            comparison=self.comparison or None,
        )


def rescaled_like(original: NDArray[Any], decoded: NDArray[Any], rounds: int = 8) -> NDArray[np.float32]:
    """A matrix times the factors per row and per column that bring it nearest to another.

    Alternating least squares: r_i = sum_j c_j w_ij d_ij / sum_j (c_j w_ij)^2, then the same for c_j. Exact after few rounds
    where rows or columns alone were scaled.
    """
    w, d = original.astype(np.float64), decoded.astype(np.float64)
    rows, cols = np.ones((len(w), 1)), np.ones((1, w.shape[1]))
    for _ in range(rounds):
        for factors, other, axis in ((rows, cols, 1), (cols, rows, 0)):
            scaled = w * other
            power = (scaled * scaled).sum(axis, keepdims=True)
            np.divide((scaled * d).sum(axis, keepdims=True), power, out=factors, where=power > 0)
    return np.asarray(w * rows * cols, np.float32)
