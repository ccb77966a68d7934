"""Which nodes compute on integers, and which tensors are quantized for that. Looks at the graph alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from onnxquant.activations import op_kinds as ops
from onnxquant.activations.op_kinds import FLOAT_OUTPUT, Kind
from onnxquant.graph.flow import Flow


@dataclass(frozen=True)
class Unit:
    """A node that computes on integers, with the clamps after it: saturation does their work.

    ONNX Runtime drops a Relu or Clip before a QuantizeLinear whose range lies within its bounds.

    Attributes:
        node: the node.
        kind: what it does with scales.
        clamps: Relu and Clip nodes after it, in order.
    """

    node: onnx.NodeProto
    kind: Kind
    clamps: tuple[onnx.NodeProto, ...] = ()

    @property
    def name(self) -> str:
        """As messages and rules name it."""
        return str(self.node.name or self.node.output[0])

    @property
    def outputs(self) -> list[str]:
        """What it makes, clamped."""
        return list(self.clamps[-1].output if self.clamps else self.node.output)


@dataclass(frozen=True)
class Quantized:
    """A tensor between QuantizeLinear and DequantizeLinear.

    Attributes:
        name: of the float tensor.
        source: the tensor whose range it takes: itself, or what a chain of moves hands on.
        made: a unit makes it: then nothing reads the float values any more.
        readers: names of the units that read it (first outputs of their nodes).
        bounds: what clamps leave of the source's range.
    """

    name: str
    source: str
    made: bool
    readers: frozenset[str]
    bounds: tuple[float, float] = (float("-inf"), float("inf"))


@dataclass
class Placement:
    """Where integers are computed with.

    Attributes:
        units: in graph order.
        tensors: quantized ones by name, in the order in which they are made.
        left: kernels that stay in float, by name, with the reason.
        split: outputs of Gemms with C that give floats.
    """

    units: list[Unit] = field(default_factory=list)
    tensors: dict[str, Quantized] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    split: list[str] = field(default_factory=list)

    @property
    def kernels(self) -> list[Unit]:
        """Units with a weight."""
        return [u for u in self.units if u.kind is Kind.KERNEL]

    @property
    def sources(self) -> list[str]:
        """Tensors whose ranges are needed."""
        return list(dict.fromkeys(t.source for t in self.tensors.values()))


def place(flow: Flow, excluded: Mapping[str, str] | None = None, *, clamps: bool = True) -> Placement:
    """Find the units of a graph.

    Args:
        flow: the prepared graph.
        excluded: kernels that stay in float, by the name of the node or its output, with the reason.
        clamps: whether saturation may replace Relu and Clip; it may not where codes are symmetric around zero.
    """
    return _Search(flow, excluded or {}, clamps=clamps).run()


class _Search:
    """Begins with every node that could be integer, and takes out what would only cost conversions."""

    def __init__(self, flow: Flow, excluded: Mapping[str, str], *, clamps: bool) -> None:
        self.flow = flow
        self.clamps = clamps
        self.placement = Placement()
        self.kinds: dict[int, Kind] = {}
        for node in flow.nodes:
            kind = ops.kind_of(node, flow)
            reason = excluded.get(node.output[0], excluded.get(node.name)) if kind is Kind.KERNEL else None
            if reason is not None:
                self.placement.left[node.name or node.output[0]] = reason
                kind = Kind.FLOAT
            elif node.op_type in ("Conv", "Gemm", "MatMul", "ConvTranspose") and kind is Kind.FLOAT:
                transposed = node.op_type == "ConvTranspose"
                reason = "ONNX Runtime has no integer kernel for it" if transposed else ops.refused(node, flow)
                self.placement.left[node.name or node.output[0]] = reason or "not an op of the default domain"
            if kind is not Kind.FLOAT:
                self.kinds[id(node)] = kind

    def run(self) -> Placement:
        while removed := [n for n in self.flow.nodes if self._is_useless(n)]:
            for node in removed:
                del self.kinds[id(node)]
        elided = {id(c) for n in self.flow.nodes for c in self._clamps_of(n)}
        for node in self.flow.nodes:
            kind = self.kinds.get(id(node))
            if kind is not None and id(node) not in elided and kind is not Kind.CLAMP:
                self.placement.units.append(Unit(node, kind, self._clamps_of(node)))
        self._quantize_tensors()
        return self.placement

    def _is_useless(self, node: onnx.NodeProto) -> bool:
        """Whether a node other than a kernel would not save a conversion: it needs integers before and after it."""
        kind = self.kinds.get(id(node))
        if kind in (None, Kind.KERNEL):
            return False
        assert kind
        if kind is Kind.CLAMP and self._ends_a_kernel(node):
            return False
        fed = any(self._makes_integers(name) for name in ops.inputs(node, kind))
        return not (fed and self._is_read_as_integers(node))

    def _ends_a_kernel(self, clamp: onnx.NodeProto) -> bool:
        """Whether a clamp follows a kernel that gives codes anyway: its bounds then are the codes', whoever reads them."""
        maker = self.flow.producer(clamp.input[0])
        while maker is not None and self.kinds.get(id(maker)) is Kind.CLAMP:
            maker = self.flow.producer(maker.input[0])
        if maker is None or self.kinds.get(id(maker)) is not Kind.KERNEL or maker.op_type in FLOAT_OUTPUT:
            return False
        return any(c is clamp for c in self._clamps_of(maker))

    def _makes_integers(self, name: str) -> bool:
        maker = self.flow.producer(name)
        return maker is not None and id(maker) in self.kinds

    def _is_read_as_integers(self, node: onnx.NodeProto) -> bool:
        for output in node.output:
            for reader in self.flow.consumers(output):
                kind = self.kinds.get(id(reader))
                if kind is not None and output in ops.inputs(reader, kind):
                    return True
        return False

    def _clamps_of(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, ...]:
        """The clamps right after a node that makes integers, each the only reader of what it clamps."""
        found: list[onnx.NodeProto] = []
        kind = self.kinds.get(id(node))
        if kind not in (Kind.KERNEL, Kind.VALUE) or not self._gives_integers(node):
            return ()
        last = node
        while (after := self.flow.single_consumer(last.output[0])) is not None:
            if not self.clamps or self.kinds.get(id(after)) is not Kind.CLAMP:
                break
            found.append(after)
            last = after
        return tuple(found)

    def _gives_integers(self, node: onnx.NodeProto) -> bool:
        return node.op_type not in FLOAT_OUTPUT or self._is_read_as_integers(node)

    def _quantize_tensors(self) -> None:
        sources: dict[str, str] = {}
        limits: dict[str, tuple[float, float]] = {}
        made: list[str] = []
        readers: dict[str, set[str]] = {}
        for unit in self.placement.units:
            for name in ops.inputs(unit.node, unit.kind):
                readers.setdefault(name, set()).add(unit.node.output[0])
            if unit.node.op_type == "Gemm" and len(unit.node.input) > 2 and not self._gives_integers(unit.node):
                self.placement.split.append(unit.node.output[0])
            if self._gives_integers(unit.node):
                for name in unit.outputs:
                    made.append(name)
                    if unit.kind is Kind.MOVE:
                        sources[name] = sources.get(unit.node.input[0], unit.node.input[0])
                limits[unit.outputs[0]] = self._limits(unit)
        for name in dict.fromkeys([*readers, *made]):
            bounds = limits.get(sources.get(name, name), (float("-inf"), float("inf")))
            self.placement.tensors[name] = Quantized(
                name, sources.get(name, name), name in set(made), frozenset(readers.get(name, ())), bounds
            )

    def _limits(self, unit: Unit) -> tuple[float, float]:
        low, high = float("-inf"), float("inf")
        for clamp in unit.clamps:
            limits = ops.bounds(clamp, self.flow)
            assert limits
            low, high = max(low, limits[0]), min(high, limits[1])
        return low, high
