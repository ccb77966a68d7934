"""Small models for tests, built with onnx_graphsurgeon or from ONNX text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

Array = NDArray[Any]


def rng(seed: int = 0) -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(seed)


def weight(*shape: int, seed: int = 0, dtype: str = "float32") -> Array:
    """A weight with a heavy tail, so that block scales differ."""
    values = rng(seed).standard_normal(shape) * np.exp(rng(seed + 1).standard_normal(shape) / 2)
    return (values * 0.05).astype(dtype)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[Any, Sequence[int | str]]],
    outputs: dict[str, Any],
    initializers: dict[str, Array],
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model from its parts; types as numpy dtypes."""

    def info(name: str, dtype: Any, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    graph = onnx.helper.make_graph(
        list(nodes),
        "test",
        [info(n, t, s) for n, (t, s) in inputs.items()],
        [info(n, t, None) for n, t in outputs.items()],
        [onnx.numpy_helper.from_array(v, n) for n, v in initializers.items()],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    imports += [onnx.helper.make_opsetid(d, 1) for d in sorted({f.domain for f in functions})]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))


node = onnx.helper.make_node


def captures(name: str, *ops: str) -> list[onnx.GraphProto]:
    """A nested graph per op that reads a tensor of the graph around it, for the branches of an If."""
    shown = {op: onnx.helper.make_tensor_value_info(op, onnx.TensorProto.FLOAT, None) for op in ops}
    return [onnx.helper.make_graph([node(op, [name], [op])], op, [], [shown[op]]) for op in ops]


def matmul(k: int = 48, n: int = 40, dtype: str = "float32", opset: int = 17) -> onnx.ModelProto:
    """Y = X @ W, W [k, n], X [batch, 3, k]."""
    return model(
        [node("MatMul", ["x", "w"], ["y"], name="product")],
        {"x": (dtype, ["batch", 3, k])},
        {"y": dtype},
        {"w": weight(k, n, dtype=dtype)},
        opset,
    )


def gemm(k: int = 96, n: int = 33, *, trans_b: int = 1, alpha: float = 0.5, beta: float = 2.0) -> onnx.ModelProto:
    """Y = alpha X W' + beta C, built with graphsurgeon."""
    x = gs.Variable("x", np.float32, ["batch", k])
    y = gs.Variable("y", np.float32, ["batch", n])
    w = gs.Constant("w", weight(*((n, k) if trans_b else (k, n))))
    c = gs.Constant("c", weight(n, seed=3))
    attrs = {"transB": trans_b, "alpha": alpha, "beta": beta}
    graph = gs.Graph([gs.Node("Gemm", "gemm", attrs, [x, w, c], [y])], [x], [y], opset=17, ir_version=8)
    return gs.export_onnx(graph)


def gather(rows: int = 50, cols: int = 72) -> onnx.ModelProto:
    """Rows of a table by int64 indices [batch, 5]."""
    return model(
        [node("Gather", ["w", "i"], ["y"], name="lookup")],
        {"i": ("int64", ["batch", 5])},
        {"y": "float32"},
        {"w": weight(rows, cols)},
    )


def tied(vocabulary: int = 64, width: int = 96) -> onnx.ModelProto:
    """An embedding whose table is also the output head, through a Transpose."""
    return model(
        [
            node("Gather", ["w", "i"], ["e"], name="embed"),
            node("Transpose", ["w"], ["wt"], perm=[1, 0]),
            node("MatMul", ["e", "wt"], ["y"], name="head"),
        ],
        {"i": ("int64", ["batch", 4])},
        {"y": "float32"},
        {"w": weight(vocabulary, width)},
    )


def conv(channels: int = 8, out: int = 48, group: int = 1, kind: str = "Conv") -> onnx.ModelProto:
    """A 3x3 convolution or transposed convolution."""
    shape = (out, channels // group, 3, 3) if kind == "Conv" else (channels, out // group, 3, 3)
    return model(
        [node(kind, ["x", "w"], ["y"], name="conv", group=group)],
        {"x": ("float32", ["batch", channels, 7, 7])},
        {"y": "float32"},
        {"w": weight(*shape)},
    )


def lstm(width: int = 20, hidden: int = 24) -> onnx.ModelProto:
    """A bidirectional LSTM with weights W and R."""
    return model(
        [node("LSTM", ["x", "w", "r"], ["y"], name="lstm", hidden_size=hidden, direction="bidirectional")],
        {"x": ("float32", [6, "batch", width])},
        {"y": "float32"},
        {"w": weight(2, 4 * hidden, width), "r": weight(2, 4 * hidden, hidden, seed=5)},
    )


def branches(k: int = 64, n: int = 32, other_name: str = "w_else") -> onnx.ModelProto:
    """An If whose branches hold a weight each and share one of the outer graph."""
    then = onnx.helper.make_graph(
        [node("MatMul", ["x", "w_then"], ["a"]), node("MatMul", ["a", "w_outer"], ["t"])],
        "then",
        [],
        [onnx.helper.make_tensor_value_info("t", 1, None)],
        [onnx.numpy_helper.from_array(weight(k, n, seed=7), "w_then")],
    )
    other = onnx.helper.make_graph(
        [node("MatMul", ["x", other_name], ["b"]), node("MatMul", ["b", "w_outer"], ["e"])],
        "else",
        [],
        [onnx.helper.make_tensor_value_info("e", 1, None)],
        [onnx.numpy_helper.from_array(weight(k, n, seed=8), other_name)],
    )
    return model(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        {"x": ("float32", ["batch", k]), "c": ("bool", [])},
        {"y": "float32"},
        {"w_outer": weight(n, 32, seed=9)},
    )


def save(proto: onnx.ModelProto, path: Path, *, external: bool = False) -> Path:
    """Save a model, with its tensors in ``<name>.bin`` when external."""
    if external:
        onnx.save(proto, path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=64)
    else:
        onnx.save(proto, path)
    return path


class Encoder:
    """A block of a transformer with fixed shapes, node by node."""

    WIDTH, LENGTH = 16, 8

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def constant(self, values: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(values)
        return name

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(node(op, list(inputs), [f"t{len(self.nodes)}"], name=f"n{len(self.nodes)}", **attributes))
        return str(self.nodes[-1].output[0])

    def linear(self, x: str, rows: int, cols: int) -> str:
        w = self.constant(8 * weight(rows, cols, seed=len(self.nodes)))
        return self.op("Add", self.op("MatMul", x, w), self.constant(weight(cols, seed=len(self.nodes))))

    def norm(self, x: str) -> str:
        ones, zeros = self.constant(np.ones(self.WIDTH, np.float32)), self.constant(np.zeros(self.WIDTH, np.float32))
        return self.op("LayerNormalization", x, ones, zeros, axis=-1)

    def attention(self, y: str) -> str:
        q, k, v = (self.linear(y, self.WIDTH, self.WIDTH) for _ in range(3))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 2, 1]))
        return self.linear(self.op("MatMul", self.op("Softmax", scores, axis=-1), v), self.WIDTH, self.WIDTH)

    def gelu(self, x: str) -> str:
        erf = self.op("Erf", self.op("Div", x, self.constant(np.float32(np.sqrt(2)))))
        product = self.op("Mul", x, self.op("Add", erf, self.constant(np.float32(1))))
        return self.op("Mul", product, self.constant(np.float32(0.5)))

    def model(self, y: str) -> onnx.ModelProto:
        self.nodes.append(node("Identity", [y], ["y"]))
        return model(self.nodes, {"x": ("float32", [1, self.LENGTH, self.WIDTH])}, {"y": "float32"}, self.constants)
