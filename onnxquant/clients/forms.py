"""The forms of a model's nodes: operator, version, element types and integer attributes, each once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

import onnx

from onnxquant.clients.operators import STANDARD
from onnxquant.clients.sizes import Shapes, Size, size_of
from onnxquant.clients.types import add_outputs, constraint_types, graph_types
from onnxquant.graph.functions import with_kernels
from onnxquant.graph.traverse import subgraphs

BITS = {"int8": 8, "uint8": 8, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2}


@dataclass(frozen=True)
class Form:
    """All that decides whether a client computes a node.

    Attributes:
        domain: domain of the operator; empty for onnx's own.
        operator: the operator.
        version: version of the domain.
        types: element types by type constraint, as far as they are known.
        first_type: element type of the first input; empty where it is not known.
        attributes: integer attributes.
        codes: bits of the codes that the first and the second input are decoded from by a DequantizeLinear; 0: not so.
        has_float_bias: whether it is a Conv with a bias that no DequantizeLinear makes.
        is_unpacked: whether the bytes that it makes are taken apart into codes.
        size: size of a product or a convolution in the main graph, as far as it is known.
    """

    domain: str
    operator: str
    version: int
    types: tuple[tuple[str, str], ...] = ()
    first_type: str = ""
    attributes: tuple[tuple[str, int], ...] = ()
    codes: tuple[int, int] = (0, 0)
    size: Size | None = None
    has_float_bias: bool = False
    is_unpacked: bool = False

    def __str__(self) -> str:
        return f"{self.domain}::{self.operator}" if self.domain else self.operator

    def attribute(self, name: str) -> int:
        """Value of an integer attribute; 0 where the node does not set it."""
        return dict(self.attributes).get(name, 0)


def forms(proto: onnx.ModelProto, *, functions: bool = True, shapes: Shapes | None = None) -> list[Form]:
    """The forms of all nodes that a client computes, in the order of the graph.

    Args:
        proto: the model.
        functions: whether the client computes the bodies of model-local functions; else their calls are operators.
        shapes: shapes of tensors of the main graph, as far as they are known.
    """
    proto = with_kernels(proto) if functions else proto
    walk = _Walk({(f.domain, f.name): f for f in proto.functions} if functions else {}, shapes or {})
    return list(dict.fromkeys(walk.graph(proto.graph, {}, versions_of(proto.opset_import))))


def versions_of(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Version by domain."""
    return {"" if entry.domain in STANDARD else entry.domain: entry.version for entry in imports}


@dataclass(frozen=True)
class _Scope:
    """Tensors of a graph or of a function's body.

    Attributes:
        types: element types by tensor.
        versions: version by domain.
        decoded: the code that a DequantizeLinear decodes, by the tensor that it makes.
        unpacked: tensors of bytes that are taken apart into codes.
        activations, weights: shapes of tensors, as far as they are known.
    """

    types: Mapping[str, str]
    versions: Mapping[str, int]
    decoded: Mapping[str, str]
    unpacked: Set[str]
    activations: Shapes = field(default_factory=dict)
    weights: Shapes = field(default_factory=dict)

    def form(self, node: onnx.NodeProto) -> Form:
        domain = "" if node.domain in STANDARD else node.domain
        first = node.input[0] if node.input else ""
        integers = tuple(sorted((a.name, a.i) for a in node.attribute if a.type == onnx.AttributeProto.INT))
        types = tuple(sorted(constraint_types(node, self.types, self.versions).items()))
        return Form(
            domain, node.op_type, self.versions.get(domain, 1), types, self.types.get(first, ""), integers,
            (self._bits(node, 0), self._bits(node, 1)), size_of(node, self.activations, self.weights),
            node.op_type == "Conv" and len(node.input) > 2 and bool(node.input[2]) and node.input[2] not in self.decoded,
            bool(node.output) and node.output[0] in self.unpacked,
        )  # fmt: skip

    def _bits(self, node: onnx.NodeProto, place: int) -> int:
        """Bits of the codes that an input is decoded from."""
        name = node.input[place] if place < len(node.input) else ""
        return BITS.get(self.types.get(self.decoded.get(name, ""), ""), 0)


class _Walk:
    """Nodes of nested graphs, and of the bodies of functions in the place of their calls."""

    def __init__(self, functions: Mapping[tuple[str, str], onnx.FunctionProto], shapes: Shapes) -> None:
        self._functions, self._shapes = functions, shapes
        self._open: list[tuple[str, str]] = []

    def graph(self, graph: onnx.GraphProto, outer: Mapping[str, str], versions: Mapping[str, int]) -> Iterator[Form]:
        types = graph_types(graph, outer, versions)
        decoded = _decoded(graph.node)
        weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        weights |= {name: weights[code] for name, code in decoded.items() if code in weights}
        shapes = self._shapes_in_codes(graph) if not outer else {}
        scope = _Scope(types, versions, decoded, _unpacked(graph.node), shapes, weights)
        for node in graph.node:
            yield from self._node(node, scope)
            for inner in subgraphs(node):
                yield from self.graph(inner, types, versions)

    def _shapes_in_codes(self, graph: onnx.GraphProto) -> Shapes:
        """Shapes of tensors, of rounded and decoded ones too."""
        shapes = dict(self._shapes)
        for node in graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.output[0] not in shapes:
                shapes[node.output[0]] = shapes.get(node.input[0])
        return shapes

    def _node(self, node: onnx.NodeProto, scope: _Scope) -> Iterator[Form]:
        key = (node.domain, node.op_type)
        function = self._functions.get(key)
        if function is None or key in self._open:
            yield scope.form(node)
            return
        self._open.append(key)
        types = {inner: scope.types.get(outer, "") for inner, outer in zip(function.input, node.input, strict=False)}
        own, inside = versions_of(function.opset_import) or scope.versions, function.node
        body = _Scope(types, own, _decoded(inside), _unpacked(inside))
        for inner_node in (_with_attributes(n, function, node) for n in function.node):
            yield from self._node(inner_node, body)
            add_outputs(inner_node, types, body.versions)
        self._open.pop()


def _decoded(nodes: Iterable[onnx.NodeProto]) -> dict[str, str]:
    return {n.output[0]: n.input[0] for n in nodes if n.op_type == "DequantizeLinear"}


def _unpacked(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Tensors that become floats, and then the whole parts of quotients: the higher codes of bytes."""
    nodes = list(nodes)
    rounded = {n.input[0] for n in nodes if n.op_type == "Floor"}
    divided = {n.input[0] for n in nodes if n.op_type == "Div" and n.output[0] in rounded}
    return {n.input[0] for n in nodes if n.op_type == "Cast" and n.output[0] in divided}


def _with_attributes(node: onnx.NodeProto, function: onnx.FunctionProto, call: onnx.NodeProto) -> onnx.NodeProto:
    """A node of a function's body with the values that its attributes have in a call."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    values = {a.name: a for a in (*function.attribute_proto, *call.attribute)}
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for own in node.attribute:
        value = values.get(own.ref_attr_name) if own.ref_attr_name else own
        if value is not None:
            copy.attribute.add().CopyFrom(value)
            copy.attribute[-1].name = own.name
    return copy
