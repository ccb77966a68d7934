"""Files that every release is given: each format on each target that holds it, in four models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnxquant
from onnxquant.targets import AUTO

EMBEDDED = Path(__file__).resolve().parents[2] / "models" / "default.onnx"
DIGITS = "digits"


@dataclass(frozen=True)
class Case:
    """One file on one kind of session.

    Attributes:
        model: which of the four.
        name: format and target.
        path, original: the quantized file and the float one.
        feed: file of the input's bytes.
        input: the input's name, type and shape.
        library: whether our library is registered.
    """

    model: str
    name: str
    path: Path
    original: Path
    feed: Path
    input: dict[str, Any]
    library: bool = False

    @property
    def key(self) -> str:
        """Unique among cases."""
        return f"{self.model} {self.name}{' library' if self.library else ''}"

    def spec(self) -> dict[str, Any]:
        """Plain data for the other environment."""
        paths = {name: str(getattr(self, name)) for name in ("path", "original", "feed")}
        return {"key": self.key, "input": self.input, "library": self.library, **paths}


@dataclass(frozen=True)
class _Source:
    """A float model with its input, and the targets that are asked to hold it."""

    name: str
    path: Path
    feed: NDArray[Any]
    targets: list[str] = field(default_factory=onnxquant.targets.weight_targets)


def _one_op(path: Path, node: onnx.NodeProto, weight: NDArray[Any], feed: NDArray[Any]) -> None:
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(feed.dtype), feed.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], path.stem, [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def sources(folder: Path) -> list[_Source]:
    """The embedded model, a product of one row, a lookup and a convolution."""
    random = np.random.default_rng(0)
    images = random.random((16, 1, 28, 28), dtype=np.float32)
    sources = [_Source(DIGITS, EMBEDDED, images, [AUTO, *onnxquant.targets.weight_targets()])]
    rows = random.integers(0, 1024, (1, 512))
    for name, op, inputs, shape, feed in (
        ("product", "MatMul", ["x", "w"], (1024, 1024), random.standard_normal((1, 1, 1024), dtype=np.float32)),
        ("lookup", "Gather", ["w", "x"], (1024, 256), rows),
        (
            "convolution",
            "Conv",
            ["x", "w"],
            (64, 256, 3, 3),
            random.standard_normal((1, 256, 14, 14), dtype=np.float32),
        ),
    ):
        weight = random.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
        path = folder / f"{name}.onnx"
        _one_op(path, helper.make_node(op, inputs, ["y"], name=name), weight, feed)
        sources.append(_Source(name, path, feed))
    return sources


def cases(folder: Path) -> Iterator[Case]:
    """Write every file that a target does not refuse; those of our operators also run on our library."""
    for source in sources(folder):
        feed = folder / f"{source.name}.bin"
        feed.write_bytes(source.feed.tobytes())
        (name,) = (i.name for i in onnx.load(source.path).graph.input)
        about = {"name": name, "type": source.feed.dtype.name, "shape": list(source.feed.shape)}
        for form in onnxquant.formats.formats():
            for target in source.targets:
                path = folder / f"{source.name}.{form.name}.{target}.onnx"
                if not _quantized(source.path, path, {"format": form.name, "target": target}):
                    continue
                case = Case(source.name, f"{form.name} {target}", path, source.path, feed, about)
                yield case
                if target == "custom" and source.name in ("product", "lookup"):
                    yield Case(**{**vars(case), "library": True})
        if source.name == DIGITS:
            with np.load(EMBEDDED.with_name("default_test.npz")) as archive:
                data = [{"image": c[None, None] / np.float32(255)} for c in archive["calibration"][:32]]
            for kind in ("static", "dynamic"):
                path = folder / f"{source.name}.{kind}.onnx"
                _quantized(source.path, path, {"format": "int8", "activations": kind, "data": data})
                yield Case(source.name, f"int8, {kind} activations", path, source.path, feed, about)


def _quantized(source: Path, path: Path, options: dict[str, Any]) -> bool:
    try:
        onnxquant.quantize(source, path, proof=False, **options)
    except onnxquant.ModelError:
        return False
    return True


def make_operators(path: Path) -> None:
    """A product and a lookup of one weight, with nothing but our operators."""
    random = np.random.default_rng(0)
    planes = {
        "codes": random.integers(0, 256, (3, 16, 16, 4), np.uint8),
        "scales": random.random((3, 4, 16), np.float32).astype(np.float16),
    }
    sizes: dict[str, Any] = {"domain": "onnxquant", "N": 33, "K": 100, "block_size": 32}
    nodes = [
        helper.make_node("MatMulQ4_0", ["X", *planes], ["Y"], **sizes),
        helper.make_node("GatherQ4_0", [*planes, "indices"], ["rows"], **sizes),
    ]
    inputs = [
        helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", 100]),
        helper.make_tensor_value_info("indices", TensorProto.INT64, ["count"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("Y", "rows")]
    initializers = [numpy_helper.from_array(plane, name) for name, plane in planes.items()]
    graph = helper.make_graph(nodes, "operators", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("onnxquant", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
