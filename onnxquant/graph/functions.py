"""Model-local functions of our domain: the nodes that an operator of ours stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from onnxquant.graph.names import DOMAIN, INTEGER_NETWORK
from onnxquant.graph.node import STANDARD, attribute, renamed
from onnxquant.graph.order import sort_nodes
from onnxquant.graph.traverse import replace_field

# Attribute of a call: the nodes that it stands for, whatever its body calls them.
NODES = "nodes"


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


def without_networks(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose nodes are all in its graphs, not in the parts that are one operator of ours: a copy, or itself."""
    if not any(node.domain == DOMAIN and node.op_type.startswith(INTEGER_NETWORK) for node in proto.graph.node):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    expand_functions(copy, INTEGER_NETWORK)
    return copy


def expand_functions(proto: onnx.ModelProto, prefix: str) -> None:
    """Put the nodes that calls of our functions stand for in their place in the main graph.

    Nodes that decode for several readers may be in several bodies, and in the graph: they come back once.

    Args:
        proto: the model, changed in place.
        prefix: beginning of the names of the functions.
    """
    bodies = {f.name: f for f in proto.functions if f.domain == DOMAIN and f.name.startswith(prefix)}
    if not bodies:
        return
    calls = [node for node in proto.graph.node if node.domain == DOMAIN and node.op_type in bodies]
    outputs = {name for node in calls for name in node.output}
    present = {name for node in proto.graph.node for name in node.output}
    present -= outputs
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.domain != DOMAIN or node.op_type not in bodies:
            nodes.append(node)
            continue
        missing = [inner for inner in _nodes_of(node, bodies[node.op_type]) if present.isdisjoint(inner.output)]
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


def _nodes_of(call: onnx.NodeProto, body: onnx.FunctionProto) -> list[onnx.NodeProto]:
    """The nodes that a call stands for: as they were, or those of the body where tensors have got other names since."""
    texts: Sequence[bytes] = attribute(call, NODES, [])
    nodes = [onnx.NodeProto.FromString(text) for text in texts]
    own = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in node.input if name} - own
    if nodes and own.issuperset(call.output) and read.issubset(call.input):
        return nodes
    names = dict(zip((*body.input, *body.output), (*call.input, *call.output), strict=True))
    for inner in (name for node in body.node for name in node.output):
        names.setdefault(inner, f"{call.output[0]}/{inner}")
    inner_nodes = [renamed(node, names) for node in body.node]
    for node in inner_nodes:
        # A node that several bodies have comes back several times here, and names of nodes are unique.
        node.ClearField("name")
    return inner_nodes


def _domain(name: str) -> str:
    return "" if name in STANDARD else name
