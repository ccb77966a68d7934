"""The time that a model with integer activations spends in floats: rounding, decoding, and operators that stayed in float."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod

import onnx

from onnxquant import runtime
from onnxquant.artifact.records import activation_record
from onnxquant.errors import ModelError
from onnxquant.graph.names import DYNAMIC_PRODUCTS, INTEGER_NETWORK, MAP_CODES, NUMBERED
from onnxquant.graph.sites import MIN_ELEMENTS
from onnxquant.graph.traverse import subgraphs
from onnxquant.plan.activations import StaticRecord

_CODES = frozenset({
    onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4, onnx.TensorProto.UINT4,
    onnx.TensorProto.INT16, onnx.TensorProto.UINT16,
})  # fmt: skip
_CODE_TYPES = frozenset({"int8", "uint8", "int4", "uint4", "int16", "uint16"})
_FLOAT_TYPES = frozenset({"float", "float16", "bfloat16", "double"})
_DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", DYNAMIC_PRODUCTS)
_ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear")
_DECODING = "DequantizeLinear"
# Beginnings of the names of operators that compute on the codes of activations.
_INTEGER = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", *_ROUNDING, *_DYNAMIC)
_PRODUCTS = frozenset({
    "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention",
    "MultiHeadAttention", "GroupQueryAttention", "LSTM", "GRU", "RNN", "Einsum",
})  # fmt: skip
# Operators on single values, chains of which become one table of codes.
_ELEMENTWISE = frozenset({
    "Add", "Div", "Erf", "Exp", "FastGelu", "Gelu", "BiasGelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul", "Pow",
    "QuickGelu", "Sigmoid", "Sub", "Tanh",
})  # fmt: skip
# The part of the time below which nothing is said, and below which no remedy is.
_LEAST, _WORTHWHILE = 0.005, 0.03


class FloatWork(StrEnum):
    """Kinds of work on floats in a model that computes on integers."""

    ROUNDING = "rounding"  # floats to codes and back
    DECODING = "decoding weights on every call"
    PRODUCT = "in float"  # a matrix product, convolution or recurrent layer
    BETWEEN = "between codes"  # its input comes from codes, its output goes to codes


@dataclass(frozen=True)
class TimedNode:
    """A node that ran.

    Attributes:
        call: one of its calls.
        operator: its operator with the domain.
        calls: calls in a run.
        seconds: time in a run.
    """

    call: runtime.Call
    operator: str
    calls: int
    seconds: float

    @property
    def name(self) -> str:
        """Its name, as onnxruntime calls it."""
        return self.call.name


@dataclass(frozen=True)
class FloatPart:
    """The time of one operator on floats.

    Attributes:
        work: kind of the work.
        operator: the operator.
        nodes: names of its nodes, as onnxruntime calls them, the longest first.
        seconds: time in a run.
        share: part of the time of all operators.
    """

    work: FloatWork
    operator: str
    nodes: tuple[str, ...]
    seconds: float
    share: float


@dataclass(frozen=True)
class NotInteger:
    """The time that a model which computes on integers spends in floats.

    Attributes:
        seconds: time in a run.
        share: part of the time of all operators.
        parts: operators, the longest first.
        reasons: number of kernels in float by the reason that the file records.
        remedies: ways to have less of it.
    """

    seconds: float
    share: float
    parts: tuple[FloatPart, ...]
    reasons: dict[str, int]
    remedies: tuple[str, ...]


def not_integer(timed: Sequence[TimedNode], model: onnx.ModelProto) -> NotInteger | None:
    """The time in floats; None where there is none worth a word, or the model computes in float.

    Only nodes that the trace and the graph tell apart count: those that round, those that decode weights, products in float,
    and what lies between codes. What stands before the first code or behind the last one does not.

    Args:
        timed: the nodes that ran.
        model: the model.
    """
    has_codes = any(node.call.op.startswith(_INTEGER) for node in timed)
    by_graph = defaultdict[int, list[TimedNode]](list)
    for node in timed:
        if node.call.graph is not None:
            by_graph[id(node.call.graph)].append(node)
    groups = defaultdict[tuple[FloatWork, str], list[TimedNode]](list)
    for nodes in by_graph.values():
        for node, work in _works(nodes, has_codes=has_codes):
            groups[work, node.operator].append(node)
    total = sum(node.seconds for node in timed) or 1.0
    parts = sorted((_part(*key, nodes, total) for key, nodes in groups.items()), key=lambda part: -part.seconds)
    seconds = sum(part.seconds for part in parts)
    if seconds / total < _LEAST:
        return None
    reasons = _reasons(model) if any(part.work is FloatWork.PRODUCT for part in parts) else {}
    operators = {node.call.op for node in timed}
    return NotInteger(seconds, seconds / total, tuple(parts), reasons, tuple(_remedies(parts, operators, model)))


def _part(work: FloatWork, operator: str, nodes: Sequence[TimedNode], total: float) -> FloatPart:
    ordered = sorted(nodes, key=lambda node: (-node.seconds, node.name))
    seconds = sum(node.seconds for node in nodes)
    return FloatPart(work, operator, tuple(node.name for node in ordered), seconds, seconds / total)


def _works(nodes: Sequence[TimedNode], *, has_codes: bool) -> Iterable[tuple[TimedNode, FloatWork]]:
    """The nodes of one graph that work on floats, with the kind of their work.

    Args:
        nodes: those of its nodes that ran.
        has_codes: whether the model computes on the codes of activations.
    """
    graph = _CodeGraph(nodes)
    for node in nodes:
        if node.call.op == _DECODING and graph.reads_weight(node):
            yield node, FloatWork.DECODING
        elif not has_codes:
            continue
        elif node.call.op in (*_ROUNDING, _DECODING):
            yield node, FloatWork.ROUNDING
        elif not graph.is_float(node):
            continue
        elif node.call.op in _PRODUCTS:
            yield node, FloatWork.PRODUCT
        elif graph.is_between(node):
            yield node, FloatWork.BETWEEN


class _CodeGraph:
    """The tensors of a graph that come from codes, or go to codes, by way of operators on floats.

    Args:
        nodes: those of its nodes that ran.
    """

    def __init__(self, nodes: Sequence[TimedNode]) -> None:
        proto = nodes[0].call.graph
        self._constants = {t.name: t for t in proto.initializer} if proto else {}
        ordered = sorted(nodes, key=_place(proto))
        self._from_codes, self._to_codes = set[str](), set[str]()
        for node in ordered:
            inputs, outputs = _names(node)
            if (self._is_integer(node) and not self.reads_weight(node)) or (
                self.is_float(node) and not self._from_codes.isdisjoint(inputs)
            ):
                self._from_codes.update(outputs)
        for node in reversed(ordered):
            inputs, outputs = _names(node)
            if self._is_integer(node) or (self.is_float(node) and not self._to_codes.isdisjoint(outputs)):
                self._to_codes.update(inputs)

    def reads_weight(self, node: TimedNode) -> bool:
        """Whether its first input is a constant with the codes of a weight."""
        inputs, _ = _names(node)
        constant = self._constants.get(inputs[0]) if inputs else None
        return constant is not None and constant.data_type in _CODES and prod(constant.dims) >= MIN_ELEMENTS

    def is_float(self, node: TimedNode) -> bool:
        """Whether it computes floats from floats alone."""
        proto, call = node.call.node, node.call
        if proto is None or any(subgraphs(proto)) or self._is_integer(node):
            return False
        constants = [self._constants[name] for name in proto.input if name in self._constants]
        reads = {tensor.type for tensor in call.inputs}
        gives = {tensor.type for tensor in call.outputs}
        has_codes = any(tensor.data_type in _CODES for tensor in constants) or not _CODE_TYPES.isdisjoint(reads | gives)
        return not has_codes and not _FLOAT_TYPES.isdisjoint(reads) and not _FLOAT_TYPES.isdisjoint(gives)

    def is_between(self, node: TimedNode) -> bool:
        """Whether an input comes from codes, and an output goes to codes."""
        inputs, outputs = _names(node)
        return not self._from_codes.isdisjoint(inputs) and not self._to_codes.isdisjoint(outputs)

    def _is_integer(self, node: TimedNode) -> bool:
        """Whether it reads or gives the codes of activations."""
        return node.call.op.startswith((_DECODING, *NUMBERED, *_INTEGER))


def _names(node: TimedNode) -> tuple[list[str], list[str]]:
    """Names of the tensors that a node reads and gives."""
    proto = node.call.node
    return ([], []) if proto is None else ([n for n in proto.input if n], [n for n in proto.output if n])


def _place(graph: onnx.GraphProto | None) -> Callable[[TimedNode], int]:
    """The place of a node among those of its graph."""
    places = {output: place for place, node in enumerate(graph.node) for output in node.output} if graph else {}
    return lambda node: places.get(_names(node)[1][0], 0) if _names(node)[1] else 0


def _reasons(model: onnx.ModelProto) -> dict[str, int]:
    """Number of kernels in float by the reason that the file records."""
    record = _record(model)
    return dict(Counter(record.left_in_float.values()).most_common()) if isinstance(record, StaticRecord) else {}


def _record(model: onnx.ModelProto) -> object:
    try:
        return activation_record(model)
    except ModelError:  # a damaged record is no reason to tell nothing of its time
        return None


def _remedies(parts: Sequence[FloatPart], operators: Iterable[str], model: onnx.ModelProto) -> Iterable[str]:
    """Ways to have less of some parts."""
    operators = set(operators)
    shares = defaultdict[FloatWork, float](float)
    for part in parts:
        shares[part.work] += part.share
    if shares[FloatWork.DECODING] >= _WORTHWHILE:
        yield "onnxquant quantize of the float model decodes weights inside of products, or once when the file is loaded"
    if any(op.startswith(_DYNAMIC) for op in operators):
        yield (
            "activations are rounded anew on every call; with samples fixed ranges do for all of them: "
            "onnxquant quantize MODEL --activations static --data SAMPLES"
        )
        return
    chains = sum(p.share for p in parts if p.work is FloatWork.BETWEEN and p.operator.split(".")[-1] in _ELEMENTWISE)
    has_tables = any(op.startswith((MAP_CODES, INTEGER_NETWORK)) for op in operators)
    if chains >= _WORTHWHILE and not has_tables and isinstance(_record(model), StaticRecord):
        yield (
            f"chains of operators on single values become one table of codes, our operator {MAP_CODES}: "
            "onnxquant quantize MODEL --activations static without --target and --for"
        )
