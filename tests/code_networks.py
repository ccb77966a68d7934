"""Networks between codes, as static files have them: DequantizeLinear, an operator, QuantizeLinear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphs
import numpy as np
import onnx
from graphs import node
from numpy.typing import NDArray

from onnxquant.graph.names import ACTIVATION, SITE

Array = NDArray[Any]
CODES: dict[str, Any] = {"uint8": np.uint8, "int8": np.int8}
# Spread of codes that are random: an output's scale is chosen so that its codes are spread so, too.
SPREAD = 60.0


class CodeNetwork:
    """A graph of units between codes; tensors are named by their codes, which know their scale.

    Args:
        codes: type of the codes.
        seed: seed of weights, scales and zero points.
        opset: version of the operators.
        zero: zero point of every tensor; None: a random one for each.
    """

    def __init__(self, codes: str = "uint8", seed: int = 0, opset: int = 17, zero: int | None = None) -> None:
        self.codes, self.opset, self.zero = codes, opset, zero
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.inputs: dict[str, list[Any]] = {}
        self.scales: dict[str, tuple[float, int]] = {}
        self._parameters: dict[str, list[str]] = {}
        self._decoded: dict[str, str] = {}

    # ---- pieces ----

    def name(self) -> str:
        """A new name."""
        return f"t{len(self.nodes) + len(self.inputs)}"

    def constant(self, value: Any) -> str:
        """Name of a new constant; floats become float32."""
        array = np.asarray(value)
        name = f"c{len(self.constants)}"
        self.constants[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def node(self, op: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node; its output."""
        output = output or self.name()
        self.nodes.append(node(op, list(inputs), [output], name=f"{output}/node", **attributes))
        if op in ("QuantizeLinear", "DequantizeLinear"):
            self.nodes[-1].metadata_props.add(key=ACTIVATION, value=op)
        return output

    def scale(self, name: str, step: float, zero: int | None = None) -> list[str]:
        """Give codes a scale; the names of its constants."""
        span = np.iinfo(CODES[self.codes])
        zero = self.zero if zero is None else zero
        zero = int(self.random.integers(span.min, span.max + 1)) if zero is None else zero
        self.scales[name] = (float(np.float32(step)), zero)
        self._parameters[name] = [self.constant(float(step)), self.constant(CODES[self.codes](zero))]
        return self._parameters[name]

    def input(self, *shape: Any, step: float = 0.05) -> str:
        """An input of codes."""
        name = f"x{len(self.inputs)}"
        self.inputs[name] = list(shape)
        self.scale(name, step)
        return name

    def decoded(self, x: str) -> str:
        """Values of codes, decoded once for all readers."""
        if x not in self._decoded:
            self._decoded[x] = self.node("DequantizeLinear", [x, *self._parameters[x]])
        return self._decoded[x]

    def encoded(self, values: str, step: float, zero: int | None = None, output: str = "") -> str:
        """Values rounded to codes of a new scale."""
        output = output or self.name()
        return self.node("QuantizeLinear", [values, *self.scale(output, step, zero)], output)

    def same(self, values: str, x: str, output: str = "") -> str:
        """Values rounded to codes of the scale that others have."""
        output = output or self.name()
        self.scales[output], self._parameters[output] = self.scales[x], self._parameters[x]
        return self.node("QuantizeLinear", [values, *self._parameters[x]], output)

    # ---- units ----

    def conv(
        self,
        x: str,
        channels: tuple[int, int],
        kernel: tuple[int, int] = (1, 1),
        *,
        group: int = 1,
        bias: bool = True,
        per_channel: bool = True,
        act: tuple[str, ...] = (),
        zero: int | None = None,
        output: str = "",
        **attributes: Any,
    ) -> str:
        """A convolution of ``channels`` before and behind; ``act``: "Relu", "Clip", or "Relu6"."""
        inner, count = channels[0] // group, channels[1]
        codes = self.random.integers(-127, 128, (count, inner, *kernel)).astype(np.int8)
        scales = self.random.uniform(0.5, 1.5, count if per_channel else ()) * 0.01
        weight = self.node(
            "DequantizeLinear",
            [self.constant(codes), self.constant(scales), self.constant(np.zeros(np.shape(scales), np.int8))],
            **({"axis": 0} if per_channel else {}),
        )
        self.nodes[-1].metadata_props[0].key = SITE
        step = self.scales[x][0]
        spread = step * float(np.mean(scales)) * np.sqrt(inner * np.prod(kernel)) * 74 * 73
        inputs = [self.decoded(x), weight]
        if bias:
            inputs.append(self.constant(self.random.standard_normal(count) * spread / 2))
        values = self.node("Conv", inputs, group=group, kernel_shape=list(kernel), **attributes)
        return self.encoded(self.acts(values, act, float(spread)), float(spread) / SPREAD, zero, output)

    def acts(self, values: str, act: Sequence[str], spread: float) -> str:
        """Clamps behind an operator."""
        for name in act:
            bounds = {"Clip": (-0.7 * spread, 0.9 * spread), "Relu6": (0.0, 1.1 * spread)}.get(name)
            inputs = [values] if bounds is None else [values, *(self.constant(bound) for bound in bounds)]
            values = self.node("Relu" if name == "Relu" else "Clip", inputs)
        return values

    def pair(self, op: str, a: str, b: str, act: tuple[str, ...] = (), output: str = "", gain: float = 1.2) -> str:
        """Sum or product of codes."""
        steps = [self.scales[x][0] for x in (a, b)]
        spread = float(np.hypot(*steps)) * 74 if op == "Add" else steps[0] * steps[1] * 74 * 74
        values = self.node(op, [self.decoded(a), self.decoded(b)])
        return self.encoded(self.acts(values, act, spread), gain * spread / SPREAD, output=output)

    def add(self, a: str, b: str, **options: Any) -> str:
        """Sum of codes."""
        return self.pair("Add", a, b, **options)

    def mul(self, a: str, b: str, **options: Any) -> str:
        """Product of codes."""
        return self.pair("Mul", a, b, **options)

    def unit(self, op: str, *xs: str, gain: float = 1.0, output: str = "", **attributes: Any) -> str:
        """An operator between codes whose output has a scale of its own."""
        values = self.node(op, list(map(self.decoded, xs)), **attributes)
        return self.encoded(values, gain * max(self.scales[x][0] for x in xs), output=output)

    def move(self, op: str, x: str, extra: Sequence[str] = (), output: str = "", **attributes: Any) -> str:
        """An operator between codes that passes values on: the scale stays."""
        return self.same(self.node(op, [self.decoded(x), *extra], **attributes), x, output)

    def silu(self, x: str, output: str = "") -> str:
        """A function of each code."""
        value = self.decoded(x)
        values = self.node("Mul", [value, self.node("Sigmoid", [value])])
        return self.encoded(values, self.scales[x][0] * 0.8, output=output)

    def model(self, *outputs: str, kinds: Sequence[str] = ()) -> onnx.ModelProto:
        """The model."""
        kinds = kinds or [self.codes] * len(outputs)
        inputs = {name: (self.codes, shape) for name, shape in self.inputs.items()}
        made = graphs.model(self.nodes, inputs, dict(zip(outputs, kinds, strict=True)), self.constants, self.opset)
        made = onnx.shape_inference.infer_shapes(made)  # for the shapes of outputs
        del made.graph.value_info[:]
        onnx.checker.check_model(made)
        return made

    def feed(self, seed: int = 1, **lengths: int) -> dict[str, Array]:
        """Random codes for each input; ``lengths`` has those of named axes."""
        random, span = np.random.default_rng(seed), np.iinfo(CODES[self.codes])
        shapes = {name: [lengths.get(d, d) for d in shape] for name, shape in self.inputs.items()}
        return {n: random.integers(span.min, span.max + 1, s).astype(CODES[self.codes]) for n, s in shapes.items()}
