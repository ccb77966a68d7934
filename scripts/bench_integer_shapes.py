"""Convolutions on our kernels beside QLinearConv of onnxruntime on one thread, and how near the peak they are.

    cmake -S custom_ops -B build -DONNXQUANT_TESTS=ON && cmake --build build
    python scripts/bench_integer_shapes.py build/network_bench [--isa avx512vnni] [--peak 343]

Ours are timed by network_bench, those of onnxruntime by its own profile, without what moves channels before and after:
the least time of many calls each. The table is in Markdown.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

# 10^9 multiplications in a second: those of a cycle at 2.68 GHz, which the table's machine has.
PEAKS = {"amx": 1024 * 2.68, "avx512vnni": 128 * 2.68, "avxvnni": 64 * 2.68}
_LINE = re.compile(
    r"table(?P<depthwise> depthwise)? (?P<height>\d+)x(?P<width>\d+)x(?P<channels>\d+) -> (?P<outputs>\d+), "
    r"(?P<kernel>\d+)x\d+, stride (?P<stride>\d+) +(?P<time>[\d.]+) us"
)
CALLS = 60


@dataclass(frozen=True)
class Shape:
    """A convolution, and the microseconds that ours takes.

    Attributes:
        depthwise: whether each output reads one channel.
        height: height of its image.
        width: width of its image.
        channels: channels that it reads.
        outputs: channels that it computes.
        kernel: height and width of its window.
        stride: steps of its window.
        time: microseconds on our kernels.
    """

    depthwise: bool
    height: int
    width: int
    channels: int
    outputs: int
    kernel: int
    stride: int
    time: float

    @property
    def name(self) -> str:
        """The shape in words."""
        kind = "depthwise " if self.depthwise else ""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        ends = f"{self.height} x {self.width} x {self.channels} -> {self.outputs}"
        return f"{kind}{self.kernel} x {self.kernel}{stride}, {ends}"

    @property
    def products(self) -> float:
        """Multiplications."""
        pixels = ((self.height - 1) // self.stride + 1) * ((self.width - 1) // self.stride + 1)
        return pixels * self.outputs * self.kernel**2 * (1 if self.depthwise else self.channels)


def ours(bench: Path, isa: str) -> tuple[str, list[Shape]]:
    """The instruction set and the shapes that network_bench timed."""
    text = subprocess.run([bench, isa, "table"], capture_output=True, text=True, check=True).stdout
    shapes = []
    for match in _LINE.finditer(text):
        numbers = {name: int(match[name]) for name in ("height", "width", "channels", "outputs", "kernel", "stride")}
        shapes.append(Shape(depthwise=match["depthwise"] is not None, time=float(match["time"]), **numbers))
    return text.splitlines()[0], shapes


def model_of(shape: Shape) -> onnx.ModelProto:
    """A model of one QLinearConv."""
    random = np.random.default_rng(0)
    per_output = 1 if shape.depthwise else shape.channels
    weight = random.integers(-30, 31, (shape.outputs, per_output, shape.kernel, shape.kernel)).astype(np.int8)
    constants = {
        "weight": weight,
        "scale": np.float32(1),
        "scales": np.full(shape.outputs, 0.0013, np.float32),
        "zero": np.uint8(0),
        "zeros": np.zeros(shape.outputs, np.int8),
        "bias": np.zeros(shape.outputs, np.int32),
    }
    inputs = ["x", "scale", "zero", "weight", "scales", "zeros", "scale", "zero", "bias"]
    pad = (shape.kernel - 1) // 2
    node = helper.make_node(
        "QLinearConv", inputs, ["y"], kernel_shape=[shape.kernel] * 2, pads=[pad] * 4, strides=[shape.stride] * 2,
        group=shape.outputs if shape.depthwise else 1,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, shape.channels, shape.height, shape.width])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [None] * 4)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def theirs(shape: Shape, folder: Path) -> float:
    """Microseconds of onnxruntime's kernel."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(model_of(shape).SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).integers(0, 256, (1, shape.channels, shape.height, shape.width)).astype(np.uint8)
    for _ in range(CALLS):
        session.run(None, {"x": x})
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = (event for event in events if event["name"].endswith("_kernel_time"))
    return float(min(event["dur"] for event in kernels if event["args"]["op_name"] == "QLinearConv"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bench", type=Path, help="network_bench, as it was built")
    parser.add_argument("--isa", default="", help="instruction set of our kernels; the best one by default")
    parser.add_argument("--peak", type=float, help="10^9 multiplications in a second that the instruction set has at most")
    arguments = parser.parse_args()
    isa, shapes = ours(arguments.bench, arguments.isa)
    peak = arguments.peak or PEAKS[isa]
    print(f"| convolution ({isa}, peak {peak:.0f}) | GMAC/s | of the peak | onnxruntime, GMAC/s | times as fast |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for shape in shapes:
            speed, other = shape.products / shape.time / 1e3, shape.products / theirs(shape, Path(folder)) / 1e3
            print(f"| {shape.name} | {speed:.0f} | {speed / peak:.0%} | {other:.0f} | {speed / other:.1f} |")


if __name__ == "__main__":
    main()
