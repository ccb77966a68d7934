"""Frame of a worker: it reads the job, times the tool's conversion, and reports as JSON, in any environment.

A worker is run as ``python -m peer_bench.run_<tool> job.json``; the job names ``model``, ``calibration`` (an npz with
samples along the first axis), ``output``, ``result`` and ``options``. Only the tool's work is timed, not its import.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, Any]
# Samples of a step of learning, for every tool.
BATCH = 4


class Job:
    """One conversion."""

    def __init__(self, path: Path) -> None:
        entries = json.loads(path.read_text())
        self.model, self.output = Path(entries["model"]), Path(entries["output"])
        self.calibration, self.result = Path(entries["calibration"]), Path(entries["result"])
        self.options: dict[str, Any] = entries["options"]
        self.encoder: bool = entries["encoder"]
        self.notes: list[str] = []
        with np.load(self.calibration) as data:
            self.arrays = {name: data[name] for name in data.files}

    def feeds(self) -> list[Feed]:
        """Samples, each as the model takes it."""
        count = len(next(iter(self.arrays.values())))
        return [{name: np.asarray(array[i]) for name, array in self.arrays.items()} for i in range(count)]


class Reader:
    """Samples as onnxruntime's tools and those made after them read: one per call, then None."""

    def __init__(self, feeds: list[Feed]) -> None:
        self.feeds = feeds
        self._left: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        """The next sample."""
        return next(self._left, None)

    def __iter__(self) -> Iterator[Feed]:
        return iter(self.feeds)

    def __len__(self) -> int:
        return len(self.feeds)

    def rewind(self) -> None:
        """Begin again."""
        self._left = iter(self.feeds)


def joined(feeds: list[Feed], size: int) -> list[Feed]:
    """Samples joined along their first axis, so many at a time; the last ones that are fewer are left out."""
    starts = range(0, len(feeds) - size + 1, size)
    return [{n: np.concatenate([f[n] for f in feeds[s : s + size]]) for n in feeds[0]} for s in starts]


def peak_bytes() -> int:
    """Highest resident size of this process, and of its largest child."""
    status = Path("/proc/self/status")
    own = 0
    if status.exists():  # not getrusage: that counts what the parent held before exec
        own = next(int(s.split()[1]) * 1024 for s in status.read_text().splitlines() if s.startswith("VmHWM"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return max(own, children) if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(package: str, convert: Callable[[Job], None]) -> None:
    """Do the job of the command line with a tool, and write what came of it."""
    job = Job(Path(sys.argv[1]))
    report: dict[str, Any] = {"version": version(package)}
    loaded, begin, processor = peak_bytes(), time.perf_counter(), time.process_time()
    try:
        convert(job)
        report |= {"seconds": time.perf_counter() - begin, "peak_bytes": peak_bytes(), "imported_bytes": loaded}
        report["processor_seconds"] = time.process_time() - processor
    except BaseException as error:  # a report of whatever a tool may raise, exits included
        traceback.print_exc()
        lines = [line for line in str(error).splitlines() if line.strip()]
        report["error"] = f"{type(error).__name__}: {lines[0].strip() if lines else ''}"
    report["notes"] = job.notes
    job.result.write_text(json.dumps(report))
