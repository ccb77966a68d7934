"""Static files with our operators between integer activations beside the same files on onnxruntime's own kernels.

    python scripts/bench_integer_networks.py quantized.onnx --data samples.npz [--float model.onnx] [--threads 2]

The file's integer networks and tables of codes (``IntegerNetwork``, ``MapCodes``) are put back to the nodes that they stand
for: that file, on onnxruntime alone, is what all others are compared to. The first sample is run. Sessions are called in
turn; ratios are medians of the rounds': of processor time with one thread, else of the clock on the wall. ``--openvino``
reads the file of onnxruntime in OpenVINO, too. The first rounds do not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.native import library as native
from onnxquant.targets.code_maps import add_code_maps, expand_code_maps
from onnxquant.targets.integer_networks import expand_integer_networks, is_integer_network

Feed = Mapping[str, NDArray[Any]]
FIRST = "onnxruntime's kernels"
WARM_UP = 5


@dataclass(frozen=True)
class Way:
    """A way to run the network.

    Attributes:
        run: gives the outputs.
        load: makes a session anew; None where that is not compared.
    """

    run: Callable[[], list[NDArray[Any]]]
    load: Callable[[], object] | None = None


def on_onnxruntime(path: Path, feed: Feed, threads: int, *, library: bool) -> Way:
    """A file on onnxruntime, with our library or without."""

    def load() -> runtime.Session:
        return runtime.open_session(path, runtime.session_options(threads=threads, spinning=False), library=library)

    session = load()
    return Way(lambda: list(runtime.run(session, feed).values()), load)


def on_openvino(path: Path, feed: Feed, threads: int) -> Way:
    """A file on OpenVINO."""
    import openvino  # type: ignore[import-not-found]

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    return Way(lambda: list(request.infer(dict(feed)).values()))


def first_sample(path: Path, proto: onnx.ModelProto) -> Feed:
    """The first sample of an archive, with the axis of samples that the model wants."""
    inputs = {value.name: len(value.type.tensor_type.shape.dim) for value in proto.graph.input}
    with np.load(path) as data:
        firsts = {name: data[name][:1] if data[name].ndim == inputs[name] else data[name][0] for name in data.files}
    return {name: value if value.ndim == inputs[name] else value[None] for name, value in firsts.items()}


def times(ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each call, in turn."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(WARM_UP + rounds):
        for name, call in ways.items():
            begin = clock()
            call()
            spent[name].append(clock() - begin)
    return {name: values[WARM_UP:] for name, values in spent.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="npz archive of samples")
    parser.add_argument("--float", type=Path, help="the original, to be measured, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--loads", type=int, default=11)
    parser.add_argument("--isa", default="", help="no better instruction set in our library than this")
    parser.add_argument("--openvino", action="store_true")
    arguments = parser.parse_args()
    native.set_isa(arguments.isa)
    proto = onnx.load(str(arguments.file))
    networks = sum(map(is_integer_network, proto.graph.node))
    feed = first_sample(arguments.data, proto)
    with tempfile.TemporaryDirectory() as folder:
        before, tables = Path(folder) / "before.onnx", Path(folder) / "tables.onnx"
        expand_integer_networks(proto)
        expand_code_maps(proto)
        onnx.save(proto, str(before))
        maps = add_code_maps(proto)
        onnx.save(proto, str(tables))
        threads = arguments.threads
        ways = {FIRST: on_onnxruntime(before, feed, threads, library=False)}
        if maps:
            ways["tables alone"] = on_onnxruntime(tables, feed, threads, library=True)
        ways["our library"] = on_onnxruntime(arguments.file, feed, threads, library=True)
        ways["bodies"] = on_onnxruntime(arguments.file, feed, threads, library=False)
        if arguments.float:
            ways["float"] = on_onnxruntime(arguments.float, feed, threads, library=False)
        if arguments.openvino:
            ways["OpenVINO"] = on_openvino(before, feed, threads)
        outputs = {name: way.run() for name, way in ways.items()}
        clock = time.process_time if threads == 1 else time.perf_counter
        spent = times({name: way.run for name, way in ways.items()}, arguments.runs, clock)
        loads = times({name: way.load for name, way in ways.items() if way.load}, arguments.loads, time.process_time)
    print(f"{arguments.file.name}: {networks} networks, {maps} tables without them; onnxruntime {ort.__version__}, "
          f"{threads} thread(s), {native.isas()[-1] if not arguments.isa else arguments.isa}")  # fmt: skip
    for name, values in spent.items():
        speed = median(a / b for a, b in zip(spent[FIRST], values, strict=True))
        line = f"{name:22s}{1e3 * median(values):8.2f} ms, {speed:5.2f} times as fast"
        if name in loads:
            ratio = median(b / a for a, b in zip(loads[FIRST], loads[name], strict=True))
            line += f"; loads in {1e3 * median(loads[name]):5.0f} ms, {ratio:.2f} of the time"
        if name not in ("float", "OpenVINO"):
            is_same = all(np.array_equal(a, b) for a, b in zip(outputs[name], outputs[FIRST], strict=True))
            line += f"; outputs {'the same' if is_same else 'DIFFER'}"
        print(line)


if __name__ == "__main__":
    main()
