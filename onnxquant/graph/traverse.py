"""Walks over a model: its graphs, nodes and tensors, and the names that they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import onnx

from onnxquant.graph.node import is_op

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and every graph nested in it, outermost first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: of the graph, of nested graphs and of model-local functions."""
    for graph in graphs(proto.graph):
        yield from graph.node
    for function in proto.functions:
        yield from nodes_of_function(function)


def nodes_of_function(function: onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model-local function, those of nested graphs included."""
    for node in function.node:
        yield node
        for inner in subgraphs(node):
            for graph in graphs(inner):
                yield from graph.node


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor: initializers and node attributes, parts of sparse ones, nested graphs and functions included."""
    for graph in graphs(proto.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.TENSORS:
                yield from attribute.tensors
            elif attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    for function in proto.functions:
        for node in function.node:
            for inner in subgraphs(node):
                for graph in graphs(inner):
                    yield from graph.initializer


def names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that the nodes and outputs of a graph read, those of nested graphs included."""
    for inner in graphs(graph):
        for node in inner.node:
            yield from node.input
        for output in inner.output:
            yield output.name


def captured_names(graph: onnx.GraphProto) -> set[str]:
    """Names that graphs nested in this one read.

    Their own names are among them: a name is not used twice, so more than enough does no harm.
    """
    return {name for node in graph.node for inner in subgraphs(node) for name in names_read(inner)}


def constant_names(graph: onnx.GraphProto) -> set[str]:
    """Names of the constants of one graph: initializers that no caller may override, and the outputs of Constant nodes."""
    inputs = {value.name for value in graph.input}
    names = {tensor.name for tensor in graph.initializer if tensor.name not in inputs}
    return names | {name for node in graph.node if is_op(node, "Constant") for name in node.output}


def own_names(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph gives values itself: inside it they mean no value of the graphs around it."""
    names = {value.name for values in (graph.input, graph.initializer) for value in values}
    return names | {name for node in graph.node for name in node.output}


def rename_reads(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let the nodes of a graph, and of those nested in it, read other tensors: ``names`` has the new name of each old one."""
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in names:
                node.input[position] = names[name]
        for inner in subgraphs(node):
            own = own_names(inner)
            rename_reads(inner, {old: new for old, new in names.items() if old not in own and new not in own})


def names_of(proto: onnx.ModelProto) -> set[str]:
    """Every name of a model: of values, nodes and tensors."""
    names = names_of_graph(proto.graph)
    for node in nodes(proto):
        names.update((node.name, *node.input, *node.output))
    names.update(t.name for t in tensors(proto))
    return names


def names_of_graph(graph: onnx.GraphProto) -> set[str]:
    """Every name of a graph and of those nested in it."""
    names: set[str] = set()
    for inner in graphs(graph):
        for values in (inner.input, inner.output, inner.initializer, inner.value_info):
            names.update(value.name for value in values)
        for node in inner.node:
            names.update((node.name, *node.input, *node.output))
    return names


def replace_field(field: RepeatedCompositeFieldContainer[M], messages: Sequence[M]) -> None:
    """Give a repeated field other messages, some of which may be its own."""
    copies = [type(m).FromString(m.SerializeToString()) for m in messages]
    del field[:]
    field.extend(copies)
