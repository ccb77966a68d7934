"""Observers of the compiled library: extremes, moments and histograms, the same bits as those of ``onnxquant.observers``.

A session has a node ``onnxquant::Observe`` per tensor, which names an observer by its handle. The session's threads read
each tensor where it is, once.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.errors import NativeLibraryError
from onnxquant.graph.names import DOMAIN
from onnxquant.native import library as native
from onnxquant.numerics.exact_sum import ExactSum
from onnxquant.observers.histogram import HALF, Histogram
from onnxquant.observers.moments import Moments

KINDS = (Moments.kind, Histogram.kind)
_WORDS = 35
_INT = ctypes.c_int64


class _StatisticsArgument(ctypes.Structure):
    """The struct of the same name in custom_ops/calibration/abi.cpp."""

    _fields_ = (
        ("count", _INT), ("zeros", _INT), ("exponent", _INT), ("low", ctypes.c_double), ("high", ctypes.c_double),
        ("total", ctypes.c_uint64 * _WORDS), ("squares", ctypes.c_uint64 * _WORDS),
    )  # fmt: skip


@cache
def available() -> bool:
    """Whether the library is there and has observers."""
    try:
        return bool(native.function("observer_new"))
    except NativeLibraryError:
        return False


class CompiledObserver:
    """An observer of the library, freed with this object.

    Args:
        histogram: whether it counts bins, too.
    """

    def __init__(self, *, histogram: bool) -> None:
        self._histogram = histogram
        handle = _INT()
        native.call("observer_new", _INT(histogram), ctypes.byref(handle))
        self.handle = handle.value

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            native.call("observer_free", _INT(self.handle))

    def node(self, tensor: str, output: str) -> onnx.NodeProto:
        """A node that shows it a tensor; the node's output is the smallest and the largest value."""
        return onnx.helper.make_node("Observe", [tensor], [output], name=output, domain=DOMAIN, handle=self.handle)

    def update(self, values: NDArray[np.float32], pieces: int = 1) -> None:
        """Observe a tensor, as the node does.

        Args:
            values: the tensor.
            pieces: number of pieces that it is divided into.
        """
        flat = native.in_order(values).reshape(-1)
        data = flat.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        native.call("observer_update", _INT(self.handle), data, _INT(flat.size), _INT(pieces))

    def take(self) -> tuple[Moments, Histogram]:
        """The statistics since the last call; the library begins anew."""
        raw, histogram, moments = _StatisticsArgument(), Histogram(), Moments()
        counts = histogram.counts.ctypes.data_as(ctypes.POINTER(_INT)) if self._histogram else None
        native.call("observer_take", _INT(self.handle), ctypes.byref(raw), _INT(ctypes.sizeof(raw)), counts)
        moments.count, moments.low, moments.high = raw.count, raw.low, raw.high
        moments.total, moments.squares = _exact(raw.total), _exact(raw.squares)
        histogram.exponent, histogram.zeros = raw.exponent, raw.zeros
        histogram.low, histogram.high = raw.low, raw.high
        return moments, histogram


def _exact(words: ctypes.Array[Any]) -> ExactSum:
    return ExactSum(int.from_bytes(bytes(words), "little", signed=True))


assert HALF == 1 << 12, "the library's histograms have as many bins"
