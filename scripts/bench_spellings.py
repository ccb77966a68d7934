"""Speed in float of models as exported, and with activation functions spelt anew (onnxquant.passes.prepare.spellings).

    python scripts/bench_spellings.py model.onnx [--shape x=1,3,48,320]

Without a model: one function at a time, on a tensor of 64 x 3072, as exporters write it and as the pass does. Sessions are
called in turn; times are medians of processor time.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime as ort

from onnxquant.graph.io import load
from onnxquant.graph.traverse import tensors
from onnxquant.passes.base import Pass
from onnxquant.passes.pipeline import run
from onnxquant.passes.prepare.initializers import ConstantsToInitializers
from onnxquant.passes.prepare.spellings import SpellActivations
from onnxquant.passes.simplify.batch_norm import FoldBatchNorms

CONSTANTS = {
    "half": 0.5, "one": 1.0, "three": 3.0, "six": 6.0, "zero": 0.0, "root": math.sqrt(2), "cubic": 0.044715,
    "scale": math.sqrt(2 / math.pi),
}  # fmt: skip
# Nodes of one function, each as its output, its operator and its inputs.
FUNCTIONS = {
    "GELU": "a Div x root, b Erf a, c Add b one, d Mul half c, y Mul x d",
    "GELU by tanh": "p Pow x three, q Mul cubic p, r Add x q, s Mul scale r, t Tanh s, u Add t one, v Mul x u, y Mul half v",
    "hard swish": "a Add x three, b Clip a zero six, c Mul x b, y Div c six",
    "hard sigmoid": "a Add x three, b Clip a zero six, y Div b six",
}
TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32"}
ROWS, WIDTH, REPEATS = 64, 3072, 4


def chain(words: str) -> onnx.ModelProto:
    """A function applied several times, with a Neg between so that nothing is joined across."""
    nodes: list[onnx.NodeProto] = []
    for i in range(REPEATS):
        names = {"x": f"x{i}", **{name: name for name in CONSTANTS}}
        nodes.append(onnx.helper.make_node("Neg", [f"y{i - 1}" if i else "input"], [f"x{i}"]))
        for line in words.split(", "):
            output, op, *inputs = line.split(" ")
            nodes.append(onnx.helper.make_node(op, [names.get(n, f"{n}{i}") for n in inputs], [f"{output}{i}"]))
    read = {name for node in nodes for name in node.input}
    constants = [onnx.numpy_helper.from_array(np.array(v, np.float32), n) for n, v in CONSTANTS.items() if n in read]
    shown = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [ROWS, WIDTH])
        for n in ("input", f"y{REPEATS - 1}")
    ]
    graph = onnx.helper.make_graph(nodes, "functions", shown[:1], shown[1:], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def compare(
    title: str, source: Path | onnx.ModelProto, shapes: Mapping[str, list[int]], runs: int, others: Sequence[Pass] = ()
) -> None:
    """Print a line: milliseconds before and after, their ratio and the largest difference of the outputs."""
    document = load(source)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    before = ort.InferenceSession(source if isinstance(source, Path) else source.SerializeToString(), options)
    notes = run(document, [ConstantsToInitializers(), SpellActivations(), *others])
    for tensor in tensors(document.proto):
        document.inline(tensor)
    after = ort.InferenceSession(document.proto.SerializeToString(), options)
    generator = np.random.default_rng(0)
    feed = {}
    for i in before.get_inputs():
        sizes = shapes.get(i.name) or [d if isinstance(d, int) else 64 if axis else 1 for axis, d in enumerate(i.shape)]
        dtype = np.dtype(TYPES[i.type])
        values = generator.standard_normal(sizes) if dtype.kind == "f" else np.ones(sizes)
        feed[i.name] = values.astype(dtype)
    outputs = [session.run(None, feed) for session in (before, after)]
    error = max(float(np.abs(a - b).max()) for a, b in zip(*outputs, strict=True))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for session, took in zip((before, after), times, strict=True):
            begin = time.process_time()
            session.run(None, feed)
            took.append(1e3 * (time.process_time() - begin))
    first, second = map(median, times)
    print(f"{title:20}{first:10.2f}{second:10.2f}{first / second:8.2f}x  {error:.0e}  {'; '.join(notes)}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=D,D,...")
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--fold", action="store_true", help="fold scales and shifts into convolutions, too")
    arguments = parser.parse_args()
    shapes = {name: [int(d) for d in sizes.split(",")] for name, sizes in (s.split("=") for s in arguments.shape)}
    print(f"onnxruntime {ort.__version__}, one thread; milliseconds as exported and anew, ratio, largest difference")
    for path in arguments.models:
        compare(path.parent.name, path, shapes, arguments.runs, [FoldBatchNorms()] if arguments.fold else [])
    for name, words in FUNCTIONS.items() if not arguments.models else ():
        compare(name, chain(words), {}, arguments.runs)


if __name__ == "__main__":
    main()
