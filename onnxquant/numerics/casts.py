"""Floats cast to a narrower type, with a choice for numbers that are too large or too small for it."""

from __future__ import annotations

from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

Overflow = Literal["infinity", "largest"]
Underflow = Literal["zero", "smallest"]


def narrowed(
    values: NDArray[Any], dtype: DTypeLike = np.float16, *, overflow: Overflow, underflow: Underflow = "zero"
) -> NDArray[Any]:
    """Values rounded to nearest even in another float type.

    Args:
        values: floats of any shape.
        dtype: the narrower type.
        overflow: result for numbers beyond the type: infinity, or the largest finite number with their sign.
        underflow: result for numbers that would round to zero: zero, or the smallest number with their sign.

    >>> narrowed(np.array([1e9, -1e-9]), overflow="largest", underflow="smallest").tolist()
    [65504.0, -5.960464477539063e-08]
    """
    limits = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    if overflow == "largest":
        # The lowest number of a type of powers of two is positive.
        values = np.clip(values, float(limits.min), float(limits.max))
    with np.errstate(over="ignore", under="ignore"):
        narrow: NDArray[Any] = values.astype(dtype)
    if underflow == "smallest" and (lost := (narrow == 0) & (values != 0)).any():
        return np.where(lost, np.copysign(limits.smallest_subnormal, values).astype(dtype), narrow)
    return narrow
