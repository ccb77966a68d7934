"""Files with tables between codes (onnxquant.targets.code_maps) beside the same files without: speed, time to load, outputs.

    python scripts/bench_code_maps.py quantized.onnx feeds.npz

The first sample of the feeds is run. Sessions on the file without tables, on the file with our library and on the file
without it are called in turn; ratios are medians of processor time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime as ort

from onnxquant import runtime
from onnxquant.targets.code_maps import expand_code_maps, is_code_map


def opened(path: Path, threads: int, *, library: bool) -> tuple[runtime.Session, float]:
    """A session, and the processor time that it took to make."""
    begin = time.process_time()
    session = runtime.open_session(path, runtime.session_options(threads=threads, spinning=False), library=library)
    return session, time.process_time() - begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("file", type=Path)
    parser.add_argument("feeds", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    proto = onnx.load(str(arguments.file))
    tables = sum(map(is_code_map, proto.graph.node))
    with np.load(arguments.feeds) as data, tempfile.TemporaryDirectory() as folder:
        feed = {name: data[name][0] for name in data.files}
        before = Path(folder) / "before.onnx"
        expand_code_maps(proto)
        onnx.save(proto, str(before))
        kinds = {
            "without tables": (before, False),
            "library": (arguments.file, True),
            "bodies": (arguments.file, False),
        }
        sessions = {kind: opened(path, arguments.threads, library=library) for kind, (path, library) in kinds.items()}
        loads: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(15):
            for kind, (path, library) in kinds.items():
                loads[kind].append(opened(path, arguments.threads, library=library)[1])
        outputs = {kind: list(runtime.run(session, feed).values()) for kind, (session, _) in sessions.items()}
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(arguments.runs):
            for kind, (session, _) in sessions.items():
                begin = time.process_time()
                runtime.run(session, feed)
                times[kind].append(time.process_time() - begin)
    print(f"onnxruntime {ort.__version__}, {arguments.threads} thread(s), {tables} tables")
    first = "without tables"
    for kind in kinds:
        is_same = all(np.array_equal(a, b) for a, b in zip(outputs[kind], outputs[first], strict=True))
        speed = median(a / b for a, b in zip(times[first], times[kind], strict=True))
        load = median(b / a for a, b in zip(loads[first], loads[kind], strict=True))
        print(
            f"{kind:16s}{1e3 * median(times[kind]):8.2f} ms, {speed:.2f} times as fast; loads in "
            f"{1e3 * median(loads[kind]):.0f} ms, {load:.2f} of the time; outputs {'the same' if is_same else 'DIFFER'}"
        )


if __name__ == "__main__":
    main()
