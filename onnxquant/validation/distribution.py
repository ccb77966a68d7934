"""Histograms of a weight before and after encoding, and the usage of its codes: a few hundred numbers, for a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded
from onnxquant.json_data import JsonKey

BINS = 48
# Elements of a weight that are counted; of a larger weight every n-th is.
_ELEMENTS = 1 << 20
_CODES = 256


@dataclass(frozen=True)
class Distribution:
    """Histograms of a weight.

    Attributes:
        low, high: ends of the first and of the last bin; all bins are equally wide.
        original, decoded: number of values in each bin, before and after encoding.
        codes: number of uses by code; empty where codes are floats.
        every: 1, or n where every n-th value was counted.
    """

    low: float
    high: float
    original: list[int] = field(metadata=JsonKey("float").metadata)
    decoded: list[int]
    codes: list[int]
    every: int


def distribution(weight: NDArray[Any], decoded: NDArray[Any], encoded: Encoded) -> Distribution | None:
    """Histograms of a weight; None where no value is finite.

    Args:
        weight: the original, of any shape.
        decoded: the values that its codes stand for.
        encoded: the codes.
    """
    every = -(-weight.size // _ELEMENTS)
    before, after = (a.reshape(-1)[::every].astype(np.float64) for a in (weight, decoded))
    finite = np.isfinite(before) & np.isfinite(after)
    if not finite.any():
        return None
    before, after = before[finite], after[finite]
    low, high = float(min(before.min(), after.min())), float(max(before.max(), after.max()))
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    codes = encoded.planes.get("codes")
    counts: list[int] = []
    if codes is not None and codes.dtype == np.uint8:
        width = min(_CODES, 1 << encoded.format.bits)
        counts = np.bincount(codes.reshape(-1)[::every], minlength=width).tolist()
    return Distribution(low, high, _counts(before, low, high), _counts(after, low, high), counts, every)


def _counts(values: NDArray[np.float64], low: float, high: float) -> list[int]:
    return [int(c) for c in np.histogram(values, BINS, (low, high))[0]]
