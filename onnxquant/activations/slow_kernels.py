"""Kernels that take more time on integers than in float: they go back to float where the whole file gains little with them.

Rounding an activation takes the same time whatever is done with it. Where a product has few rows and a small weight, as
each step of an unrolled recurrence has, it takes longer than the integer product saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import onnx

from onnxquant.activations.plan import ActivationPlan
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.validation.latency import Interval

# A float model that takes less time per call is not measured: what a session costs counts more.
LEAST_SECONDS = 5e-4
# A file that may be this much faster than the float model is left as it is: to measure more takes time.
ENOUGH = 1.1
# Kinds of kernels that are tried in float one after the other, the most frequent first.
_MOST_KINDS = 6
# The factor by which a kind of kernel in float must certainly speed up the file.
WORTHWHILE = 1.03

Speedup = Callable[[ActivationPlan, ActivationPlan | None], Interval]


def slow_kernels(
    kernels: Sequence[onnx.NodeProto],
    weights: Iterable[onnx.TensorProto],
    in_float: Callable[[Sequence[str]], ActivationPlan],
    speedup: Speedup,
    budget: TimeBudget,
    with_library: Speedup | None = None,
) -> tuple[str, ...]:
    """The first outputs of the kernels that are to stay in float for speed; none where the file may be ``ENOUGH`` faster.

    Where the file is not certainly slower than the float model, kernels that are faster on integers with our library stay.

    Args:
        kernels: the nodes with a weight that compute on integers.
        weights: constants of the float model.
        in_float: function that returns a plan with some kernels in float.
        speedup: function that measures the file of a plan beside that of another one; None: beside the float model.
        budget: time budget.
        with_library: the same with our operators between integers; None: there are none, and a file that may be as fast as
            the float model is left as it is.
    """
    best, slow = in_float(()), tuple[str, ...]()
    whole = speedup(best, None)
    if whole.high >= (1 if with_library is None else ENOUGH):
        return slow

    def faster(names: Sequence[str]) -> ActivationPlan | None:
        plan = in_float(names)
        if speedup(plan, best).low <= WORTHWHILE:
            return None
        return plan if whole.high < 1 or with_library is None or with_library(plan, best).high >= 1 else None

    for names in _kinds(kernels, weights):
        if plan := budget.attempt("kernels in float for speed", partial(faster, (*slow, *names))):
            best, slow = plan, (*slow, *names)
    return slow


def _kinds(kernels: Sequence[onnx.NodeProto], weights: Iterable[onnx.TensorProto]) -> list[list[str]]:
    """First outputs of the kernels of one kind, the most frequent kinds first.

    Products are of one kind where their weights have one shape; convolutions, where their windows have.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in weights}
    kinds: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for node in kernels:
        shape = shapes.get(node.input[1], ())
        if node.op_type == "Conv" and len(shape) > 2:
            shape = (min(shape[1], 2), *shape[2:])  # a depthwise one reads one channel
        kinds.setdefault((node.op_type, shape), []).append(node.output[0])
    return sorted(kinds.values(), key=len, reverse=True)[:_MOST_KINDS]
