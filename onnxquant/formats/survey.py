"""Surveys: numbers of a whole weight that must be known before its first row can be encoded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.matrix import Matrix, chunks


class Surveyed(Enum):
    """The numbers that a format asks for."""

    NOTHING = "nothing"
    TENSOR = "tensor"
    COLUMNS = "columns"


@dataclass(frozen=True)
class Survey:
    """Numbers of a whole weight.

    Attributes:
        count: number of weights.
        total: sum of magnitudes, added in float64.
        low: lowest value.
        high: highest value.
        smallest: smallest magnitude besides zero; infinite if there is none.
        column_peaks: largest magnitude of each column; empty unless columns were asked for.
    """

    count: int
    total: float
    low: float
    high: float
    smallest: float
    column_peaks: Matrix

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def is_ternary(self) -> bool:
        """Whether the weights have at most one magnitude besides zero."""
        return self.smallest in (np.inf, self.largest)


def survey(weight: NDArray[Any], surveyed: Surveyed) -> Survey:
    """The survey of a matrix that is not empty.

    Raises:
        WeightError: a value is NaN or infinite.
    """
    total, low, high, smallest = 0.0, np.inf, -np.inf, np.inf
    peaks = np.zeros(weight.shape[1] if surveyed is Surveyed.COLUMNS else 0, np.float32)
    for _, chunk in chunks(weight):
        magnitudes = np.abs(chunk)
        total += float(magnitudes.sum(dtype=np.float64))
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
        smallest = min(smallest, float(magnitudes.min(where=magnitudes > 0, initial=np.inf)))
        if surveyed is Surveyed.COLUMNS:
            np.maximum(peaks, magnitudes.max(axis=0), out=peaks)
    return Survey(weight.size, total, low, high, smallest, peaks)
