"""Calibration of arrays in memory: the scale and the zero point of one tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.arguments import checked
from onnxquant.observers import QuantizationParameters, ranging_observer


@checked
def calibrate_arrays(
    arrays: NDArray[Any] | Iterable[NDArray[Any]], method: str = "minmax", *, bits: int = 8, symmetric: bool = False,
    signed: bool | None = None, **settings: float,
) -> QuantizationParameters:  # fmt: skip
    """The scale and the zero point of a tensor whose values are in memory.

    Args:
        arrays: the tensor, or its values in several samples, which are read one after the other.
        method: calibration method: minmax, percentile, entropy, mse, mean-std, moving-average.
        bits: bits of a code, 2 to 16.
        symmetric: put the zero point in the middle of the codes.
        signed: codes around zero, not from zero on; None: where they are symmetric.
        settings: settings of the method: ``percentile`` (in percent) of percentile, ``k`` of mean-std.

    Raises:
        StatisticsError: an unknown method or setting, no values, or NaN or infinity among them.

    >>> parameters = calibrate_arrays(np.float32([-1, 3]))
    >>> round(parameters.scale, 5), parameters.zero_point
    (0.01569, 64)
    """
    observer = ranging_observer(method, **settings)
    for array in [arrays] if isinstance(arrays, np.ndarray) else arrays:
        observer.update(array)
    return observer.parameters(bits, symmetric=symmetric, signed=signed)
