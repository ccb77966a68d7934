"""Size of a weight from which a block-wise kernel is faster than float: the figure behind plan.FOLD_BELOW.

Prints the time of MatMulNBits (8 and 4 bits, block 32, accuracy level 4) over float MatMul for growing weights and
batches, runs interleaved, medians.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

SHAPES = [(64, 64), (128, 128), (256, 64), (256, 256), (3136, 64), (384, 384), (512, 512), (768, 768)]
BATCHES = [1, 4, 16, 64, 256]
COPIES = 4


def model(kind: str, k: int, n: int) -> bytes:
    """Several independent products of one X, in float or with ``kind`` bits."""
    generator = np.random.default_rng(0)
    nodes, weights, outputs = [], [], []
    for i in range(COPIES):
        if kind == "float":
            weights.append(onnx.numpy_helper.from_array(generator.standard_normal((k, n)).astype(np.float32), f"w{i}"))
            nodes.append(onnx.helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]))
        else:
            bits, blocks = int(kind), -(-k // 32)
            codes = generator.integers(0, 256, (n, blocks, 4 * bits), dtype=np.uint8)
            scales = generator.random((n, blocks)).astype(np.float32)
            weights += [onnx.numpy_helper.from_array(codes, f"b{i}"), onnx.numpy_helper.from_array(scales, f"s{i}")]
            attributes: dict[str, Any] = {"K": k, "N": n, "bits": bits, "block_size": 32, "accuracy_level": 4}
            nodes.append(
                onnx.helper.make_node(
                    "MatMulNBits", ["x", f"b{i}", f"s{i}"], [f"y{i}"], domain="com.microsoft", **attributes
                )
            )
        outputs.append(onnx.helper.make_tensor_value_info(f"y{i}", onnx.TensorProto.FLOAT, None))
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["m", k])
    graph = onnx.helper.make_graph(nodes, "products", [x], outputs, weights)
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    proto: bytes = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    return proto


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=31)
    arguments = parser.parse_args()
    print(f"onnxruntime {ort.__version__}, {arguments.threads} thread(s); time over float's, 8 bits / 4 bits")
    print("K x N".ljust(12) + "".join(f"M={m}".rjust(14) for m in BATCHES))
    for k, n in SHAPES:
        options = ort.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        sessions = {kind: ort.InferenceSession(model(kind, k, n), options) for kind in ("float", "8", "4")}
        cells = []
        for m in BATCHES:
            x = np.random.default_rng(1).standard_normal((m, k)).astype(np.float32)
            times: dict[str, list[float]] = {kind: [] for kind in sessions}
            for _ in range(arguments.runs):
                for kind, session in sessions.items():
                    begin = time.perf_counter()
                    session.run(None, {"x": x})
                    times[kind].append(time.perf_counter() - begin)
            base = median(times["float"])
            cells.append(f"{median(times['8']) / base:.2f} / {median(times['4']) / base:.2f}")
        print(f"{k} x {n}".ljust(12) + "".join(c.rjust(14) for c in cells), flush=True)


if __name__ == "__main__":
    main()
