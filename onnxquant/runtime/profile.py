"""The time of each operator of a model, as onnxruntime's profiler measures it."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnxquant.runtime.sessions import open_session, run, session_options
from onnxquant.runtime.trace import Run, events_of, runs_of

# Runs that are measured after a first one, which is not; fewer where they take longer than this many seconds.
_RUNS, _SECONDS = 5, 3.0


@dataclass(frozen=True)
class NodeTime:
    """The time of one node of the graph that onnxruntime runs.

    Attributes:
        name: its name, which a fused node has from one of its parts.
        op: its operator.
        seconds: time in one run of the model; that of the nodes in its subgraphs is theirs.
    """

    name: str
    op: str
    seconds: float


def profile(path: Path, feed: Mapping[str, NDArray[Any]], threads: int | None = None) -> list[NodeTime]:
    """The time of each node of a model in one run, the longest first.

    Args:
        path: the model.
        feed: the sample that is run.
        threads: number of threads of the session; None: one.

    Raises:
        ModelError: the model does not load, or fails on the sample.
    """
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        options = session_options(threads=threads or 1)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session(path, options)
        run(session, feed)
        count, begin = 0, time.perf_counter()
        while count < _RUNS and (not count or time.perf_counter() - begin < _SECONDS):
            run(session, feed)
            count += 1
        text = Path(session.end_profiling()).read_text(encoding="utf-8", errors="replace")
    return node_times(runs_of(events_of(text)))


def node_times(runs: Sequence[Run]) -> list[NodeTime]:
    """The time of each node in one run: the median of all runs but the first, which other work on the machine moves least.

    Args:
        runs: the runs; a node of a loop has several calls in each.
    """
    measured = [defaultdict[tuple[str, str], float](float) for _ in runs[1:]]
    for seconds, one in zip(measured, runs[1:], strict=True):
        for call in one.calls:
            seconds[call.name, call.op] += call.seconds
    keys = {key for seconds in measured for key in seconds}
    times = [NodeTime(*key, statistics.median(seconds.get(key, 0.0) for seconds in measured)) for key in keys]
    return sorted(times, key=lambda node: (-node.seconds, node.name, node.op))
