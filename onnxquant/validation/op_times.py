"""Time of a call by operator, of the original and of the quantized model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from onnxquant import runtime
from onnxquant.calibration.feeds import Feed
from onnxquant.errors import ModelError
from onnxquant.validation.latency import ORIGINAL, QUANTIZED, Latency

# Operators that are listed; the others of a model take little time.
_MOST = 20


@dataclass(frozen=True)
class OpTime:
    """Seconds of a call that the nodes of one operator take in both models."""

    op: str
    original: float
    quantized: float


def op_times(
    original: Path, quantized: Path, feed: Feed, latency: Latency, threads: int | None
) -> list[OpTime] | None:
    """The time of each operator on one sample, the longest first; None where a model cannot be profiled.

    The profiles tell the shares. Their sums are the times of a call that interleaved runs have measured, so that other work
    on the machine in one of the profiles changes no ratio of both models.

    Args:
        original: the original.
        quantized: the quantized file.
        feed: the sample.
        latency: times of a call.
        threads: number of threads of the sessions; None: one.
    """
    try:
        before, after = (_seconds(path, feed, threads) for path in (original, quantized))
    except ModelError:  # a proof does not fail for want of a profile
        return None
    seconds = latency.seconds[ORIGINAL]
    before, after = _scaled(before, seconds), _scaled(after, seconds / latency.ratio[QUANTIZED])
    times = [OpTime(op, before.get(op, 0.0), after.get(op, 0.0)) for op in {*before, *after}]
    return sorted(times, key=lambda time: (-max(time.original, time.quantized), time.op))[:_MOST]


def _scaled(times: dict[str, float], seconds: float) -> dict[str, float]:
    """Times with another sum."""
    factor = seconds / (sum(times.values()) or 1.0)
    return {op: factor * time for op, time in times.items()}


def _seconds(path: Path, feed: Feed, threads: int | None) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for node in runtime.profile(path, feed, threads):
        seconds[node.op] += node.seconds
    return seconds
