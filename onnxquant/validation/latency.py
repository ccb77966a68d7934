"""Latencies of several models, measured with their runs interleaved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from onnxquant import runtime
from onnxquant.calibration.feeds import Feed

# Names under which a proof measures its models.
ORIGINAL, QUANTIZED, STOCK = "original", "quantized", "quantized, stock"
# Runs of each model at least, and at most; seconds after which the least will do, and after which fewer do.
_FEWEST, _MOST, _ENOUGH_SECONDS, _LONG_SECONDS = 5, 200, 2, 30


@dataclass(frozen=True)
class TimedModel:
    """A model to measure.

    Attributes:
        path: the file.
        library: whether ops of ours run on our library; else their bodies run.
    """

    path: Path
    library: bool = True


@dataclass(frozen=True)
class Latency:
    """Latencies by the name of the model.

    Attributes:
        seconds: median seconds per call.
        ratio: seconds of the first model over those of each.
        runs: number of runs of each model.
        threads: number of threads of the sessions; None: onnxruntime's choice.
    """

    seconds: dict[str, float]
    ratio: dict[str, float]
    runs: int
    threads: int | None


def latencies(models: Mapping[str, TimedModel], feed: Feed, threads: int | None) -> Latency:
    """Latencies of models on one sample.

    Args:
        models: models by name; ratios refer to the first.
        feed: the sample.
        threads: number of threads of the sessions; None: onnxruntime's choice.
    """
    sessions: dict[str, runtime.Session] = {
        name: runtime.open_session(model.path, runtime.session_options(threads=threads), library=model.library)
        for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    first = next(iter(times.values()))
    started = time.perf_counter()
    for session in sessions.values():
        runtime.run(session, feed)
    while len(first) < _FEWEST or (time.perf_counter() - started < _ENOUGH_SECONDS and len(first) < _MOST):
        for name, session in sessions.items():
            begin = time.perf_counter()
            runtime.run(session, feed)
            times[name].append(time.perf_counter() - begin)
        if time.perf_counter() - started > _LONG_SECONDS and len(first) >= 3:
            break
    seconds = {name: median(t) for name, t in times.items()}
    base = next(iter(seconds.values()))
    return Latency(seconds, {n: base / s for n, s in seconds.items()}, len(first), threads)
