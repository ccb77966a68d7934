"""Kernels that take more time on integers than in float: they go back to float where the whole file would be slower.

Rounding an activation takes the same time whatever is done with it. Where a product has few rows and a small weight, as
each step of an unrolled recurrence has, it takes longer than the integer product saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx

from onnxquant.activations.candidate import Candidate
from onnxquant.activations.placement import Unit
from onnxquant.validation.latency import QUANTIZED, Latency

# A float model that takes less time per call is not measured: what a session costs counts more.
LEAST_SECONDS = 5e-4
# Kinds of kernels that are tried in float one after the other, the most frequent first.
_MOST_KINDS = 6
# The factor by which a kind of kernel in float must speed up the file.
_WORTHWHILE = 1.03


def slow_kernels(
    start: Candidate,
    weights: Iterable[onnx.TensorProto],
    measured: Callable[[Candidate], Latency],
    in_float: Callable[[Sequence[str]], Candidate],
) -> tuple[str, ...]:
    """The first outputs of the kernels that are to stay in float for speed; none where the file is not slower.

    Args:
        start: the candidate with all its kernels.
        weights: constants of the float model.
        measured: function that measures the file of a candidate beside the float model.
        in_float: function that returns the candidate with some kernels in float.
    """
    best = measured(start)
    if best.ratio[QUANTIZED] >= 1:
        return ()
    slow: tuple[str, ...] = ()
    for names in _kinds(start.placement.kernels, weights):
        trial = measured(in_float([*slow, *names]))
        if trial.ratio[QUANTIZED] > _WORTHWHILE * best.ratio[QUANTIZED]:
            best, slow = trial, (*slow, *names)
    return slow


def _kinds(units: Sequence[Unit], weights: Iterable[onnx.TensorProto]) -> list[list[str]]:
    """First outputs of the kernels of one op and shape of weight, the most frequent kinds first."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in weights}
    kinds: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for unit in units:
        kinds.setdefault((unit.node.op_type, shapes.get(unit.node.input[1], ())), []).append(unit.node.output[0])
    return sorted(kinds.values(), key=len, reverse=True)[:_MOST_KINDS]
