"""Two quick checks of a decoded weight: does it still give the product, and is every column where it was?

An error per element says how much was lost, not whether rounding lost it: two columns that changed places leave the
weight's sum, its norms and most of its SQNR as they were. With E = decoded - weight, of N rows and K columns:

*sum test*: one product with seeded normal activations x. ``relative_error = |E x| / |W x|``, and
``z = |E x| / (rms(E) sqrt(N) |x|)``, near 1 where errors are independent of each other, above it where they add up.

*gradient test*: products with ramps, r_i = (2 i + 1) / N - 1 over the rows and alike over the columns, one number per column
and per row. ``z = max_j |r . E_j| / (rms(E) |r|)`` is small where errors are roundings: of K normal numbers the largest is
about sqrt(2 ln K). Columns with the largest deviation, and those that are least like their own, are then compared with each
other, on 256 rows at most. Columns are *misplaced* where each decoded one is clearly more like another of them than its own,

    1 - r^2(decoded_j, weight_i) < 0.6 (1 - r^2(decoded_j, weight_j)),

with r the correlation, and those others are such columns again, as a change of places has it. Rounding does that in no
format (two columns would have to hit each other's direction in N dimensions by chance), misplacing does it in all that keep
more than 3 dB, for columns that matter beside their neighbours. Columns that are multiples of each other are alike, and
columns of fewer than 16 rows are not judged; rows are, in the same way. Two columns of a filter bank may be so much alike
that coarse codes make one of both: such columns count only where rounding is far smaller than their difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.matrix import Matrix

# Above this the product holds more error than signal.
LOST = 1.0
_SEED = 0
# Number of columns that are compared with each other, by each of two measures.
_SUSPECTS = 64
# A column of fewer elements can resemble another by chance.
_LEAST = 16
# Number of rows that columns are compared on.
_COMPARED = 256
# Columns that are this much like their own are where they belong.
_OWN = 1e-3
_CLEARLY = 0.6
# Columns whose difference, as 1 - r^2, is less than this are alike; a decoded one has to be nearer than this part of it.
_ALIKE, _FAR_NEARER = 0.1, 1 / 8
# Misplaced rows and columns that are listed.
_LISTED = 8


@dataclass(frozen=True)
class SumTest:
    """Error of one product with seeded normal activations.

    Attributes:
        relative_error: norm of the error over the norm of the product.
        z: norm of the error over what independent errors would give.
    """

    relative_error: float
    z: float


class Misplaced(NamedTuple):
    """A row or column that holds the values of another one.

    Attributes:
        axis: ``row`` or ``column``.
        place: its place.
        owner: place where its values belong.
    """

    axis: str
    place: int
    owner: int


@dataclass(frozen=True)
class GradientTest:
    """Products with ramps over rows and over columns.

    Attributes:
        z: largest deviation of a product over what independent errors would give.
        misplaced: the first rows and columns that hold the values of others.
        misplaced_count: number of all of them.
    """

    z: float
    misplaced: tuple[Misplaced, ...]
    misplaced_count: int


@dataclass(frozen=True)
class WeightChecks:
    """Both checks of a weight."""

    sum_test: SumTest
    gradient_test: GradientTest

    @property
    def complaint(self) -> str | None:
        """The defect that the checks show; None where they show none."""
        if not self.gradient_test.misplaced:
            return None
        axis, place, owner = self.gradient_test.misplaced[0]
        count = self.gradient_test.misplaced_count
        return f"{count} rows or columns are misplaced: {axis} {place} holds what belongs to {axis} {owner}"

    @property
    def doubt(self) -> str | None:
        """A warning about a weight whose columns are in order; None where there is none."""
        lost = self.sum_test.relative_error
        if lost <= LOST:
            return None
        return f"its products hold more error than signal ({lost:.2f}, expected below {LOST:g})"


def check(weight: NDArray[Any], decoded: NDArray[Any]) -> WeightChecks | None:
    """Both checks of a matrix; None where it is empty or has values that are not finite.

    Args:
        weight: the original [rows, cols].
        decoded: the values that its codes stand for, of the same shape.

    >>> w = np.random.default_rng(1).standard_normal((64, 96)).astype(np.float32)
    >>> [tuple(m) for m in check(w, w[:, [1, 0, *range(2, 96)]]).gradient_test.misplaced]
    [('column', 0, 1), ('column', 1, 0)]
    """
    w, d = np.asarray(weight, np.float32), np.asarray(decoded, np.float32)
    if not w.size:
        return None
    x = np.asarray(np.random.default_rng(_SEED).standard_normal(w.shape[1], np.float32))
    down, across = _ramp(len(w)), _ramp(w.shape[1])
    rows, cols = _evenly(len(w)), _evenly(w.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        product = (w @ x).astype(np.float64)
        error = (d @ x).astype(np.float64) - product
        by_column, by_row = np.abs(down @ d - down @ w), np.abs(d @ across - w @ across)
        rms = math.sqrt(float(np.square(d[rows] - w[rows], dtype=np.float64).mean()))
    signal, lost = _norm(product), _norm(error)
    if not all(np.isfinite(value).all() for value in (signal, lost, rms, by_column, by_row)):
        return None
    largest = max(float(by_column.max()) / _norm(down), float(by_row.max()) / _norm(across))
    misplaced = [Misplaced("column", *pair) for pair in _misplaced(w[rows], d[rows], by_column)]
    misplaced += [Misplaced("row", *pair) for pair in _misplaced(w[:, cols].T, d[:, cols].T, by_row)]
    return WeightChecks(
        SumTest(_ratio(lost, signal), _ratio(lost, rms * math.sqrt(len(w)) * _norm(x))),
        GradientTest(_ratio(largest, rms), tuple(misplaced[:_LISTED]), len(misplaced)),
    )


def _misplaced(w: NDArray[Any], d: NDArray[Any], deviation: Matrix) -> list[tuple[int, int]]:
    """Columns that hold the values of another column, each with that other one."""
    if len(w) < _LEAST or w.shape[1] < 2:
        return []
    w, d = (m - m.mean(axis=0) for m in (w.astype(np.float64), d.astype(np.float64)))
    own = _unlike(np.einsum("ij,ij->j", w, d), _squares(w), _squares(d))
    suspects = np.union1d(np.argsort(-own)[:_SUSPECTS], np.argsort(-deviation)[:_SUSPECTS])
    suspects = suspects[own[suspects] > _OWN]
    if suspects.size < 2:
        return []
    w, d = w[:, suspects], d[:, suspects]
    unlike = _unlike(d.T @ w, _squares(w)[None, :], _squares(d)[:, None])
    at = np.arange(suspects.size)
    diagonal = unlike[at, at]
    nearest = unlike.argmin(axis=1)
    moved = (unlike[at, nearest] < _CLEARLY * diagonal) & (diagonal > _OWN)
    difference = _unlike(np.einsum("ij,ij->j", w, w[:, nearest]), _squares(w), _squares(w[:, nearest]))
    moved &= (difference > _ALIKE) | (unlike[at, nearest] < _FAR_NEARER * difference)
    while not np.array_equal(moved, confirmed := moved & moved[nearest]):
        moved = confirmed
    return [(int(suspects[j]), int(suspects[nearest[j]])) for j in np.flatnonzero(moved)]


def _unlike(dot: NDArray[Any], one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """1 - r^2 of centred vectors; 0 where one is zero, which is like anything."""
    norms = one * other
    likeness = np.divide(dot * dot, norms, out=np.ones_like(dot), where=norms > 0)
    return np.asarray(1.0 - np.clip(likeness, 0.0, 1.0))


def _squares(matrix: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.einsum("ij,ij->j", matrix, matrix))


def _ramp(count: int) -> Matrix:
    """Numbers from -1 to 1; 1 for a single one."""
    if count == 1:
        return np.ones(1, np.float32)
    return ((2 * np.arange(count, dtype=np.float32) + 1) / np.float32(count) - 1).astype(np.float32)


def _evenly(count: int) -> slice:
    """At most 256 of ``count`` places, evenly spread."""
    return slice(None, None, -(-count // _COMPARED))


def _norm(vector: NDArray[Any]) -> float:
    return float(np.linalg.norm(vector))


def _ratio(a: float, b: float) -> float:
    """A deviation over its bound. 0 / 0 is 0; anything else over 0 is 1e9, since JSON has no infinity."""
    return float(f"{a / b if b else (1e9 if a else 0.0):.6g}")
