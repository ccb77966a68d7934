"""Two quick checks of a decoded weight, beside its error: is the product kept, and is every column where it was?

An error per element says how much was lost, not whether it was lost by rounding: two columns that changed places leave the
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
columns of fewer than 16 rows are not judged; rows are, in the same way.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
# Above this the product holds more error than signal.
LOST = 1.0
_SEED = 0
# Columns that are compared with each other, by each of two measures.
_SUSPECTS = 64
# A column of fewer elements can resemble another by chance.
_LEAST = 16
# Rows that columns are compared on.
_COMPARED = 256
# Columns that are this much like their own are where they belong.
_OWN = 1e-3
_CLEARLY = 0.6


def check(weight: NDArray[Any], decoded: NDArray[Any]) -> dict[str, Any]:
    """Both checks of a matrix: ``sum_test`` (``relative_error``, ``z``) and ``gradient_test`` (``z``, ``misplaced``).

    Args:
        weight: the original [rows, cols].
        decoded: what its codes stand for, of the same shape.

    Returns:
        plain data; ``misplaced`` holds ``["column" or "row", where, what is found there]``, the first eight. Empty where
        the matrix is, or where values are not finite.

    >>> w = np.random.default_rng(1).standard_normal((64, 96)).astype(np.float32)
    >>> check(w, w[:, [1, 0, *range(2, 96)]])["gradient_test"]["misplaced"]
    [['column', 0, 1], ['column', 1, 0]]
    """
    w, d = np.asarray(weight, np.float32), np.asarray(decoded, np.float32)
    if not w.size:
        return {}
    x = np.asarray(np.random.default_rng(_SEED).standard_normal(w.shape[1], np.float32))
    down, across = _ramp(len(w)), _ramp(w.shape[1])
    rows, cols = _some(len(w)), _some(w.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        product = (w @ x).astype(np.float64)
        off = (d @ x).astype(np.float64) - product
        by_column, by_row = np.abs(down @ d - down @ w), np.abs(d @ across - w @ across)
        rms = math.sqrt(float(np.square(d[rows] - w[rows], dtype=np.float64).mean()))
    kept, lost = _norm(product), _norm(off)
    if not (
        math.isfinite(kept)
        and math.isfinite(lost)
        and math.isfinite(rms)
        and np.isfinite(by_column).all()
        and np.isfinite(by_row).all()
    ):
        return {}
    largest = max(float(by_column.max()) / _norm(down), float(by_row.max()) / _norm(across))
    found = [["column", *pair] for pair in _misplaced(w[rows], d[rows], by_column)]
    found += [["row", *pair] for pair in _misplaced(w[:, cols].T, d[:, cols].T, by_row)]
    return {
        "sum_test": {
            "relative_error": _ratio(lost, kept),
            "z": _ratio(lost, rms * math.sqrt(len(w)) * _norm(x)),
        },
        "gradient_test": {"z": _ratio(largest, rms), "misplaced": found[:8], "misplaced_count": len(found)},
    }


def complaint(found: dict[str, Any]) -> str | None:
    """What the checks say against a weight; None where nothing."""
    if not found:
        return None
    if misplaced := found["gradient_test"]["misplaced"]:
        kind, where, what = misplaced[0]
        count = found["gradient_test"]["misplaced_count"]
        return f"{count} rows or columns are misplaced: {kind} {where} holds what belongs to {kind} {what}"
    return None


def doubt(found: dict[str, Any]) -> str | None:
    """What a user should know of a weight that has its columns in order; None where nothing."""
    lost = found["sum_test"]["relative_error"] if found else 0.0
    return f"its products hold more error than signal ({lost:.2f}, expected below {LOST:g})" if lost > LOST else None


def _misplaced(w: NDArray[Any], d: NDArray[Any], deviation: Matrix) -> list[list[int]]:
    """Columns whose decoded values are another's, with that other one."""
    if len(w) < _LEAST or w.shape[1] < 2:
        return []
    there, here = (m.astype(np.float64) for m in (w, d))
    w, d = there - there.mean(axis=0), here - here.mean(axis=0)
    own = _unlike(np.einsum("ij,ij->j", w, d), _squares(w), _squares(d))
    suspects = np.union1d(np.argsort(-own)[:_SUSPECTS], np.argsort(-deviation)[:_SUSPECTS])
    suspects = suspects[own[suspects] > _OWN]
    if suspects.size < 2:
        return []
    there, here = w[:, suspects], d[:, suspects]
    unlike = _unlike(here.T @ there, _squares(there)[None, :], _squares(here)[:, None])
    at = np.arange(suspects.size)
    mine = unlike[at, at]
    nearest = unlike.argmin(axis=1)
    moved = (unlike[at, nearest] < _CLEARLY * mine) & (mine > _OWN)
    while not np.array_equal(moved, kept := moved & moved[nearest]):
        moved = kept
    return [[int(suspects[j]), int(suspects[nearest[j]])] for j in np.flatnonzero(moved)]


def _unlike(dot: NDArray[Any], one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """1 - r^2 of centered vectors; 0 where one is zero, which is like anything."""
    norms = one * other
    likeness = np.divide(dot * dot, norms, out=np.ones_like(dot), where=norms > 0)
    return np.asarray(1.0 - np.clip(likeness, 0.0, 1.0))


def _squares(matrix: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.einsum("ij,ij->j", matrix, matrix))


def _ramp(count: int) -> Matrix:
    """From -1 to 1; 1 for a single element."""
    if count == 1:
        return np.ones(1, np.float32)
    return ((2 * np.arange(count, dtype=np.float32) + 1) / np.float32(count) - 1).astype(np.float32)


def _some(count: int) -> slice:
    """At most 256 of so many, evenly."""
    return slice(None, None, -(-count // _COMPARED))


def _norm(vector: NDArray[Any]) -> float:
    return float(np.linalg.norm(vector))


def _ratio(a: float, b: float) -> float:
    """0 / 0 is no deviation; what cannot be compared is 1e9, since JSON has no infinity."""
    return float(f"{a / b if b else (1e9 if a else 0.0):.6g}")
