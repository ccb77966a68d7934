"""Convert a model larger than memory should allow: anonymous memory of the whole run, proof included.

Makes a synthetic model with external data (a sparse file: it takes little disk), converts it in a process of its own,
samples that process's anonymous memory, and prints the peak and the time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxquant
from onnxquant.report.units import size

WIDTH = 4096
LAYER_BYTES = WIDTH * WIDTH * 4
RANDOM_ROWS = 64


def make_model(folder: Path, total: int) -> Path:
    """A chain of residual MatMuls whose float32 weights take ``total`` bytes; most of the file is a hole."""
    layers = max(1, total // LAYER_BYTES)
    generator = np.random.default_rng(0)
    nodes, weights = [], []
    with (folder / "weights.bin").open("wb") as file:
        for i in range(layers):
            file.seek(i * LAYER_BYTES)
            rows = generator.standard_normal((RANDOM_ROWS, WIDTH)).astype(np.float32) * 0.02
            file.write(rows.tobytes())
            tensor = onnx.TensorProto(name=f"w{i}", data_type=onnx.TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", i * LAYER_BYTES), ("length", LAYER_BYTES)):
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            nodes.append(onnx.helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"p{i}"]))
            nodes.append(onnx.helper.make_node("Add", [f"x{i}", f"p{i}"], [f"x{i + 1}"]))
        file.truncate(layers * LAYER_BYTES)
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", WIDTH])
        for name in ("x0", f"x{layers}")
    ]
    graph = onnx.helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "large.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def convert(source: str, output: str, options: dict[str, Any]) -> None:
    """Convert and print the outcome as JSON; runs in a process of its own."""
    begin = time.perf_counter()
    report = onnxquant.quantize(source, output, force=True, **options)
    print(json.dumps({"seconds": time.perf_counter() - begin, "report": report.to_dict()}))


def watch(process: subprocess.Popen[str]) -> int:
    """Peak anonymous memory of a process, sampled every 10 ms until it ends. Mapped files do not count."""
    peak = 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))])
        time.sleep(0.01)
    return peak


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--format", default="int8")
    parser.add_argument("--target", default="auto")
    parser.add_argument("--no-proof", action="store_true")
    parser.add_argument("--convert", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.convert:
        source, output, options = arguments.convert
        convert(source, output, json.loads(options))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = str(make_model(Path(folder), int(arguments.gigabytes * 1e9)))
        options = {
            "format": arguments.format,
            "target": arguments.target,
            "samples": 1,
            "proof": not arguments.no_proof,
        }
        command = [sys.executable, __file__, "--convert", source, str(Path(folder) / "out.onnx"), json.dumps(options)]
        with (Path(folder) / "stdout").open("w+") as output:
            process = subprocess.Popen(command, stdout=output, text=True)
            peak = watch(process)
            output.seek(0)
            text = output.read()
        if process.wait():
            sys.exit("the conversion failed")
        result = json.loads(text)
        report = result["report"]
        print(
            f"{arguments.gigabytes:g} GB float32 -> {arguments.format} ({size(report['output_bytes'])}), proof "
            f"{'off' if arguments.no_proof else 'on'}, passed {report['passed']}: {result['seconds']:.1f} s, peak anonymous "
            f"memory {size(peak)}"
        )


if __name__ == "__main__":
    main()
