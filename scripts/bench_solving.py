"""Memory of GPTQ on a decoder: layer by layer, and with the whole float model in sessions.

Quantizes a made-up decoder of unequal layers, or a decoder folder of floats, in a process of its own, and prints its peak of
anonymous memory (mapped files do not count), the most that its files between stages take, and the time. ``whole`` runs all
of the float model once for each group of weights whose matrices fit in memory, with nothing in files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import onnxquant
from onnxquant import language, runtime
from onnxquant.calibration import gram_matrices
from onnxquant.calibration.stages import StagedModel
from onnxquant.report.units import size

MODES = ("staged", "whole")
WIDTH, HEADS, VOCABULARY = 2048, 16, 8192
# Widths of the layers' feed-forward parts.
WIDTHS = (2048, 5632, 1024, 4096)
MICROSOFT = "com.microsoft"


class WholeModel(StagedModel):
    """A model whose every stage runs all of it."""

    def run(self, number: int, see: Callable[[int, Mapping[str, Any]], None]) -> None:
        """Run all of the model, and show the goals of a stage."""
        goals = list(self._stages[number].goals)
        shown = {o.name for o in self._document.proto.graph.output}
        with runtime.session_of(self._document, [n for n in goals if n not in shown], threads=self._threads) as session:
            for sample, feed in zip(range(self._count), self._feeds, strict=False):
                see(sample, {**feed, **runtime.run(session, feed, goals)})


@dataclass
class WeightFile:
    """A file of random float32 weights, and the tensors that refer to it."""

    path: Path
    tensors: list[onnx.TensorProto]

    def add(self, name: str, *shape: int) -> None:
        """Draw a weight."""
        draws = np.random.default_rng(len(self.tensors)).standard_normal(shape, np.float32) / np.float32(shape[0] ** 0.5)
        offset = self.path.stat().st_size if self.path.exists() else 0
        with self.path.open("ab") as file:
            file.write(draws.tobytes())
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.path.name), ("offset", offset), ("length", draws.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)


def make_decoder(folder: Path, widths: tuple[int, ...]) -> Path:
    """A decoder of layers whose feed-forward parts have these widths."""
    file = WeightFile(folder / "weights.bin", [])
    file.add("embed", VOCABULARY, WIDTH)
    nodes = [helper.make_node("Gather", ["embed", "input_ids"], ["x0"])]
    for layer, width in enumerate(widths):
        nodes += _layer(file, layer, width)
    file.add("head", WIDTH, VOCABULARY)
    nodes.append(helper.make_node("MatMul", [f"x{len(widths)}", "head"], ["logits"]))
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", VOCABULARY])]
    norm = helper.make_tensor("ones", TensorProto.FLOAT, [WIDTH], np.ones(WIDTH, np.float32))
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, [*file.tensors, norm])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def _layer(file: WeightFile, layer: int, width: int) -> Iterator[onnx.NodeProto]:
    """The nodes of a layer: attention, and a gated feed-forward part."""

    def product(x: str, name: str, rows: int, cols: int) -> onnx.NodeProto:
        file.add(f"{name}.{layer}", rows, cols)
        return helper.make_node("MatMul", [x, f"{name}.{layer}"], [f"{name}_out{layer}"])

    def named(operator: str, inputs: list[str], output: str) -> onnx.NodeProto:
        return helper.make_node(operator, [f"{i}{layer}" for i in inputs], [output])

    yield _norm(f"x{layer}", f"a{layer}")
    for name in ("q", "k", "v"):
        yield product(f"a{layer}", name, WIDTH, WIDTH)
    attention = named("MultiHeadAttention", ["q_out", "k_out", "v_out"], f"m{layer}")
    attention.domain = MICROSOFT
    attention.attribute.append(helper.make_attribute("num_heads", HEADS))
    attention.attribute.append(helper.make_attribute("unidirectional", 1))
    yield attention
    yield product(f"m{layer}", "o", WIDTH, WIDTH)
    yield named("Add", ["x", "o_out"], f"y{layer}")
    yield _norm(f"y{layer}", f"b{layer}")
    for name in ("gate", "up"):
        yield product(f"b{layer}", name, WIDTH, width)
    yield named("Sigmoid", ["gate_out"], f"s{layer}")
    yield named("Mul", ["gate_out", "s"], f"g{layer}")
    yield named("Mul", ["g", "up_out"], f"h{layer}")
    yield product(f"h{layer}", "down", width, WIDTH)
    yield named("Add", ["y", "down_out"], f"x{layer + 1}")


def _norm(x: str, y: str) -> onnx.NodeProto:
    return helper.make_node("SimplifiedLayerNormalization", [x, "ones"], [y], axis=-1)


def solve(source: str, output: str, mode: str, options: dict[str, Any]) -> None:
    """Quantize, and print the time as JSON; runs in a process of its own."""
    if mode == "whole":
        vars(gram_matrices)["StagedModel"] = WholeModel
    if "data" not in options:
        draws = np.random.default_rng(0).integers(0, VOCABULARY, (options.pop("texts"), options.pop("tokens")))
        options["data"] = {"input_ids": draws}
    begin = time.perf_counter()
    quantize = language.quantize if Path(source).is_dir() else onnxquant.quantize
    quantize(source, output, solver="gptq", threads=1, **options)
    print(json.dumps({"seconds": time.perf_counter() - begin}))


@dataclass(frozen=True)
class Peaks:
    """Largest anonymous memory of a process, and largest bytes of files in a folder."""

    memory: int
    files: int


def watch(process: subprocess.Popen[str], folder: Path) -> Peaks:
    """Peaks of a process, sampled every 20 ms until it ends."""
    memory = files = 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            files = max(files, sum(f.stat().st_size for f in folder.glob("**/stage-*/*.npy")))
        except OSError:
            continue
        memory = max([memory, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))])
        time.sleep(0.02)
    return Peaks(memory, files)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="a decoder folder of float32 [default: a made-up decoder]")
    parser.add_argument("--data", help="samples for a folder: a file of texts")
    parser.add_argument("--texts", type=int, default=16, help="samples")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each of the made-up decoder's samples")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the made-up decoder's layers")
    parser.add_argument("--format", default="int4")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--solve", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.solve:
        source, output, mode, text = arguments.solve
        solve(source, output, mode, json.loads(text))
        return
    with tempfile.TemporaryDirectory() as place:
        model = arguments.folder or str(make_decoder(Path(place), tuple(arguments.widths)))
        options: dict[str, Any] = {"format": arguments.format, "proof": False, "calibration_samples": arguments.texts}
        options |= {"data": arguments.data} if arguments.data else {"texts": arguments.texts, "tokens": arguments.tokens}
        for mode in arguments.modes:
            work, output_path = Path(place, f"work-{mode}"), Path(place, f"out-{mode}")
            output_path = output_path if arguments.folder else output_path.with_suffix(".onnx")
            settings = {**options, "work": str(work)}
            command = [sys.executable, __file__, "--solve", model, str(output_path), mode, json.dumps(settings)]
            with (Path(place) / "stdout").open("w+") as out:
                process = subprocess.Popen(command, stdout=out, text=True)
                peaks = watch(process, work)
                out.seek(0)
                printed = out.read()
            if process.wait():
                sys.exit("the run failed")
            result = json.loads(printed)
            print(
                f"{mode}: peak anonymous memory {size(peaks.memory)}, files between stages {size(peaks.files)}, "
                f"{result['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
