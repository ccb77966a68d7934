"""The choice between the compiled library and numpy: encode, decode and measure give the same bytes either way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.matrix import Stack
from onnxquant.native import encoders
from onnxquant.numerics.difference import Difference


def encode(
    form: Format, weight: NDArray[Any] | Stack, permutation: ArrayLike | None = None, solved: Encoded | None = None
) -> tuple[Encoded, Difference]:
    """An encoded weight and its error, both in one pass of the compiled library where it knows the format.

    Args:
        form: the format.
        weight: matrix [rows, cols], or a stack; any float type, any strides.
        permutation: the original column of each stored one; None: see ``Format.encode``.
        solved: the weight with codes that a solver chose; taken if it has this format.

    Raises:
        WeightError: a value is NaN or infinite, a scale does not fit its type, or the permutation is not one.
    """
    is_solved = solved is not None and solved.format == form
    if not is_solved and encoders.supports(form):
        return encoders.encode(form, weight, permutation)
    weight = weight.whole() if isinstance(weight, Stack) else weight
    encoded = solved if solved is not None and is_solved else form.encode(weight, permutation)
    return encoded, measure(encoded, weight)


def rounded_to_nearest(form: Format, weight: NDArray[Any], permutation: ArrayLike | None = None) -> Encoded:
    """An encoded weight without its error, which numpy would have to decode the weight for.

    Raises:
        WeightError: see ``encode``.
    """
    if encoders.supports(form):
        return encoders.encode(form, weight, permutation)[0]
    return form.encode(weight, permutation)


def decode(encoded: Encoded) -> NDArray[np.float32]:
    """The float32 matrix [rows, cols] that an encoded weight stands for, columns in their original order."""
    return encoders.decode(encoded) if encoders.can_decode(encoded) else encoded.format.decode(encoded)


def measure(encoded: Encoded, weight: NDArray[Any]) -> Difference:
    """The difference between an encoded weight and a matrix.

    Raises:
        WeightError: the weight holds NaN or infinity.
    """
    if encoders.can_decode(encoded):
        return encoders.measure(encoded, weight)
    difference = Difference()
    difference.add(weight, encoded.format.decode(encoded))
    return difference
