"""Statistics of an encoded tensor: its errors, and its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import WeightError
from onnxquant.numerics.difference import Difference


@dataclass(frozen=True)
class TensorStatistics:
    """Errors of decoded values against the original ones, and the size of the encoded tensor.

    Attributes:
        sqnr_db: signal to quantization noise ratio in decibels; infinite for equal values.
        mse, rmse: mean squared error, and its root.
        max_error: largest magnitude of an error.
        mean_error: mean of the errors, the bias.
        mean_absolute_error: mean magnitude of the errors.
        nbytes: bytes of the encoded tensor with codes packed to their width.
        ratio: bytes of the values in float32 over those of the encoded tensor.
    """

    sqnr_db: float
    mse: float
    rmse: float
    max_error: float
    mean_error: float
    mean_absolute_error: float
    nbytes: int
    ratio: float


def statistics_of(array: NDArray[Any], decoded: NDArray[np.float32], nbytes: int) -> TensorStatistics:
    """The statistics of decoded values.

    Args:
        array: the original values.
        decoded: the decoded ones.
        nbytes: bytes of the encoded tensor.

    Raises:
        WeightError: the shapes differ.
    """
    if array.shape != decoded.shape:
        raise WeightError(f"array of shape {list(array.shape)}, expected {list(decoded.shape)}")
    difference = Difference()
    difference.add(array, decoded)
    figures = difference.figures()
    magnitude = float(np.abs(decoded - array.astype(np.float64)).mean()) if array.size else 0.0
    return TensorStatistics(
        figures.sqnr_db, figures.mse, figures.rmse, figures.max_error, figures.mean_error, magnitude, nbytes,
        4 * array.size / nbytes if nbytes else 1.0,
    )  # fmt: skip
