"""Files that every client is given: formats on targets, and integer activations, in four small models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnxquant

FORMATS = ("f16", "int8", "q8_0", "int4", "q4_0", "q4_k", "nf4", "q5_0", "int2")
TARGETS = ("onnx", "ort", "custom")
WIDTH, TOKENS = 256, 8
# Axes of images.
IMAGE = 4
# The beginnings of what is said before a file is written that a client runs slower than float.
SAID = ("slower than float", "may be slower than float")
_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.BOOL: "bool",
}


@dataclass(frozen=True)
class Input:
    """An input of a model: name, element type and shape."""

    name: str
    type: str
    shape: list[int]

    def array(self) -> NDArray[Any]:
        """The values that every client is given; runners of other languages make the same ones."""
        places = np.arange(int(np.prod(self.shape)))
        values = np.sin(places) if self.type == "float32" else places % 2
        return values.astype(self.type).reshape(self.shape)


@dataclass(frozen=True)
class File:
    """A file to run.

    Attributes:
        model: the model that it is made of.
        way: format and target, or kind of activations.
        path: the file.
        inputs: inputs of the model.
        original: the model that the file's speed is compared to; None: its speed is not asked for.
        is_said_slow: whether it was said before the file was written that the client runs it slower than float.
        is_twin: whether it computes what its original computes; loading and outputs are compared, too.
    """

    model: str
    way: str
    path: str
    inputs: tuple[Input, ...]
    original: str | None = None
    is_said_slow: bool = False
    is_twin: bool = False

    @property
    def key(self) -> str:
        """Unique among files."""
        return f"{self.model}: {self.way}"

    def spec(self) -> dict[str, Any]:
        """Data for runners."""
        return {"key": self.key, **asdict(self)}


def inputs_of(path: Path) -> tuple[Input, ...]:
    """The inputs of a model; lengths that it leaves open are 1 for the first axis, and a few for others."""
    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = []
    for value in graph.input:
        kind = value.type.tensor_type
        length = (8 if len(kind.shape.dim) == IMAGE else 4) * TOKENS
        shape = [axis.dim_value or (1 if i == 0 else length) for i, axis in enumerate(kind.shape.dim)]
        inputs += [] if value.name in constants else [Input(value.name, _TYPES[kind.elem_type], shape)]
    return tuple(inputs)


def models(folder: Path) -> dict[str, Path]:
    """A lookup, a product, a convolution, and an encoder of all that a small transformer has."""
    random = np.random.default_rng(0)

    def weight(*shape: int) -> NDArray[np.float32]:
        return np.asarray(random.standard_normal(shape) / np.sqrt(WIDTH), np.float32)

    node = helper.make_node
    inner = [node("MatMul", [x, f"w_{y}"], [y]) for x, y in (("x", "q"), ("x", "k"), ("x", "v"))]
    attention = [
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]), node("MatMul", ["q", "kt"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1), node("MatMul", ["p", "v"], ["a"]),
        node("MatMul", ["a", "w_o"], ["o"]), node("Add", ["x", "o"], ["r"]),
        node("LayerNormalization", ["r", "g", "b"], ["l"]), node("MatMul", ["l", "w_u"], ["u"]), node("Relu", ["u"], ["ur"]),
        node("MatMul", ["ur", "w_d"], ["d"]), node("Add", ["l", "d"], ["y"]),
    ]  # fmt: skip
    square = {f"w_{n}": weight(WIDTH, WIDTH) for n in "qkvo"}
    wide = {
        "w_u": weight(WIDTH, 2 * WIDTH),
        "w_d": weight(2 * WIDTH, WIDTH),
        "g": np.ones(WIDTH, np.float32),
        "b": np.zeros(WIDTH, np.float32),
    }
    table = {"table": weight(4 * WIDTH, WIDTH)}
    floats, ids = [1, TOKENS, WIDTH], [1, TOKENS]
    graphs: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], int, list[int]]] = {
        "lookup": ([node("Gather", ["table", "ids"], ["y"])], table, TensorProto.INT64, ids),
        "product": ([node("MatMul", ["ids", "w"], ["y"])], {"w": weight(WIDTH, 2 * WIDTH)}, TensorProto.FLOAT, floats),
        "convolution": (
            [node("Conv", ["ids", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("Conv", ["r", "w2"], ["y"])],
            {"w": weight(64, 64, 3, 3), "w2": weight(64, 64, 3, 3)}, TensorProto.FLOAT, [1, 64, 12, 12],
        ),
        "encoder": (
            [node("Gather", ["table", "ids"], ["x"]), *inner, *attention], {**table, **square, **wide}, TensorProto.INT64,
            ids,
        ),
    }  # fmt: skip
    paths = {}
    for name, (nodes, constants, kind, shape) in graphs.items():
        graph = helper.make_graph(
            nodes, name, [helper.make_tensor_value_info("ids", kind, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(values, constant) for constant, values in constants.items()],
        )  # fmt: skip
        paths[name] = folder / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(paths[name]))
    return paths


def narrow_networks(folder: Path) -> dict[str, Path]:
    """Networks of small products, whose activations take as long to round as the products: four layers of one width each."""
    random, paths = np.random.default_rng(0), {}
    for rows, width in ((1, 256), (8, 64)):
        nodes, constants, name = list[onnx.NodeProto](), list[onnx.TensorProto](), "x"
        for layer in range(4):
            weight = np.asarray(random.standard_normal((width, width)) / np.sqrt(width), np.float32)
            constants.append(numpy_helper.from_array(weight, f"w{layer}"))
            nodes += [helper.make_node("MatMul", [name, f"w{layer}"], [f"p{layer}"])]
            nodes += [helper.make_node("Relu", [f"p{layer}"], [name := f"r{layer}"])]
        graph = helper.make_graph(
            nodes, "narrow", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, width])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)], constants,
        )  # fmt: skip
        path = folder / f"narrow.{width}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
        paths[f"four products, {rows} x {width} x {width}"] = path
    return paths


def files(folder: Path, formats: Sequence[str]) -> Iterator[File]:
    """Every file that no target refuses."""
    for model, source in models(folder).items():
        inputs = inputs_of(source)
        data = [{i.name: i.array() for i in inputs}] * 2
        ways: dict[str, dict[str, Any]] = {f"{f} {t}": {"format": f, "target": t} for f in formats for t in TARGETS}
        for kind in ("static", "dynamic"):
            ways[f"{kind} activations"] = {"activations": kind, "effort": "low", "time": "5s", "data": data}
        for way, options in ways.items():
            path = folder / f"{model}.{way.replace(' ', '.')}.onnx"
            try:
                onnxquant.quantize(source, path, proof=False, **options)
            except onnxquant.OnnxQuantError:
                continue
            yield File(model, way, str(path), inputs)


def in_one_file(source: Path, folder: Path) -> Path:
    """A model without data files, which pages cannot open: itself, or a copy in a folder."""
    proto = onnx.load(str(source))
    whole = folder / f"{source.parent.name}.{source.name}"
    if source.stat().st_size >= proto.ByteSize():
        return source.resolve()
    onnx.save(proto, str(whole))
    return whole


def files_for(client: str, sources: Mapping[str, Path], folder: Path) -> Iterator[File]:
    """Files of networks made for a client, whose speed is asked for; sources by the name of the network."""
    for name, source in sources.items():
        inputs = inputs_of(source)
        data = [{i.name: i.array() for i in inputs}]
        quick = {"smooth": False, "effort": "low", "time": "5s", "data": data}
        ways: dict[str, dict[str, Any]] = {
            "int8": {"format": "int8"},
            "dynamic": {"activations": "dynamic", **quick},
            "static": {"activations": "static", **quick},
        }
        for way, options in ways.items():
            path = folder / f"{name}.{client}.{way}.onnx"
            try:
                report = onnxquant.quantize(
                    source, path, proof=False, clients=[client], external_data="never", **options
                )
            except onnxquant.OnnxQuantError:
                continue
            is_said_slow = any(note.startswith(SAID) for note in report.notes)
            yield File(name, way, str(path), inputs, str(source), is_said_slow)
