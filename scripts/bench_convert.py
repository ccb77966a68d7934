"""Speed of converting a model without the proof, beside onnxruntime's own quantizer in the same run.

Makes a chain of 4096 x 4096 products (20 by default: 1.34 GB of float32 in external data), then converts it in processes of
their own, in turns: by onnxquant to each format, and by onnxruntime's MatMulNBitsQuantizer (4 bits, block 32). Files are in
the page cache. Times exclude imports; the final fsync is named apart. Memory is the peak of resident anonymous memory above
what the process had before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console

from onnxquant.native import library as native
from onnxquant.report.terminal import table

WIDTH = 4096
LAYER_BYTES = WIDTH * WIDTH * 4
ONNXRUNTIME = "onnxruntime MatMulNBitsQuantizer"


def make_model(folder: Path, layers: int) -> Path:
    """A chain of MatMuls with random weights in external data."""
    generator = np.random.default_rng(0)
    nodes, weights = [], []
    with (folder / "weights.bin").open("wb") as file:
        for i in range(layers):
            file.write((generator.standard_normal((WIDTH, WIDTH), dtype=np.float32) * np.float32(0.02)).tobytes())
            tensor = onnx.TensorProto(name=f"w{i}", data_type=onnx.TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", i * LAYER_BYTES), ("length", LAYER_BYTES)):
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            nodes.append(onnx.helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["b", WIDTH]) for n in ("x0", f"x{layers}")]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    path = folder / "chain.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def anonymous() -> int:
    """Bytes of resident anonymous memory of this process."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def measured(work: Callable[[], None]) -> dict[str, float]:
    """Seconds, seconds within fsync, and peak bytes of one conversion."""
    before, peak, done = anonymous(), [0], threading.Event()
    spent = [0.0]
    sync = os.fsync

    def timed(descriptor: int) -> None:
        begin = time.perf_counter()
        sync(descriptor)
        spent[0] += time.perf_counter() - begin

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], anonymous())

    os.fsync = timed  # type: ignore[assignment]
    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    done.set()
    watcher.join()
    return {"seconds": seconds, "fsync": spent[0], "anonymous": max(0, peak[0] - before)}


def convert(source: Path, output: Path, what: str) -> None:
    """One conversion; prints its figures as JSON."""
    if what == ONNXRUNTIME:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        def by_onnxruntime() -> None:
            quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=32, is_symmetric=True, accuracy_level=4)
            quantizer.process()
            quantizer.model.save_model_to_file(str(output), use_external_data_format=True)

        figures = measured(by_onnxruntime)
    else:
        import onnxquant

        def by_us() -> None:
            onnxquant.quantize(source, output, format=what, proof=False)

        figures = measured(by_us)
    print(json.dumps(figures))


def in_process(source: Path, what: str) -> dict[str, float]:
    """The same in a process of its own, its output thrown away."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        command = [sys.executable, __file__, "--convert", str(source), str(Path(folder) / "out.onnx"), what]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what}: {done.stderr[-1000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", default=["q4_0", "int4"])
    parser.add_argument("--layers", type=int, default=20, help="weights of 67 MB each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--convert", nargs=3, metavar=("SOURCE", "OUTPUT", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.convert:
        source, output, what = options.convert
        convert(Path(source), Path(output), what)
        return
    subjects = [*options.formats, ONNXRUNTIME]
    runs: dict[str, list[dict[str, float]]] = {s: [] for s in subjects}
    total = options.layers * LAYER_BYTES
    with tempfile.TemporaryDirectory(prefix="onnxquant-bench-") as folder:
        source = make_model(Path(folder), options.layers)
        for _ in range(options.rounds):
            for subject in subjects:
                runs[subject].append(in_process(source, subject))
    show(runs, total)
    if options.json:
        options.json.write_text(json.dumps({"bytes": total, "isas": native.isas(), "runs": runs}, indent=2))


def show(runs: dict[str, list[dict[str, float]]], total: int) -> None:
    """Medians as a table."""
    middle: Callable[[list[dict[str, float]], str], float] = lambda r, key: statistics.median(x[key] for x in r)  # noqa: E731
    baseline = runs[ONNXRUNTIME]
    out = table(
        f"{total / 1e9:.2f} GB of float32, {os.cpu_count()} CPUs, medians of {len(baseline)} runs",
        "converter", ">seconds", ">of it fsync", ">GB/s", ">GB/s without fsync", ">times faster", ">anonymous / model",
    )  # fmt: skip
    for name, figures_of_runs in runs.items():
        seconds, sync = middle(figures_of_runs, "seconds"), middle(figures_of_runs, "fsync")
        ratios = [b["seconds"] / r["seconds"] for b, r in zip(baseline, figures_of_runs, strict=True)]
        figures: list[Any] = [
            f"{seconds:.2f}", f"{sync:.2f}", f"{total / seconds / 1e9:.2f}", f"{total / (seconds - sync) / 1e9:.2f}",
            f"{statistics.median(ratios):.2f}", f"{middle(figures_of_runs, 'anonymous') / total:.3f}",
        ]  # fmt: skip
        out.add_row(name, *figures)
    Console().print(out)


if __name__ == "__main__":
    main()
