"""Calibrating against just running the float model: time, and memory as the number of samples grows.

    python scripts/bench_calibrate.py [MODEL] [--samples 512]

Each run is a process of its own that reads the same samples from the same file: one runs the model alone, the others
collect minmax statistics, or histograms (percentile), of every tensor that static activations would round. Runs are
interleaved, figures are medians; time is that of the loop over the samples, without opening sessions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from bench_memory import watch

from onnxquant import runtime
from onnxquant.calibration.collect import collect
from onnxquant.calibration.feeds import Feed, Feeds, Input, open_feeds
from onnxquant.calibration.tensors import quantizable
from onnxquant.graph.io import load
from onnxquant.report.units import size

MODEL = Path(__file__).resolve().parents[1] / "models" / "fetched" / "mobilenet_v2" / "mobilenet_v2.onnx"
KINDS = ("run alone", "minmax", "percentile")


class Timed:
    """Feeds that remember when the first sample was asked for, and when the last one was done with."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds, self.origin, self.groups, self.files = feeds, feeds.origin, feeds.groups, feeds.files
        self.classes, self.labelled = feeds.classes, feeds.labelled
        self.begin = self.end = 0.0

    def __len__(self) -> int:
        return len(self._feeds)

    def __iter__(self) -> Iterator[Feed]:
        self.begin = time.perf_counter()
        yield from self._feeds
        self.end = time.perf_counter()


def measure(kind: str, model: Path, data: Path, samples: int, threads: int) -> float:
    """Seconds of one loop over the samples."""
    session = runtime.open_session(model, runtime.session_options(threads=threads))
    inputs = [Input(n, t, tuple(s)) for n, t, s in runtime.inputs_of(session)]
    feeds = Timed(open_feeds(data, inputs, limit=samples))
    if kind == "run alone":
        for feed in feeds:
            runtime.run(session, feed)
        return feeds.end - feeds.begin
    del session
    document = load(model)
    observers = {name: [kind] for name in quantizable(document)}
    collect(document, feeds, observers, threads=threads)
    return feeds.end - feeds.begin


def samples_of(model: Path, count: int, folder: Path) -> Path:
    """Samples on disk: the model's own, shifted and mirrored, or noise of its input's shape."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    shape = [d if isinstance(d, int) else 1 for d in first.shape][1:]
    feeds_file, generator = model.parent / "feeds.npz", np.random.default_rng(0)
    base: Feed = dict(np.load(feeds_file)) if feeds_file.exists() else {}
    values = base.get(first.name, generator.standard_normal((8, *shape)).astype(np.float32))
    rows = [np.roll(values[i % len(values)], int(generator.integers(32)), axis=-1) for i in range(count)]
    path = folder / "samples.npz"
    arrays: Any = {first.name: np.stack(rows)}
    np.savez(path, **arrays)
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, data, count = arguments.one
        print(json.dumps(measure(kind, arguments.model, Path(data), int(count), arguments.threads)))
        return
    seconds: dict[tuple[str, int], list[float]] = {}
    memory: dict[tuple[str, int], list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="onnxquant-bench-") as name:
        data = samples_of(arguments.model, arguments.samples, Path(name))
        for _ in range(arguments.rounds):
            for count in (arguments.samples // 8, arguments.samples):
                for kind in KINDS:
                    command = [sys.executable, __file__, str(arguments.model), "--threads", str(arguments.threads)]
                    command += ["--one", kind, str(data), str(count)]
                    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                    memory.setdefault((kind, count), []).append(watch(process))
                    output, _ = process.communicate()
                    if process.returncode:
                        sys.exit(process.returncode)
                    seconds.setdefault((kind, count), []).append(json.loads(output))
    print(f"onnxruntime {onnxruntime.__version__}, {arguments.threads} threads, {arguments.model.name}")
    print(f"{'':12} {'samples':>8} {'seconds':>8} {'of running':>11} {'anonymous memory':>17}")
    for (kind, count), durations in seconds.items():
        ratios = [a / b for a, b in zip(durations, seconds["run alone", count], strict=True)]
        peak = size(median(memory[kind, count]))
        print(f"{kind:12} {count:8} {median(durations):8.2f} {median(ratios):10.2f}x {peak:>17}")


if __name__ == "__main__":
    main()
