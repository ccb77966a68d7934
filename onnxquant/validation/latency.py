"""Latencies of several models: their runs interleaved, in processor time, repeated until the ratios are certain."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from onnxquant import runtime
from onnxquant.calibration.feeds import Feed
from onnxquant.json_data import OPTIONAL

# Names under which a proof measures its models.
ORIGINAL, QUANTIZED, STOCK = "original", "quantized", "quantized, stock"
# Runs of each model before its interval counts, and at most.
_FEWEST, _MOST = 11, 500
# Seconds after which as many runs are enough.
_ENOUGH = ((2.0, 5), (8.0, 3))
# Seconds of a run whose calls are short, and the number of its calls at most.
_SHORT, _MOST_CALLS = 1e-3, 40
# An interval whose ends are no further apart than this factor is narrow.
_NARROW = 1.05
# Standard deviations to each side of an interval that holds the median 19 times of 20.
_DEVIATIONS = 1.96


@dataclass(frozen=True)
class TimedModel:
    """A model to measure.

    Attributes:
        path: the file.
        library: whether ops of ours run on our library; else their bodies run.
    """

    path: Path
    library: bool = True


class Interval(NamedTuple):
    """An interval that holds the true ratio 19 times of 20."""

    low: float
    high: float

    @property
    def is_narrow(self) -> bool:
        """Whether the ratio is known well."""
        return self.high <= _NARROW * self.low


@dataclass(frozen=True)
class Latency:
    """Latencies by the name of the model.

    Attributes:
        seconds: median seconds per call: processor time with one thread, as the ratios are; else by the clock on the wall.
        ratio: processor time of the first model over that of each.
        runs: number of runs of each model.
        threads: number of threads of the sessions; None in old reports: onnxruntime's choice.
        interval: interval of each ratio; None: not known.
        call: work of one call, where it is not that of a sample: one token of a decoder.
        spread: distance between the quartiles of each ratio's pairs, as a part of it; None: not known.
    """

    seconds: dict[str, float]
    ratio: dict[str, float]
    runs: int
    threads: int | None
    interval: dict[str, Interval] | None = field(default=None, metadata=OPTIONAL)
    call: str | None = field(default=None, metadata=OPTIONAL)
    spread: dict[str, float] | None = field(default=None, metadata=OPTIONAL)

    def certain(self, model: str) -> Interval:
        """Interval of a model's ratio; of reports without one it is the ratio and what timings scatter by."""
        if self.interval is not None:
            return self.interval[model]
        return Interval(0.95 * self.ratio[model], 1.05 * self.ratio[model])

    def with_figures(self, other: Latency) -> Latency:
        """The latencies with another measurement's figures of its models; itself where that has other threads."""
        if self.threads != other.threads or self.interval is None or other.interval is None:
            return self
        spread = None if self.spread is None or other.spread is None else {**self.spread, **other.spread}
        return replace(
            self, seconds={**self.seconds, **other.seconds}, ratio={**self.ratio, **other.ratio},
            interval={**self.interval, **other.interval}, spread=spread, runs=min(self.runs, other.runs),
        )  # fmt: skip

    def of(self, names: Mapping[str, str]) -> Latency:
        """The latencies of some of the models.

        Args:
            names: names of the models by the names that they get.
        """
        interval = None if self.interval is None else {new: self.interval[old] for new, old in names.items()}
        spread = None if self.spread is None else {new: self.spread[old] for new, old in names.items()}
        seconds, ratio = ({new: figures[old] for new, old in names.items()} for figures in (self.seconds, self.ratio))
        return Latency(seconds, ratio, self.runs, self.threads, interval, self.call, spread)


def latencies(
    models: Mapping[str, TimedModel], feed: Feed, threads: int | None, *, enough: float | None = None
) -> Latency:
    """Latencies of models on one sample.

    A run of one model stands beside a run of each other one, and the ratio is the median of the pairs' ratios: what else the
    machine does meets both. Processor time does not count the time of other processes. A run of a short model is several
    calls, after one that does not count: its weights are then in the processor's cache, as they are where it is called often.

    Args:
        models: models by name; ratios refer to the first.
        feed: the sample.
        threads: number of threads of the sessions; None: one, whose processor time is certain.
        enough: seconds after which a few runs are enough; None: those of a proof.
    """
    threads = threads or 1
    sessions: dict[str, runtime.Session] = {
        name: runtime.open_session(
            model.path, runtime.session_options(threads=threads, spinning=False), library=model.library
        )
        for name, model in models.items()
    }
    clock, first = processor_clock(threads), next(iter(models))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    processor: dict[str, list[float]] = {name: [] for name in models}
    started, limits = time.perf_counter(), _ENOUGH if enough is None else ((enough, 5), (4 * enough, 3))
    calls = {name: _calls_of_run(session, feed) for name, session in sessions.items()}
    while True:
        for name, session in sessions.items():
            if calls[name] > 1:
                runtime.run(session, feed)
            begin, begin_processor = time.perf_counter(), clock()
            for _ in range(calls[name]):
                runtime.run(session, feed)
            processor[name].append(max(clock() - begin_processor, 1e-9) / calls[name])
            seconds[name].append((time.perf_counter() - begin) / calls[name])
        runs, passed = len(processor[first]), time.perf_counter() - started
        ratios = {name: [a / b for a, b in zip(processor[first], p, strict=True)] for name, p in processor.items()}
        intervals = {name: interval_of_median(values) for name, values in ratios.items()}
        is_certain = runs >= _FEWEST and all(interval.is_narrow for interval in intervals.values())
        if is_certain or runs >= _MOST or any(passed > limit and runs >= fewest for limit, fewest in limits):
            break
    middle = {name: median(values) for name, values in ratios.items()}
    per_call = processor if threads == 1 else seconds
    spread = {name: spread_of(values) for name, values in ratios.items()}
    return Latency({name: median(s) for name, s in per_call.items()}, middle, runs, threads, intervals, spread=spread)


def _calls_of_run(session: runtime.Session, feed: Feed) -> int:
    """Number of calls that are timed together: so many that they take about a millisecond. Makes the first two calls."""
    runtime.run(session, feed)
    begin = time.perf_counter()
    runtime.run(session, feed)
    return max(1, min(_MOST_CALLS, round(_SHORT / max(time.perf_counter() - begin, 1e-9))))


def processor_clock(threads: int) -> Callable[[], float]:
    """The clock of the processor time that a session with ``threads`` threads takes."""
    if sys.platform == "win32":  # whose processor times move in steps of 16 ms
        return time.perf_counter
    return time.thread_time if threads == 1 else time.process_time


def spread_of(values: Sequence[float]) -> float:
    """The distance between the quartiles of values, as a part of their median.

    >>> spread_of([1.0, 2.0, 2.0, 2.0, 3.0]), spread_of([1.0, 1.0, 2.0, 3.0, 3.0])
    (0.0, 1.0)
    """
    ordered, last = sorted(values), len(values) - 1
    return (ordered[last - last // 4] - ordered[last // 4]) / median(ordered)


def interval_of_median(values: Sequence[float]) -> Interval:
    """The interval between two of the values that holds the median of what they are drawn from 19 times of 20.

    Their places follow from the binomial distribution of the number of values below the median; of few values they are the
    first and the last.

    >>> interval_of_median(range(100))
    Interval(low=39, high=60)
    """
    ordered, count = sorted(values), len(values)
    below = max(0, int(count / 2 - _DEVIATIONS * count**0.5 / 2) - 1)
    return Interval(ordered[below], ordered[count - 1 - below])
