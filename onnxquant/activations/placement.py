"""Placement of integers in a graph: the nodes that compute on them, and the tensors that are quantized for that.

It depends on the graph alone, not on values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import onnx

from onnxquant.activations.op_kinds import (
    CHEAP_IN_CODES,
    FLOAT_OUTPUT,
    MEANS,
    OpKind,
    activation_inputs,
    clamp_bounds,
    kernel_refusal,
    kind_of,
)
from onnxquant.graph.editor import GraphEditor


class Cause(Enum):
    """The cause why a kernel stays in float."""

    OPERATOR = "operator"  # ONNX Runtime has no integer kernel for the node
    WEIGHT = "weight"  # its weight cannot be int8 per channel
    SAMPLES = "samples"  # no sample has values there
    ACCURACY = "accuracy"  # integers would cost more accuracy there than the user's goal allows
    DYNAMIC = "dynamic"  # its activations are rounded on every call, by the operator itself
    CLIENT = "client"  # a client that the file is for is slower there on integers
    LOSS = "loss"  # with integers there the outputs would be lost


@dataclass(frozen=True)
class FloatKernel:
    """A kernel that stays in float.

    Attributes:
        cause: the cause.
        reason: the cause in words, for reports.
    """

    cause: Cause
    reason: str


NO_SAMPLE = FloatKernel(Cause.SAMPLES, "no sample has values there, and so it has no range: give samples that reach it")
ON_EVERY_CALL = FloatKernel(Cause.DYNAMIC, "its activations are rounded on every call")
FOR_ACCURACY = FloatKernel(Cause.ACCURACY, "left in float for accuracy (--auto-exclude)")
AGAINST_LOSS = FloatKernel(Cause.LOSS, "on integers too little would be left of the outputs")


@dataclass(frozen=True)
class Unit:
    """A node that computes on integers, with the clamps after it, which a saturating QuantizeLinear replaces.

    ONNX Runtime drops a Relu or Clip before a QuantizeLinear whose range lies within its bounds.

    Attributes:
        node: the node.
        kind: its kind.
        clamps: Relu and Clip nodes after it, in order.
    """

    node: onnx.NodeProto
    kind: OpKind
    clamps: tuple[onnx.NodeProto, ...] = ()

    @property
    def name(self) -> str:
        """The name that messages and rules use."""
        return str(self.node.name or self.node.output[0])

    @property
    def outputs(self) -> list[str]:
        """The tensors that it computes, behind its clamps."""
        return list(self.clamps[-1].output if self.clamps else self.node.output)


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor between QuantizeLinear and DequantizeLinear.

    Attributes:
        name: name of the float tensor.
        source: the tensor whose range it takes: itself, or the first tensor of a chain of moves.
        produced: whether a unit computes it; then nothing reads its float values any more.
        readers: names of the units that read it (first outputs of their nodes).
        bounds: the part of the source's range that clamps let through.
    """

    name: str
    source: str
    produced: bool
    readers: frozenset[str]
    bounds: tuple[float, float] = (float("-inf"), float("inf"))


@dataclass(frozen=True)
class Placement:
    """The nodes and tensors of a graph that are integers.

    Attributes:
        units: nodes that compute on integers, in graph order.
        tensors: quantized tensors by name, inputs of units first.
        float_kernels: kernels that stay in float, by name.
        split_gemms: outputs of Gemms that return floats: their C, also one that corrects it, is added after the product, in
            float.
    """

    units: tuple[Unit, ...] = ()
    tensors: Mapping[str, QuantizedTensor] = field(default_factory=dict)
    float_kernels: Mapping[str, FloatKernel] = field(default_factory=dict)
    split_gemms: tuple[str, ...] = ()

    @property
    def kernels(self) -> list[Unit]:
        """Units with a weight."""
        return [u for u in self.units if u.kind is OpKind.KERNEL]

    @property
    def sources(self) -> list[str]:
        """Tensors whose ranges are needed."""
        return list(dict.fromkeys(t.source for t in self.tensors.values()))


def place(editor: GraphEditor, excluded: Mapping[str, FloatKernel] | None = None, *, clamps: bool = True) -> Placement:
    """Choose the nodes of a graph that compute on integers.

    Args:
        editor: the prepared graph.
        excluded: kernels that stay in float, by the name of the node or of its output; and other nodes, by their output.
        clamps: whether saturation may replace Relu and Clip; it cannot where codes are symmetric around zero.
    """
    return _Placer(editor, excluded or {}, clamps=clamps).run()


class _Placer:
    """Begins with every node that has an integer kind, and removes those that would only add conversions."""

    def __init__(self, editor: GraphEditor, excluded: Mapping[str, FloatKernel], *, clamps: bool) -> None:
        self._editor, self._clamps = editor, clamps
        self._float_kernels: dict[str, FloatKernel] = {}
        self._kinds: dict[int, OpKind] = {}
        for node in editor.nodes:
            kind, refusal = _judge(node, editor, excluded)
            if refusal is not None:
                self._float_kernels[node.name or node.output[0]] = refusal
            if kind is not OpKind.FLOAT:
                self._kinds[self._editor.place(node)] = kind

    def run(self) -> Placement:
        while useless := [n for n in self._editor.nodes if self._is_useless(n)]:
            for node in useless:
                del self._kinds[self._editor.place(node)]
        units = tuple(
            Unit(node, kind, self._clamps_of(node))
            for node in self._editor.nodes
            if (kind := self._kind(node)) not in (None, OpKind.CLAMP)
        )
        split = tuple(
            u.node.output[0]
            for u in units
            if u.node.op_type == "Gemm" and not self._gives_integers(u.node)
        )
        return Placement(units, self._quantized(units), self._float_kernels, split)

    def _kind(self, node: onnx.NodeProto) -> OpKind | None:
        """The integer kind of a node; None: it computes in float."""
        return self._kinds.get(self._editor.place(node))

    def _is_useless(self, node: onnx.NodeProto) -> bool:
        """Whether a node other than a kernel would save no time: it needs integers after it, and most before it too."""
        kind = self._kind(node)
        if kind is None or kind is OpKind.KERNEL:
            return False
        if kind is OpKind.CLAMP and self._ends_a_kernel(node):
            return False
        if node.op_type in CHEAP_IN_CODES and self._editor.producer(node.input[0]) is not None:
            return not self._is_read_as_integers(node)
        return not (self._reads_integers(node, kind) and self._is_read_as_integers(node))

    def _ends_a_kernel(self, clamp: onnx.NodeProto) -> bool:
        """Whether a clamp follows a kernel that returns codes anyway: its bounds become those of the codes."""
        producer = self._editor.producer(clamp.input[0])
        while producer is not None and self._kind(producer) is OpKind.CLAMP:
            producer = self._editor.producer(producer.input[0])
        if producer is None or self._kind(producer) is not OpKind.KERNEL or producer.op_type in FLOAT_OUTPUT:
            return False
        return any(c is clamp for c in self._clamps_of(producer))

    def _reads_integers(self, node: onnx.NodeProto, kind: OpKind) -> bool:
        """Whether all inputs of a node are integers, or one that no function computes: those are not rounded for it alone."""
        kinds = [self._maker(name, kind) for name in activation_inputs(node, kind)]
        return None not in kinds or any(kind not in (None, OpKind.FUNCTION) for kind in kinds)

    def _maker(self, name: str, reader: OpKind) -> OpKind | None:
        """The kind of the node that makes integers of a tensor; None: none, or one that gives a function floats as well."""
        producer = self._editor.producer(name)
        kind = None if producer is None else self._kind(producer)
        if producer is None or reader is not OpKind.FUNCTION:
            return kind
        return None if kind is OpKind.MOVE or producer.op_type in FLOAT_OUTPUT else kind

    def _is_read_as_integers(self, node: onnx.NodeProto) -> bool:
        is_function = self._kind(node) is OpKind.FUNCTION
        for output in node.output:
            for reader in self._editor.consumers(output):
                kind = self._kind(reader)
                if is_function and reader.op_type in MEANS:
                    continue
                if kind is not None and output in activation_inputs(reader, kind):
                    return True
        return False

    def _clamps_of(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, ...]:
        """The clamps right after a node that makes integers, each the only reader of the tensor that it clamps."""
        kind = self._kind(node)
        if kind not in (OpKind.KERNEL, OpKind.VALUE) or not self._clamps or not self._gives_integers(node):
            return ()
        clamps: list[onnx.NodeProto] = []
        last = node
        while (after := self._editor.single_consumer(last.output[0])) is not None:
            if self._kind(after) is not OpKind.CLAMP:
                break
            clamps.append(after)
            last = after
        return tuple(clamps)

    def _gives_integers(self, node: onnx.NodeProto) -> bool:
        return node.op_type not in FLOAT_OUTPUT or self._is_read_as_integers(node)

    def _quantized(self, units: tuple[Unit, ...]) -> dict[str, QuantizedTensor]:
        sources: dict[str, str] = {}
        bounds: dict[str, tuple[float, float]] = {}
        readers: dict[str, set[str]] = {}
        produced: list[str] = []
        for unit in units:
            for name in activation_inputs(unit.node, unit.kind):
                readers.setdefault(name, set()).add(unit.node.output[0])
            if self._gives_integers(unit.node):
                produced += unit.outputs
                if unit.kind is OpKind.MOVE:
                    origin = sources.get(unit.node.input[0], unit.node.input[0])
                    sources.update(dict.fromkeys(unit.outputs, origin))
                bounds[unit.outputs[0]] = self._bounds(unit)
        computed, unbounded = set(produced), (float("-inf"), float("inf"))
        tensors = {}
        for name in dict.fromkeys([*readers, *produced]):
            source = sources.get(name, name)
            limits = bounds.get(source, unbounded)
            tensors[name] = QuantizedTensor(name, source, name in computed, frozenset(readers.get(name, ())), limits)
        return tensors

    def _bounds(self, unit: Unit) -> tuple[float, float]:
        pairs = [b for clamp in unit.clamps if (b := clamp_bounds(clamp, self._editor)) is not None]
        return max((b[0] for b in pairs), default=float("-inf")), min((b[1] for b in pairs), default=float("inf"))


def _judge(
    node: onnx.NodeProto, editor: GraphEditor, excluded: Mapping[str, FloatKernel]
) -> tuple[OpKind, FloatKernel | None]:
    """The kind that a node may have; for a kernel that stays in float also the cause."""
    kind = kind_of(node, editor)
    if kind is OpKind.KERNEL:
        exclusion = excluded.get(node.output[0], excluded.get(node.name))
        return (kind, None) if exclusion is None else (OpKind.FLOAT, exclusion)
    if kind in (OpKind.VALUE, OpKind.MOVE) and node.output[0] in excluded:
        return OpKind.FLOAT, None
    if node.op_type == "ConvTranspose":
        return kind, FloatKernel(Cause.OPERATOR, "ONNX Runtime has no integer kernel for it")
    if node.op_type in ("Conv", "Gemm", "MatMul"):
        return kind, FloatKernel(Cause.OPERATOR, kernel_refusal(node, editor) or "not an op of the default domain")
    return kind, None
