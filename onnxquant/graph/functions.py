"""Model-local functions of our domain: the nodes that an operator of ours stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx

from onnxquant.graph.names import DOMAIN, DYNAMIC_PRODUCTS, INTEGER_NETWORK, NameAllocator
from onnxquant.graph.node import STANDARD, attribute, renamed
from onnxquant.graph.order import sort_nodes
from onnxquant.graph.traverse import names_of, replace_field

# Attribute of a call: the nodes that it stands for, whatever its body calls them.
NODES = "nodes"
# Names that an operator of ours has in the compiled library, a number behind each: as many bodies may be in a model.
MOST_NAMES = 16
# Beginnings of the names of our operators whose bodies are kernels on integers: who looks for kernels looks inside.
_OF_KERNELS = (INTEGER_NETWORK, DYNAMIC_PRODUCTS)


def local_function(
    name: str,
    inputs: Iterable[str],
    outputs: Iterable[str],
    attributes: Iterable[str],
    nodes: Sequence[onnx.NodeProto],
    imports: Iterable[onnx.OperatorSetIdProto],
) -> onnx.FunctionProto:
    """A function of our domain.

    Args:
        name: its name.
        inputs: names of what it reads.
        outputs: names of what it computes.
        attributes: names of the attributes that its calls have.
        nodes: its nodes.
        imports: the model's versions of domains; the function gets those that its nodes need.
    """
    function = onnx.FunctionProto(domain=DOMAIN, name=name)
    function.input.extend(inputs)
    function.output.extend(outputs)
    function.attribute.extend(attributes)
    used = {_domain(node.domain) for node in nodes}
    function.opset_import.extend(entry for entry in imports if _domain(entry.domain) in used)
    function.node.extend(nodes)
    return function


def import_domain(proto: onnx.ModelProto) -> None:
    """Import our domain into a model, if it does not."""
    if all(entry.domain != DOMAIN for entry in proto.opset_import):
        proto.opset_import.add(domain=DOMAIN, version=1)


def is_call(node: onnx.NodeProto, *prefixes: str) -> bool:
    """Whether a node is a call of a function of ours.

    Args:
        node: the node.
        prefixes: beginnings of the names of such functions.
    """
    return node.domain == DOMAIN and node.op_type.startswith(prefixes)


def with_kernels(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose kernels on integers are all in its graphs, not in operators of ours: a copy, or itself."""
    if not any(is_call(node, *_OF_KERNELS) for node in proto.graph.node):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    expand_kernels(copy)
    return copy


def expand_kernels(proto: onnx.ModelProto) -> None:
    """Put the nodes of our operators that have kernels on integers in their bodies back, in place."""
    expand_functions(proto, *_OF_KERNELS)


def expand_functions(proto: onnx.ModelProto, *prefixes: str) -> None:
    """Put the nodes that calls of our functions stand for in their place in the main graph.

    Nodes that decode for several readers may be in several bodies, and in the graph: they come back once.

    Args:
        proto: the model, changed in place.
        prefixes: beginnings of the names of the functions.
    """
    bodies = {f.name: f for f in proto.functions if f.domain == DOMAIN and f.name.startswith(prefixes)}
    if not bodies:
        return
    fresh = NameAllocator(names_of(proto)).fresh
    calls = [node for node in proto.graph.node if node.domain == DOMAIN and node.op_type in bodies]
    outputs = {name for node in calls for name in node.output}
    present = {name for node in proto.graph.node for name in node.output}
    present -= outputs
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.domain != DOMAIN or node.op_type not in bodies:
            nodes.append(node)
            continue
        missing = [inner for inner in _nodes_of(node, bodies[node.op_type], fresh) if present.isdisjoint(inner.output)]
        present.update(name for inner in missing for name in inner.output)
        nodes += missing
    replace_field(proto.graph.node, nodes)
    # Whoever takes the roundings out gives these tensors another type.
    replace_field(proto.graph.value_info, [value for value in proto.graph.value_info if value.name not in outputs])
    sort_nodes(proto.graph)
    replace_field(proto.functions, [f for f in proto.functions if f.domain != DOMAIN or f.name not in bodies])


def plain_nodes(
    nodes: Iterable[onnx.NodeProto], names: Mapping[str, str], without: Iterable[onnx.NodeProto]
) -> list[onnx.NodeProto]:
    """Nodes of a body that loads soon: tensors with short names, no metadata, and none of the nodes that change nothing.

    Args:
        nodes: the nodes.
        names: names in the body of what they read and compute for others.
        without: nodes of one input and output to leave out; who reads the output reads the input.
    """
    left = {id(node) for node in without}
    short = {"": "", **names}
    body = []
    for node in nodes:
        if id(node) in left:
            short[node.output[0]] = short[node.input[0]]
            continue
        for name in node.output:
            short.setdefault(name, f"t{len(short)}")
        plain = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=node.name)
        plain.input.extend(short[name] for name in node.input)
        plain.output.extend(short[name] for name in node.output)
        plain.attribute.extend(node.attribute)
        body.append(plain)
    return body


def nodes_entry(nodes: Iterable[onnx.NodeProto]) -> onnx.AttributeProto:
    """The attribute of a call that holds the nodes that it stands for, as they were."""
    return onnx.helper.make_attribute(NODES, [node.SerializeToString() for node in nodes])


def _nodes_of(call: onnx.NodeProto, body: onnx.FunctionProto, fresh: Callable[[str], str]) -> list[onnx.NodeProto]:
    """The nodes that a call stands for: as they were, or those of the body where they are not told, or tensors were renamed.

    Args:
        call: the call.
        body: its function.
        fresh: function that makes a name that nothing has.
    """
    texts: Sequence[bytes] = attribute(call, NODES, [])
    nodes = [onnx.NodeProto.FromString(text) for text in texts]
    own = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in node.input if name} - own
    if nodes and own.issuperset(call.output) and read.issubset(call.input):
        return nodes
    names = dict(zip((*body.input, *body.output), (*call.input, *call.output), strict=True))
    for node in body.node:
        for name in node.output:
            names.setdefault(name, fresh(f"{call.output[0]}/{node.op_type}"))
    inner_nodes = [renamed(node, names) for node in body.node]
    for node in inner_nodes:
        node.name = fresh(f"{node.output[0]}/node")
    return inner_nodes


def _domain(name: str) -> str:
    return "" if name in STANDARD else name
