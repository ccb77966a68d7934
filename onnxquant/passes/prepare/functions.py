"""Inlining of model-local functions that hold weights."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import onnx
import onnx.defs
import onnx.inliner

from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.node import STANDARD, is_op
from onnxquant.graph.sites import FLOATS, MIN_ELEMENTS
from onnxquant.graph.traverse import graphs, replace_field, subgraphs
from onnxquant.graph.wire import OUTLINE_ABOVE
from onnxquant.passes.base import Pass, PassResult

_Key = tuple[str, str]
# Functions may call each other; each round inlines those that a round before has brought weights to.
_ROUNDS = 64


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Inlines model-local functions that hold or get weights, so that each call has its weights where sites are looked for.

    1. A function in which a Constant holds more than 1 KiB, or that calls such a function, is inlined, and its definition
       removed.

           Layer(x) with Layer(a) = MatMul(a, Constant)   ->   MatMul(x, Constant)

    2. So is a function that is called with a weight, be it behind other nodes of constants.

           Layer(x, w) with Layer(a, b) = MatMul(a, b)    ->   MatMul(x, w)

    3. A function written for another opset is inlined as it is where its operators mean the same in the model's opset; else
       onnx's version converter rewrites it, and every function is inlined.
    4. Constants made equal by that, which refer to the same bytes, become one.

           MatMul(x, c1), MatMul(y, c2) with c1 = c2      ->   MatMul(x, c1), MatMul(y, c1)
    """

    name = "inline-functions"
    summary = "inlines model-local functions that hold or get weights"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        proto = document.proto
        inlined: set[_Key] = set()
        for _ in range(_ROUNDS):
            keys = _with_weights(proto)
            if not keys:
                break
            try:
                result = _inline(proto, document.opset, keys)
            except RuntimeError as error:  # functions that the inliner cannot take stay
                return PassResult(bool(inlined), (f"functions stay: {str(error).splitlines()[0]}",))
            inlined |= keys
            proto.CopyFrom(result)
        if not inlined:
            return PassResult()
        joined = _join_equal_constants(proto.graph)
        note = f"{len(inlined)} functions with weights inlined" + (
            f", {joined} copies of weights joined" if joined else ""
        )
        return PassResult(True, (note,))


def _inline(proto: onnx.ModelProto, opset: int, keys: set[_Key]) -> onnx.ModelProto:
    """A model without some of its functions, which are inlined.

    Raises:
        RuntimeError: the inliner refuses the model.
    """
    source = onnx.ModelProto()
    source.CopyFrom(proto)
    alike = [_import_opset(function, opset) for function in source.functions]
    if not all(alike):
        # The converter must know the types of what functions are called with.
        make = onnx.helper.make_tensor_value_info
        source.graph.value_info.extend(make(t.name, t.data_type, t.dims) for t in source.graph.initializer)
        return onnx.inliner.inline_local_functions(source, convert_version=True)
    result = onnx.inliner.inline_selected_functions(source, sorted(keys))
    # The inliner keeps the definitions; without callers they would only carry the weights a second time.
    replace_field(result.functions, [f for f in proto.functions if (f.domain, f.name) not in keys])
    return result


def _import_opset(function: onnx.FunctionProto, opset: int) -> bool:
    """Let a function import the model's opset; False where one of its operators means something else there."""
    for entry in function.opset_import:
        if entry.domain in STANDARD and entry.version != opset:
            ops = {n.op_type for n in _nodes(function.node) if n.domain in STANDARD}
            if any(_since(op, entry.version) != _since(op, opset) for op in ops):
                return False
            entry.version = opset
    return True


def _since(op: str, opset: int) -> int:
    """The opset that brought an operator its meaning in an opset; 0 for one that onnx does not know."""
    try:
        return int(onnx.defs.get_schema(op, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, with those of the graphs nested in them."""
    for node in nodes:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner.node)


def _with_weights(proto: onnx.ModelProto) -> set[_Key]:
    """Functions that hold a weight, call one that does, or are called from a graph with a weight."""
    functions = [f for f in proto.functions if f.domain != DOMAIN]  # bodies of ours decode weights
    calls = {(f.domain, f.name): {(n.domain, n.op_type) for n in _nodes(f.node)} for f in functions}
    keys = {(f.domain, f.name) for f in functions if any(_holds_weight(n) for n in f.node)}
    while more := {key for key, inner in calls.items() if key not in keys and inner & keys}:
        keys |= more
    return keys | _called_with_weights(proto.graph, {}, calls.keys())


def _called_with_weights(graph: onnx.GraphProto, outer: Mapping[str, bool], functions: Container[_Key]) -> set[_Key]:
    """Functions that are called with a weight in a graph, or in one nested in it.

    Args:
        graph: the graph.
        outer: constants of the graphs around it, by name: whether each is a weight, or computed from one.
        functions: the functions of the model.
    """
    inputs = {value.name for value in graph.input}
    constants = {name: is_weight for name, is_weight in outer.items() if name not in inputs}
    constants.update((t.name, _is_weight(t)) for t in graph.initializer if t.name not in inputs)
    keys: set[_Key] = set()
    for node in graph.node:
        names = [name for name in node.input if name]
        if (node.domain, node.op_type) in functions and any(constants.get(name) for name in names):
            keys.add((node.domain, node.op_type))
        for inner in subgraphs(node):
            keys |= _called_with_weights(inner, constants, functions)
        if is_op(node, "Constant"):
            constants[node.output[0]] = _holds_weight(node)
        elif names and all(name in constants for name in names):
            constants.update(dict.fromkeys(node.output, any(constants[name] for name in names)))
    return keys


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in FLOATS and len(tensor.dims) > 1 and prod(tensor.dims) >= MIN_ELEMENTS


def _holds_weight(node: onnx.NodeProto) -> bool:
    return any(
        (
            a.type == onnx.AttributeProto.TENSOR
            and (a.t.data_location == onnx.TensorProto.EXTERNAL or a.t.ByteSize() > OUTLINE_ABOVE)
        )
        or (a.type == onnx.AttributeProto.GRAPH and any(_holds_weight(n) for n in a.g.node))
        for a in node.attribute
    )


def _join_equal_constants(graph: onnx.GraphProto) -> int:
    """Let readers of equal outlined constants read the first one."""
    outputs = {o.name for o in graph.output}
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    others = []
    for node in graph.node:
        if node.op_type == "Constant" and _holds_weight(node) and node.output[0] not in outputs:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.ClearField("name")
            key = tensor.SerializeToString(deterministic=True)
            if key in first:
                same[node.output[0]] = first[key]
                continue
            first[key] = node.output[0]
        others.append(node)
    if same:
        replace_field(graph.node, others)
        for inner in graphs(graph):
            for node in inner.node:
                for i, name in enumerate(node.input):
                    node.input[i] = same.get(name, name)
    return len(same)
