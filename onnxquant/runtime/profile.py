"""The time of each operator of a model, as onnxruntime's profiler measures it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnxquant.runtime.sessions import open_session, run, session_options

# Runs that are measured after a first one, which is not.
_RUNS = 3


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
        for _ in range(_RUNS + 1):
            run(session, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _times(events)


def _times(events: Sequence[Mapping[str, Any]]) -> list[NodeTime]:
    """The mean time of each node over the runs but the first, from a profile's events."""
    calls: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name, suffix = str(event.get("name", "")), "_kernel_time"
        if event.get("cat") == "Node" and name.endswith(suffix):
            op = str(event.get("args", {}).get("op_name", ""))
            calls.setdefault((name.removesuffix(suffix), op), []).append(float(event["dur"]) * 1e-6)
    # A node of a loop runs several times in each run.
    times = [NodeTime(name, op, sum(c[len(c) // (_RUNS + 1) :]) / _RUNS) for (name, op), c in calls.items()]
    return sorted(times, key=lambda time: -time.seconds)
