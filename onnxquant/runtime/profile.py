"""The time of each operator of a model, as onnxruntime's profiler measures it."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnxquant.runtime.sessions import open_session, run, session_options

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
        runs, begin = 0, time.perf_counter()
        while runs < _RUNS and (not runs or time.perf_counter() - begin < _SECONDS):
            run(session, feed)
            runs += 1
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return node_times(events, runs)


def node_times(events: Sequence[Mapping[str, Any]], runs: int) -> list[NodeTime]:
    """The time of each node in one run: the median of all runs but the first, which other work on the machine moves least.

    Args:
        events: events of a profile.
        runs: number of runs after the first.
    """
    calls: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name, suffix = str(event.get("name", "")), "_kernel_time"
        if event.get("cat") == "Node" and name.endswith(suffix):
            op = str(event.get("args", {}).get("op_name", ""))
            calls.setdefault((name.removesuffix(suffix), op), []).append(float(event["dur"]) * 1e-6)
    times = [NodeTime(name, op, _in_one_run(durations, runs)) for (name, op), durations in calls.items()]
    return sorted(times, key=lambda node: -node.seconds)


def _in_one_run(durations: Sequence[float], runs: int) -> float:
    """The time of a node in one run; a node of a loop runs several times in each, and in some graphs not equally often."""
    calls, rest = divmod(len(durations), runs + 1)
    if rest or not calls:
        return sum(durations[calls:]) / runs
    return statistics.median(sum(durations[i * calls : (i + 1) * calls]) for i in range(1, runs + 1))
