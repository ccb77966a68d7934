"""Arrays of any shape, encoded, decoded and compared: the public ``onnxquant.encode``, ``decode`` and ``snr``."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.arguments import checked
from onnxquant.errors import RecipeError, WeightError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded, Format
from onnxquant.native import dispatch
from onnxquant.numerics.difference import Difference


@checked
def encode(
    array: NDArray[Any], format: str | Format, *, contracted: int | None = None, **parameters: object
) -> Encoded:
    """Encode an array. Its first axis are output channels; all inputs of one, such as those of a kernel, are one row.

    Args:
        array: floats of any shape; a vector is one row.
        format: a format or its name.
        contracted: number of axes at the end that are one row, where the first axis is not the only other one: 1 for a
            stack of matrices.
        parameters: parameters of the format by name: ``block_size``, ``per_channel``, ``symmetric`` ...; and ``permuted``.

    Raises:
        RecipeError: unknown format or parameter.
        WeightError: NaN, infinity, or a value out of the format's range.

    >>> import numpy as np
    >>> w = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    >>> bool(np.abs(decode(encode(w, "q8_0")) - w).max() < 1 / 127)
    True
    """
    chosen = format_named(format, **parameters) if isinstance(format, str) else format.with_(**parameters)
    array = np.asarray(array)
    if array.ndim == 0 or array.dtype.kind not in "fV":
        raise RecipeError(f"encode takes floats of rank >= 1, not {array.dtype} of shape {array.shape}")
    if contracted is not None and not 0 < contracted <= array.ndim:
        raise RecipeError(f"contracted is {contracted}, expected 1 to {array.ndim} axes of the shape {list(array.shape)}")
    first = max(array.ndim - 1, 1) if contracted is None else contracted
    shape = array.shape[: array.ndim - first], array.shape[array.ndim - first :]
    encoded = dispatch.rounded_to_nearest(chosen, array.reshape(*map(prod, shape)))
    return replace(encoded, shape=array.shape)


@checked
def decode(encoded: Encoded) -> NDArray[np.float32]:
    """The float32 array, in its original shape, that an encoded weight stands for."""
    return encoded.in_shape(dispatch.decode(encoded))


@checked
def snr(original: NDArray[Any], other: NDArray[Any]) -> float:
    """Signal to noise ratio of an array against the original in decibels; infinite where they are equal.

    Raises:
        WeightError: the shapes differ.

    >>> round(snr(np.float32([3, 4]), np.float32([3, 4.5])), 2)
    20.0
    """
    difference = Difference()
    difference.add(original, other)
    if difference.shape_mismatch:
        raise WeightError(f"arrays to compare: {difference.shape_mismatch}")
    return difference.sqnr_db
