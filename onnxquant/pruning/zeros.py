"""Formats that keep zeros: a weight that is zero is zero in the file."""

from __future__ import annotations

from functools import cache

import numpy as np

from onnxquant.formats.base import Format
from onnxquant.native import dispatch


@cache
def keeps_zeros(form: Format) -> bool:
    """Whether a format encodes zeros as exact zeros, whichever weights stand beside them."""
    # Rows of either sign and of both, whose mean is not zero: minima and zero points are then not zero by chance.
    weight = np.random.default_rng(0).standard_normal((6, 1024)).astype(np.float32)
    weight += np.float32(0.5) * np.arange(-2, 4, dtype=np.float32)[:, None]
    weight[0], weight[1] = -np.abs(weight[0]), np.abs(weight[1])
    is_zero = np.random.default_rng(1).random(weight.shape) < 0.5
    weight[is_zero] = 0
    decoded = dispatch.decode(dispatch.rounded_to_nearest(form.with_(permuted=False), weight))
    return not decoded[is_zero].any()
