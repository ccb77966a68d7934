"""Time of a call by operator, of the original and of the quantized model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from onnxquant import runtime
from onnxquant.calibration.feeds import Feed
from onnxquant.errors import ModelError

# Operators that are listed; the others of a model take little time.
_MOST = 20


@dataclass(frozen=True)
class OpTime:
    """Seconds of a call that the nodes of one operator take in both models."""

    op: str
    original: float
    quantized: float


def op_times(original: Path, quantized: Path, feed: Feed, threads: int | None) -> list[OpTime] | None:
    """The time of each operator on one sample, the longest first; None where a model cannot be profiled.

    Args:
        original: the original.
        quantized: the quantized file.
        feed: the sample.
        threads: number of threads of the sessions; None: one.
    """
    try:
        before, after = (_seconds(path, feed, threads) for path in (original, quantized))
    except ModelError:  # a proof does not fail for want of a profile
        return None
    times = [OpTime(op, before.get(op, 0.0), after.get(op, 0.0)) for op in {*before, *after}]
    return sorted(times, key=lambda time: (-max(time.original, time.quantized), time.op))[:_MOST]


def _seconds(path: Path, feed: Feed, threads: int | None) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for node in runtime.profile(path, feed, threads):
        seconds[node.op] += node.seconds
    return seconds
