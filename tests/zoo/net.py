"""Builder of networks: nodes for any opset from 9 on, weights that keep signals near one, and inputs that can be drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
Shape = Sequence[int | str]
# Lengths of open dimensions in samples.
LENGTHS = {"batch": 1, "sequence": 20, "frames": 24, "height": 32, "width": 32, "past": 6, "total": 26}


def images(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Smooth fields with some noise, channels second."""
    *_, height, width = shape
    waves = sum(
        random.normal(size=(*shape[:-2], 1, 1))
        / (k + 1)
        * np.cos(random.uniform(0, 6.3) + np.arange(height)[:, None] * k / height * 6.3)
        * np.cos(random.uniform(0, 6.3) + np.arange(width) * random.integers(0, k + 1) / width * 6.3)
        for k in range(6)
    )
    return (waves + 0.1 * random.standard_normal(shape)).astype(np.float32)


def pictures_last(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The same, channels last."""
    batch, height, width, channels = shape
    return np.ascontiguousarray(images(random, (batch, channels, height, width)).transpose(0, 2, 3, 1))


def sounds(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A few tones with noise along the last axis."""
    time = np.arange(shape[-1])
    tones = sum(random.uniform(0.05, 0.5) * np.sin(time * random.uniform(0.02, 1.5)) for _ in range(5))
    return (tones + 0.05 * random.standard_normal(shape)).astype(np.float32)


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal values with columns of different scale."""
    return (random.standard_normal(shape) * np.exp(0.3 * random.standard_normal(shape[-1:]))).astype(np.float32)


def integers(high: int, dtype: str = "int64") -> Draw:
    """Indices below a bound, small ones more often."""
    return lambda random, shape: np.minimum(random.gamma(1.0, high / 4, shape), high - 1).astype(dtype)


def constant(value: Any, dtype: str) -> Draw:
    """One value everywhere."""
    return lambda random, shape: np.full(shape, value, dtype)


@dataclass(frozen=True)
class Input:
    """An input and the way its samples are drawn."""

    shape: tuple[int | str, ...]
    dtype: str
    draw: Draw

    def sample(self, random: np.random.Generator) -> Array:
        """One value of it."""
        return self.draw(random, tuple(LENGTHS[d] if isinstance(d, str) else d for d in self.shape))


@dataclass
class Case:
    """A model with samples for it."""

    proto: onnx.ModelProto
    inputs: dict[str, Input]

    def samples(self, count: int, seed: int = 1) -> list[dict[str, Array]]:
        """Samples that are the same for a seed."""
        random = np.random.default_rng(seed)
        return [{name: entry.sample(random) for name, entry in self.inputs.items()} for _ in range(count)]


@dataclass
class Net:
    """A graph in the making.

    Attributes:
        opset: opset of the nodes.
        is_open: whether batch, length and size are named dimensions.
        computes_shapes: whether reshapes compute their shapes from the tensor, as exporters do for open dimensions.
        width: channels; other sizes follow from it.
    """

    opset: int = 17
    is_open: bool = True
    computes_shapes: bool = False
    width: int = 32
    seed: int = 0
    inputs: dict[str, Input] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    functions: list[onnx.FunctionProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    # Inputs, outputs, constants

    def size(self, name: str) -> int | str:
        """An open dimension, or its length where shapes are fixed."""
        return name if self.is_open else LENGTHS[name]

    def input(self, name: str, shape: Shape, draw: Draw = normal, dtype: str = "float32") -> str:
        """A new input; strings in the shape are lengths where shapes are fixed."""
        fixed = tuple(d if isinstance(d, int) else self.size(d) for d in shape)
        self.inputs[name] = Input(fixed, dtype, draw)
        return name

    def output(self, tensor: str, dtype: str = "float32") -> None:
        """Make a tensor an output."""
        self.outputs[tensor] = dtype

    def const(self, values: Any, dtype: str = "float32", name: str = "c") -> str:
        """A constant as an initializer."""
        key = f"{name}{len(self.weights)}"
        self.weights[key] = np.asarray(values, dtype)
        return key

    def ints(self, *values: int) -> str:
        """A vector of int64."""
        return self.const(list(values), "int64", "ints")

    def weight(self, *shape: int, fan: int | None = None, name: str = "w") -> str:
        """A weight with channels of different scale, and a norm that keeps signals near one."""
        fan = fan or math.prod(shape[1:])
        values = self.random.standard_normal(shape) * np.exp(0.3 * self.random.standard_normal(shape))
        return self.const(values / math.sqrt(1.1 * fan), name=name)

    def bias(self, size: int) -> str:
        """A small vector."""
        return self.const(0.1 * self.random.standard_normal(size), name="b")

    # Nodes

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; its output, or the list of them."""
        names = [f"{kind.lower()}_{len(self.nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        label = f"/{kind}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), names, name=label, **attributes))
        return names if outputs > 1 else names[0]

    def with_axes(self, kind: str, x: str, axes: Sequence[int], since: int, **attributes: Any) -> str:
        """A node whose axes are an attribute before an opset, and an input since."""
        if self.opset < since:
            return str(self.op(kind, x, axes=list(axes), **attributes))
        return str(self.op(kind, x, self.ints(*axes), **attributes))

    def unsqueeze(self, x: str, *axes: int) -> str:
        """New axes of one."""
        return self.with_axes("Unsqueeze", x, axes, 13)

    def squeeze(self, x: str, *axes: int) -> str:
        """Axes of one removed."""
        return self.with_axes("Squeeze", x, axes, 13)

    def mean(self, x: str, *axes: int, keepdims: int = 1) -> str:
        """Mean over axes."""
        return self.with_axes("ReduceMean", x, axes, 18, keepdims=keepdims)

    def clip(self, x: str, low: float, high: float) -> str:
        """Values held between two bounds."""
        if self.opset < 11:
            return str(self.op("Clip", x, min=float(low), max=float(high)))
        return str(self.op("Clip", x, self.const(low), self.const(high)))

    def split(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Parts along an axis."""
        if self.opset < 13:
            return list(self.op("Split", x, outputs=len(sizes), axis=axis, split=list(sizes)))
        return list(self.op("Split", x, self.ints(*sizes), outputs=len(sizes), axis=axis))

    def slice(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        """A range along an axis."""
        if self.opset < 10:
            return str(self.op("Slice", x, axes=[axis], starts=[start], ends=[end]))
        return str(self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step)))

    def pad(self, x: str, pads: Sequence[int], mode: str = "constant") -> str:
        """Padding before and after each axis."""
        if self.opset < 11:
            return str(self.op("Pad", x, pads=list(pads), mode=mode))
        return str(self.op("Pad", x, self.ints(*pads), mode=mode))

    def enlarge(self, x: str, factor: float = 2.0, mode: str = "nearest") -> str:
        """Height and width multiplied."""
        scales = self.const([1, 1, factor, factor])
        if self.opset < 10:
            return str(self.op("Upsample", x, scales, mode=mode))
        if self.opset < 11:
            return str(self.op("Resize", x, scales, mode=mode))
        attributes = (
            {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
        )
        region = self.const([]) if self.opset < 13 else ""
        return str(self.op("Resize", x, region, scales, mode=mode, **attributes))

    def reshape(self, x: str, *shape: int) -> str:
        """A new shape: 0 keeps a length, -1 follows."""
        if not self.computes_shapes:
            return str(self.op("Reshape", x, self.ints(*shape)))
        lengths = self.op("Shape", x)
        parts = []
        for axis, length in enumerate(shape):
            if length == 0:
                one = self.op("Gather", lengths, self.const(axis, "int64", "axis"), axis=0)
                parts.append(self.unsqueeze(one, 0))
            else:
                parts.append(self.ints(length))
        return str(self.op("Reshape", x, self.op("Concat", *parts, axis=0)))

    # Layers

    def conv(
        self, x: str, cin: int, cout: int, kernel: int = 3, stride: int = 1, group: int = 1, bias: bool = True
    ) -> str:
        """A convolution over two axes that keeps the size, but for its stride."""
        w = self.weight(cout, cin // group, kernel, kernel, name="conv_w")
        extra = [self.bias(cout)] if bias else []
        pads = [kernel // 2] * 4
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads, "group": group}
        return str(self.op("Conv", x, w, *extra, **attributes))

    def conv1d(
        self, x: str, cin: int, cout: int, kernel: int = 3, stride: int = 1, dilation: int = 1, group: int = 1
    ) -> str:
        """A convolution over one axis."""
        w = self.weight(cout, cin // group, kernel, name="conv1d_w")
        pads = [dilation * (kernel - 1) // 2] * 2
        attributes = {"strides": [stride], "pads": pads, "dilations": [dilation], "group": group}
        return str(self.op("Conv", x, w, self.bias(cout), kernel_shape=[kernel], **attributes))

    def batch_norm(self, x: str, channels: int) -> str:
        """Normalization with stored statistics."""
        scale, shift = (self.const(v + 0.1 * self.random.standard_normal(channels)) for v in (1.0, 0.0))
        mean = self.const(0.1 * self.random.standard_normal(channels))
        variance = self.const(np.exp(0.2 * self.random.standard_normal(channels)))
        return str(self.op("BatchNormalization", x, scale, shift, mean, variance))

    def linear(self, x: str, cin: int, cout: int, bias: bool = True) -> str:
        """X @ W + b, as exporters write it for three axes."""
        y = self.op("MatMul", x, self.weight(cin, cout, fan=cin, name="matmul_w"))
        return str(self.op("Add", self.bias(cout), y)) if bias else str(y)

    def gemm(self, x: str, cin: int, cout: int) -> str:
        """A Gemm with a transposed weight, as exporters write it for two axes."""
        return str(self.op("Gemm", x, self.weight(cout, cin, name="gemm_w"), self.bias(cout), transB=1))

    def layer_norm(self, x: str, size: int) -> str:
        """Normalization over the last axis: one node since opset 17, else its parts."""
        scale, shift = (self.const(v + 0.1 * self.random.standard_normal(size)) for v in (1.0, 0.0))
        if self.opset >= 17:
            return str(self.op("LayerNormalization", x, scale, shift, axis=-1))
        centred = self.op("Sub", x, self.mean(x, -1))
        variance = self.mean(self.op("Pow", centred, self.const(2.0)), -1)
        deviation = self.op("Sqrt", self.op("Add", variance, self.const(1e-5)))
        return str(self.op("Add", self.op("Mul", self.op("Div", centred, deviation), scale), shift))

    def gelu(self, x: str) -> str:
        """The activation: one node since opset 20, else by Erf."""
        if self.opset >= 20:
            return str(self.op("Gelu", x))
        erf = self.op("Erf", self.op("Div", x, self.const(math.sqrt(2))))
        return str(self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.const(1.0))), self.const(0.5)))

    def hard_swish(self, x: str) -> str:
        """The activation: one node since opset 14, else its parts."""
        if self.opset >= 14:
            return str(self.op("HardSwish", x))
        return str(
            self.op("Mul", x, self.op("Div", self.clip(self.op("Add", x, self.const(3.0)), 0, 6), self.const(6.0)))
        )

    def silu(self, x: str) -> str:
        """The activation x * sigmoid(x)."""
        return str(self.op("Mul", x, self.op("Sigmoid", x)))

    def attention(self, x: str, size: int, heads: int, context: str | None = None, mask: str | None = None) -> str:
        """Self-attention, or attention to a context."""
        source = context or x
        q, k, v = (self.linear(t, size, size) for t in (x, source, source))
        q, k, v = (self.reshape(t, 0, -1 if not self.computes_shapes else 0, heads, size // heads) for t in (q, k, v))
        q, v = (self.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        k = self.op("Transpose", k, perm=[0, 2, 3, 1])
        scores = self.op("Div", self.op("MatMul", q, k), self.const(math.sqrt(size // heads)))
        if mask:
            scores = self.op("Add", scores, mask)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        mixed = self.reshape(self.op("Transpose", mixed, perm=[0, 2, 1, 3]), 0, 0, size)
        return self.linear(mixed, size, size)

    def block(self, x: str, size: int, heads: int = 4, mask: str | None = None) -> str:
        """A transformer block, normalization first."""
        x = self.op("Add", x, self.attention(self.layer_norm(x, size), size, heads, mask=mask))
        hidden = self.gelu(self.linear(self.layer_norm(x, size), size, 4 * size))
        return str(self.op("Add", x, self.linear(hidden, 4 * size, size)))

    def mask_of(self, attention_mask: str) -> str:
        """Zeros where a mask of ones holds, large negatives elsewhere, for scores of attention."""
        values = self.op("Cast", self.unsqueeze(attention_mask, 1, 2), to=onnx.TensorProto.FLOAT)
        return str(self.op("Mul", self.op("Sub", self.const(1.0), values), self.const(-1e4)))

    # The model

    def model(self) -> onnx.ModelProto:
        """The finished model."""

        def info(name: str, dtype: str, shape: Shape | None) -> onnx.ValueInfoProto:
            return onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
            )

        graph = onnx.helper.make_graph(
            self.nodes,
            "zoo",
            [info(n, i.dtype, i.shape) for n, i in self.inputs.items()],
            [info(n, t, None) for n, t in self.outputs.items()],
            [onnx.numpy_helper.from_array(v, n) for n, v in self.weights.items()],
        )
        versions = {"": self.opset} | {f.domain: 1 for f in self.functions}
        versions |= {n.domain: 1 for n in self.nodes if n.domain and n.domain not in versions}
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()]
        ir = 4 if self.opset < 10 else 8 if self.opset < 21 else 10 if self.opset < 24 else 11
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=self.functions)
        _write_shapes(model)
        return model


def _write_shapes(model: onnx.ModelProto) -> None:
    """Give each output the shape that follows from the inputs, where one does."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for output, known in zip(model.graph.output, inferred.output, strict=True):
        if known.type.tensor_type.HasField("shape"):
            output.CopyFrom(known)
