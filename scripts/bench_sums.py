"""A residual sum and its LayerNormalization: as onnxruntime fuses them, and kept apart (onnxquant.passes.simplify.sums).

Prints microseconds of one pair and their ratio for usual widths, sessions interleaved, medians.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import onnx
import onnxruntime as ort

SHAPES = [(16, 384), (64, 384), (256, 384), (64, 768), (256, 768), (64, 1024)]
PAIRS = 8


def model(op: str, rows: int, width: int) -> bytes:
    """A chain of pairs, each the residual sum of the last one's output and the input."""
    nodes, last = [], "x"
    for i in range(PAIRS):
        nodes.append(onnx.helper.make_node(op, [last, "x"], [f"s{i}"]))
        nodes.append(onnx.helper.make_node("LayerNormalization", [f"s{i}", "gain", "shift"], [f"n{i}"], axis=-1))
        last = f"n{i}"
    ones = [onnx.numpy_helper.from_array(np.full(width, v, np.float32), n) for n, v in (("gain", 1), ("shift", 0))]
    shown = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, rows, width]) for n in ("x", last)]
    graph = onnx.helper.make_graph(nodes, "sums", shown[:1], shown[1:], ones)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(proto.SerializeToString())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=101)
    arguments = parser.parse_args()
    print(f"onnxruntime {ort.__version__}, {arguments.threads} thread(s); microseconds of one pair")
    print("rows x width".ljust(14) + "fused".rjust(10) + "apart".rjust(10) + "ratio".rjust(8))
    options = ort.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    for rows, width in SHAPES:
        sessions = {op: ort.InferenceSession(model(op, rows, width), options) for op in ("Add", "Sum")}
        x = np.random.default_rng(1).standard_normal((1, rows, width)).astype(np.float32)
        times: dict[str, list[float]] = {op: [] for op in sessions}
        for _ in range(arguments.runs):
            for op, session in sessions.items():
                begin = time.perf_counter()
                session.run(None, {"x": x})
                times[op].append(1e6 * (time.perf_counter() - begin) / PAIRS)
        fused, apart = median(times["Add"]), median(times["Sum"])
        print(f"{rows} x {width}".ljust(14) + f"{fused:10.1f}{apart:10.1f}{fused / apart:8.2f}", flush=True)


if __name__ == "__main__":
    main()
