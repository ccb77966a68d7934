"""Text encoders with dynamic activations: our operators beside the same files on onnxruntime's own kernels.

    python scripts/bench_encoders.py dynamic.onnx [--float model.onnx] [--batches 1 8] [--tokens 64] [--threads 1 2]

The operators ``DynamicProducts`` are put back to the nodes that they stand for: that file, on onnxruntime alone, is what all
others are compared to. Tokens are drawn at random, and none is masked. Sessions are called in turn; ratios are medians of the
rounds': of processor time with one thread, else of the clock on the wall. The first rounds do not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from bench_integer_networks import FIRST, Feed, Way, on_onnxruntime, times
from numpy.typing import NDArray

from onnxquant.native import library as native
from onnxquant.targets.dynamic_products import expand_dynamic_products, is_dynamic_products


def tokens(proto: onnx.ModelProto, batch: int, length: int) -> Feed:
    """A feed of an encoder whose inputs are int64 [batch, length]: ids, a mask, and whatever else is zero."""
    random = np.random.default_rng(0)
    feed: dict[str, NDArray[Any]] = {}
    constants = {tensor.name for tensor in proto.graph.initializer}
    for name in (value.name for value in proto.graph.input if value.name not in constants):
        if "mask" in name:
            feed[name] = np.ones((batch, length), np.int64)
        elif name == "input_ids":
            feed[name] = random.integers(1000, 20000, (batch, length))
        else:
            feed[name] = np.zeros((batch, length), np.int64)
    return feed


def report(ways: Mapping[str, Way], threads: int, runs: int) -> None:
    """Print the speeds of some ways, and how far their outputs lie apart."""
    outputs = {name: way.run() for name, way in ways.items()}
    clock = time.process_time if threads == 1 else time.perf_counter
    spent = times({name: way.run for name, way in ways.items()}, runs, clock)
    for name, values in spent.items():
        speed = median(a / b for a, b in zip(spent[FIRST], values, strict=True))
        difference = max(float(np.abs(a - b).max()) for a, b in zip(outputs[name], outputs[FIRST], strict=True))
        print(f"  {name:22s}{1e3 * median(values):8.2f} ms, {speed:5.2f} times as fast; outputs differ by {difference:.2g}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--float", type=Path, help="the original, to be measured, too")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--loads", type=int, default=11)
    parser.add_argument("--isa", default="", help="no better instruction set in our library than this")
    arguments = parser.parse_args()
    native.set_isa(arguments.isa)
    proto = onnx.load(str(arguments.file))
    operators = sum(map(is_dynamic_products, proto.graph.node))
    print(f"{arguments.file.name}: {operators} operators of ours; onnxruntime {ort.__version__}, "
          f"{arguments.isa or native.isas()[-1]}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before.onnx"
        expand_dynamic_products(proto)
        onnx.save(proto, str(before))
        ways: dict[str, Way] = {}
        for threads in arguments.threads:
            for batch in arguments.batches:
                feed = tokens(proto, batch, arguments.tokens)
                ways = {
                    FIRST: on_onnxruntime(before, feed, threads, library=False),
                    "our library": on_onnxruntime(arguments.file, feed, threads, library=True),
                    "bodies": on_onnxruntime(arguments.file, feed, threads, library=False),
                }
                if arguments.float:
                    ways["float"] = on_onnxruntime(arguments.float, feed, threads, library=False)
                print(f"{batch} x {arguments.tokens} tokens, {threads} thread(s)")
                report(ways, threads, arguments.runs)
        loads = times({name: way.load for name, way in ways.items() if way.load}, arguments.loads, time.process_time)
    for name, values in loads.items():
        ratio = median(b / a for a, b in zip(loads[FIRST], values, strict=True))
        print(f"{name:22s}loads in {1e3 * median(values):5.0f} ms, {ratio:.2f} of the time")


if __name__ == "__main__":
    main()
