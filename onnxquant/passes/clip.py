"""Outlier clipping: scales of a symmetric grid that lose less than those that reach the largest weight.

The error of a row w on the grid ``s * {-(2^(b-1)-1) .. 2^(b-1)-1}`` is ``sum (w - s round(w / s))^2``, codes limited to
the grid. Smaller scales round the many finer and clip the few (Banner et al. 2018, arXiv 1810.05723). As a function of
s it has many local minima, so it is looked at on a ladder first and searched by golden section around the best rung.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError

Doubles = NDArray[np.float64]
_LOWEST = 0.2
_RUNGS = 41
_STEPS = 12
_GOLDEN = (5**0.5 - 1) / 2
_CHUNK = 1 << 22  # weights looked at together


def squared_errors(weight: Doubles, scales: Doubles, bits: int) -> Doubles:
    """Sum of squared errors of each row on its grid."""
    top = 2 ** (bits - 1) - 1
    column = scales[:, None]
    codes = np.clip(np.rint(weight / column), -top, top)
    return np.asarray(((weight - codes * column) ** 2).sum(axis=1))


def best_scales(weight: NDArray[np.floating], bits: int) -> Doubles:
    """The scale of each row with the least squared error that the search finds; never worse than max|w| / top.

    Args:
        weight: [rows, cols], one output channel a row.
        bits: width of the codes, 2 to 16.

    Returns:
        one positive scale per row; 1 for a row of zeros.

    Raises:
        RecipeError: the width is out of range.

    >>> best_scales(np.array([[1.0, -1.0, 0.5, 100.0]]), 8).round(4)
    array([0.7874])
    """
    if not 2 <= bits <= 16:
        raise RecipeError(f"{bits} bits: expected 2 to 16")
    rows = max(1, _CHUNK // max(weight.shape[1], 1))
    parts = [_search(weight[i : i + rows].astype(np.float64), bits) for i in range(0, len(weight), rows)]
    return np.concatenate(parts) if parts else np.empty(0)


def _search(weight: Doubles, bits: int) -> Doubles:
    largest = np.abs(weight).max(axis=1, initial=0) / (2 ** (bits - 1) - 1)
    full = np.where(largest > 0, largest, 1.0)
    best, error = full.copy(), squared_errors(weight, full, bits)
    for share in np.linspace(1, _LOWEST, _RUNGS)[1:]:
        best, error = _better(weight, best, error, full * share, bits)
    step = full * (1 - _LOWEST) / (_RUNGS - 1)
    low, high = best - step, np.minimum(best + step, full)
    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        below, above = squared_errors(weight, left, bits), squared_errors(weight, right, bits)
        nearer, smaller = np.where(below < above, left, right), np.minimum(below, above)
        best, error = np.where(smaller < error, nearer, best), np.minimum(smaller, error)
        low, high = np.where(below < above, low, left), np.where(below < above, right, high)
    return best


def _better(weight: Doubles, best: Doubles, error: Doubles, candidate: Doubles, bits: int) -> tuple[Doubles, Doubles]:
    found = squared_errors(weight, candidate, bits)
    return np.where(found < error, candidate, best), np.minimum(found, error)
