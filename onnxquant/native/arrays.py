"""Arrays of any shape, encoded and decoded: the public ``onnxquant.encode`` and ``onnxquant.decode``."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded, Format
from onnxquant.native import dispatch


def encode(array: NDArray[Any], format: str | Format, **parameters: object) -> Encoded:
    """Encode an array; its last axis is the contracted one.

    Args:
        array: floats of any shape [..., K].
        format: a format or its name.
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
    matrix = array.reshape(prod(array.shape[:-1]), array.shape[-1])
    encoded = dispatch.rounded_to_nearest(chosen, matrix)
    return Encoded(encoded.format, encoded.rows, encoded.cols, encoded.planes, array.shape)


def decode(encoded: Encoded) -> NDArray[np.float32]:
    """The float32 array, in its original shape, that an encoded weight stands for."""
    return dispatch.decode(encoded).reshape(encoded.shape or (encoded.rows, encoded.cols))
