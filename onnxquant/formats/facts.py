"""Facts of a format that tests hold it to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Measured properties of a format with its default parameters.

    Attributes:
        rmse: root mean squared error of normal weights, N(0, 1) in rows of 256. Tests allow 2 % on both sides, so that a
            worse encoder shows, and a better one.
        drift: largest change of a decoded weight when it is encoded again, as a share of the largest magnitude; 0: none.
            Formats that round a float16 scale after they chose codes move by that rounding, those that search for scales
            by more.
        tiny_error: largest error of weights so small that a float16 scale underflows, as a multiple of the largest
            magnitude of their row.
    """

    rmse: float
    drift: float = 0.0
    tiny_error: float = 1.0
