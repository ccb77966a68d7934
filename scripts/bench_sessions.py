"""Time and memory of opening a session on a gigabyte of our planes, beside mapping the same bytes.

Writes one model of MatMul operators in target custom whose planes take about a gigabyte, and a second one with the same
initializers read by operators that do nothing with them: what onnxruntime needs to map them. Sessions are opened in
processes of their own, in turns; then a few products are touched, and two processes hold the model at once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console

import onnxquant
from onnxquant.native import library as native
from onnxquant.report.terminal import table
from onnxquant.report.units import size

WIDTH = 4096


def make_models(folder: Path, form: str, total: int) -> tuple[Path, Path]:
    """The model of products, and the one that only maps the same file."""
    source = folder / "one.onnx"
    generator = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(generator.standard_normal((WIDTH, WIDTH), dtype=np.float32), "w")
    value = onnx.helper.make_tensor_value_info
    ends = value("x", 1, ["b", WIDTH]), value("y", 1, ["b", WIDTH])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [ends[0]], [ends[1]], [weight]
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    source.write_bytes(proto.SerializeToString())
    one = folder / "encoded.onnx"
    onnxquant.quantize(source, one, format=form, target="custom", proof=False, external_data="always")
    model = onnx.load(one, load_external_data=False)
    layer = one.with_name(one.name + ".data").read_bytes()
    stride = -(-len(layer) // 4096) * 4096
    count = max(1, total // stride)
    with (folder / "planes.bin").open("wb") as file:
        for i in range(count):
            file.seek(i * stride)
            file.write(layer)
    (node,) = [n for n in model.graph.node if n.domain == "onnxquant"]
    planes = {t.name: t for t in model.graph.initializer}
    products, sizes, tensors = [], [], []
    for i in range(count):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"product{i}"
        names = [f"{n}.{i}" if n in planes else n for n in node.input]
        copy.input[:] = ["x" if i == 0 else f"y{i - 1}", *names[1:]]
        copy.output[:] = [f"y{i}"]
        products.append(copy)
        for name in list(node.input)[1:]:
            tensor = onnx.TensorProto(name=f"{name}.{i}", data_type=planes[name].data_type, dims=planes[name].dims)
            old = {e.key: e.value for e in planes[name].external_data}
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, text in (
                ("location", "planes.bin"),
                ("offset", int(old["offset"]) + i * stride),
                ("length", old["length"]),
            ):
                tensor.external_data.add(key=key, value=str(text))
            tensors.append(tensor)
            sizes.append(onnx.helper.make_node("Shape", [tensor.name], [f"{tensor.name}/shape"]))
    outputs = [value(f"y{count - 1}", 1, ["b", WIDTH])]
    ours, plain = folder / "ours.onnx", folder / "plain.onnx"
    for path, nodes, graph_outputs in (
        (ours, products, outputs),
        (plain, sizes, [value(n.output[0], onnx.TensorProto.INT64, None) for n in sizes]),
    ):
        graph = onnx.helper.make_graph(nodes, "g", [ends[0]], graph_outputs, tensors)
        imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("onnxquant", 1)]
        built = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
        path.write_bytes(built.SerializeToString())
    return ours, plain


def resident() -> dict[str, int]:
    """Bytes of resident memory of this process by kind; ``shared`` is what others map too."""
    rollup = {k: int(v.split()[0]) * 1024 for k, _, v in (
        line.partition(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    )}  # fmt: skip
    status = {k: v for k, _, v in (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())}
    return {
        "anonymous": int(status["RssAnon"].split()[0]) * 1024,
        "file": int(status["RssFile"].split()[0]) * 1024,
        "pss": rollup["Pss"],
    }


def open_one(path: str, *, run: bool, hold: bool) -> None:
    """Open a session, perhaps run it, and print the figures; with ``hold`` wait for a line on stdin then."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(native.library_path()))
    options.log_severity_level = 3
    # Both models alike: constant folding would read the planes of the one that only maps them.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    before = resident()
    begin = time.perf_counter()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - begin
    opened = resident()
    if run:
        session.run(None, {"x": np.ones((1, WIDTH), np.float32)})
    ran = resident()
    grown = {k: opened[k] - before[k] for k in before}
    print(json.dumps({"seconds": seconds, "opened": grown, "ran": {k: ran[k] - before[k] for k in before}}), flush=True)
    if hold:
        sys.stdin.readline()
        print(json.dumps(resident()), flush=True)
        sys.stdin.readline()


def in_process(path: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--open", str(path), *flags]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def tell(process: subprocess.Popen[str]) -> str:
    """The line with which a waiting process answers."""
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def figures(path: Path, *flags: str) -> dict[str, object]:
    """Measurements of one process of its own."""
    process = in_process(path, *flags)
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{path}: the session failed")
    measurements: dict[str, object] = json.loads(out.splitlines()[-1])
    return measurements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", default="q4_0")
    parser.add_argument("--bytes", type=int, default=10**9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open", help=argparse.SUPPRESS)
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        open_one(options.open, run=options.run, hold=options.hold)
        return
    with tempfile.TemporaryDirectory(prefix="onnxquant-bench-") as folder:
        ours, plain = make_models(Path(folder), options.format, options.bytes)
        runs: dict[Path, list[dict[str, object]]] = {ours: [], plain: []}
        for _ in range(options.rounds):
            for path in runs:
                runs[path].append(figures(path))
        ran = figures(ours, "--run")
        pair = [in_process(ours, "--run", "--hold") for _ in range(2)]
        lines = [p.stdout.readline() for p in pair if p.stdout]
        alone = json.loads(lines[0])["ran"]
        held = [json.loads(tell(process)) for process in pair]
        for process in pair:
            process.communicate("\n")
        show(runs, ran, held, (Path(folder) / "planes.bin").stat().st_size, alone)


def show(
    runs: dict[Path, list[dict[str, object]]],
    ran: dict[str, object],
    held: list[dict[str, int]],
    planes: int,
    alone: dict[str, int],
) -> None:
    """Print what was found."""
    out = table(f"{size(planes)} of planes, medians; onnxruntime {ort.__version__}, {os.cpu_count()} CPUs",
                "model", ">ms to open", ">anonymous", ">file pages")  # fmt: skip
    for path, measurements in runs.items():
        memory = [f["opened"] for f in measurements]
        assert all(isinstance(m, dict) for m in memory)
        kinds = [statistics.median(m[k] for m in memory if isinstance(m, dict)) for k in ("anonymous", "file")]
        seconds = statistics.median(float(str(f["seconds"])) for f in measurements)
        out.add_row(
            "our operators" if path.name == "ours.onnx" else "only mapped", f"{1e3 * seconds:.0f}", *map(size, kinds)
        )
    touched = ran["ran"]
    assert isinstance(touched, dict)
    out.add_row("our operators, after a run of all", "", size(touched["anonymous"]), size(touched["file"]))
    console = Console()
    console.print(out)
    console.print(
        f"Two processes that ran it: proportional share {', '.join(size(h['pss']) for h in held)} each, of which file pages "
        f"{size(alone['file'])} are mapped by both."
    )


if __name__ == "__main__":
    main()
