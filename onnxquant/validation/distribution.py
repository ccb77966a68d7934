"""A weight's values before and after, and which codes are used: a few hundred numbers per weight, for a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded

BINS = 48
# Of a larger weight every n-th value is looked at.
_ELEMENTS = 1 << 20
_CODES = 256


def distribution(weight: NDArray[Any], decoded: NDArray[Any], encoded: Encoded) -> dict[str, Any]:
    """Histograms of a weight's values and of the decoded ones over the same bins, and how often each code is used.

    Args:
        weight: the original, any shape.
        decoded: what its codes stand for.
        encoded: the codes.

    Returns:
        ``low`` and ``high``, ``float`` and ``decoded``: counts of equal bins between them; ``codes``: counts by code, empty
        where codes are floats; ``every``: 1, or n where every n-th value was looked at. Empty where nothing is finite.
    """
    every = -(-weight.size // _ELEMENTS)
    before, after = (a.reshape(-1)[::every].astype(np.float64) for a in (weight, decoded))
    finite = np.isfinite(before) & np.isfinite(after)
    if not finite.any():
        return {}
    before, after = before[finite], after[finite]
    low, high = float(min(before.min(), after.min())), float(max(before.max(), after.max()))
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    codes = encoded.planes.get("codes")
    counts: list[int] = []
    if codes is not None and codes.dtype == np.uint8:
        width = min(_CODES, 1 << encoded.format.bits)
        counts = np.bincount(codes.reshape(-1)[::every], minlength=width).tolist()
    return {
        "low": low,
        "high": high,
        "float": _counts(before, low, high),
        "decoded": _counts(after, low, high),
        "codes": counts,
        "every": every,
    }


def _counts(values: NDArray[np.float64], low: float, high: float) -> list[int]:
    return [int(c) for c in np.histogram(values, BINS, (low, high))[0]]
