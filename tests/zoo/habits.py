"""Habits of exporters: changes of a finished model that leave what it computes as it is."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Habit = Callable[[onnx.ModelProto], onnx.ModelProto]
_LARGE = 200


def _large(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    return [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= _LARGE]


def _readers(graph: onnx.GraphProto, name: str) -> list[tuple[onnx.NodeProto, int]]:
    return [(node, i) for node in graph.node for i, n in enumerate(node.input) if n == name]


def _reads_inside(graph: onnx.GraphProto) -> set[str]:
    """Names that nested graphs read."""
    names: set[str] = set()
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                names |= {n for inner in attribute.g.node for n in inner.input} | _reads_inside(attribute.g)
    return names


def _insert_first(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def identity(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every weight is read through an Identity, one for each reader."""
    graph, nodes = model.graph, []
    for tensor in _large(graph):
        for count, (node, i) in enumerate(_readers(graph, tensor.name)):
            alias = f"{tensor.name}_alias{count}"
            nodes.append(helper.make_node("Identity", [tensor.name], [alias], name=f"Identity_{alias}"))
            node.input[i] = alias
    _insert_first(graph, nodes)
    return model


def constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Initializers are Constant nodes."""
    nodes = [
        helper.make_node("Constant", [], [t.name], value=t, name=f"Constant_{t.name}") for t in model.graph.initializer
    ]
    del model.graph.initializer[:]
    _insert_first(model.graph, nodes)
    return model


def graph_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Initializers are listed among the inputs, as optional ones."""
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return model


def graph_inputs_ir3(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same in a file of IR version 3, where it was the rule."""
    model.ir_version = 3
    return graph_inputs(model)


def _stored(model: onnx.ModelProto, dtype: np.dtype) -> onnx.ModelProto:
    graph, nodes = model.graph, []
    for tensor in _large(graph):
        name = tensor.name
        values = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}_stored"))
        nodes.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT, name=f"Cast_{name}"))
    _insert_first(graph, nodes)
    return model


def float16_storage(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights are stored in float16, and cast to float32 where they are read."""
    return _stored(model, np.dtype(np.float16))


def bfloat16_storage(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with bfloat16."""
    return _stored(model, np.dtype(ml_dtypes.bfloat16))


def transposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights of two axes are stored the other way round, behind a Transpose."""
    graph, nodes = model.graph, []
    for tensor in _large(graph):
        if len(tensor.dims) == 2:
            name = tensor.name
            values = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
            tensor.CopyFrom(numpy_helper.from_array(values, f"{name}_t"))
            nodes.append(helper.make_node("Transpose", [tensor.name], [name], perm=[1, 0], name=f"Transpose_{name}"))
    _insert_first(graph, nodes)
    return model


def functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes are in two functions, one in the other; weights and inputs are inputs of the functions."""
    graph = model.graph
    captured = _reads_inside(graph)
    read = {n for node in graph.node for n in node.input} | captured
    inputs = [i.name for i in graph.input if i.name in read] + [t.name for t in graph.initializer if t.name in read]
    outputs = [o.name for o in graph.output]
    imports = list(model.opset_import)
    domain = "zoo.functions"
    inner = helper.make_function(domain, "Body", inputs, outputs, list(graph.node), imports)
    call = helper.make_node("Body", inputs, outputs, domain=domain, name="inner")
    both = [*imports, helper.make_opsetid(domain, 1)]
    outer = helper.make_function(domain, "Network", inputs, outputs, [call], both)
    del graph.node[:]
    graph.node.append(helper.make_node("Network", inputs, outputs, domain=domain, name="network"))
    model.functions.extend([inner, outer])
    model.opset_import.append(helper.make_opsetid(domain, 1))
    model.ir_version = max(model.ir_version, 8)
    return model


def branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The whole network is in one branch of an If, the other gives zeros times what it gives."""
    graph = model.graph
    outputs = list(graph.output)
    then = helper.make_graph(
        list(graph.node), "then", [], [_renamed(o, o.name) for o in outputs], list(graph.initializer)
    )
    other = onnx.GraphProto()
    other.CopyFrom(then)
    other.name = "else"
    _prefix(other, "else_", {i.name for i in graph.input})
    del graph.node[:], graph.initializer[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, [1]))
    names = [f"{o.name}_out" for o in outputs]
    graph.node.append(helper.make_node("If", ["flag"], names, then_branch=then, else_branch=other, name="either"))
    graph.output.extend(_renamed(o, n) for o, n in zip(outputs, names, strict=True))
    return model


def _renamed(info: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(info)
    copy.name = name
    return copy


def _prefix(graph: onnx.GraphProto, prefix: str, outer: set[str]) -> None:
    def name(old: str) -> str:
        return old if not old or old in outer else prefix + old

    for node in graph.node:
        node.input[:] = [name(n) for n in node.input]
        node.output[:] = [name(n) for n in node.output]
    for item in [*graph.initializer, *graph.output]:
        item.name = name(item.name)


def float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Everything is float16, inputs and outputs too."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for info in [*graph.input, *graph.output]:
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    return model


def unnamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes without names, tensors with names of digits, doc strings, an initializer that nobody reads."""
    graph = model.graph
    outer = {i.name for i in graph.input} | {o.name for o in graph.output} | _reads_inside(graph)
    numbers = {
        n: str(i) for i, n in enumerate(dict.fromkeys(n for node in graph.node for n in [*node.input, *node.output]))
    }
    for node in graph.node:
        node.input[:] = [n if not n or n in outer else numbers[n] for n in node.input]
        node.output[:] = [n if n in outer else numbers[n] for n in node.output]
        node.name = ""
        node.doc_string = "File model.py(1): forward"
    for tensor in graph.initializer:
        if tensor.name not in outer:
            tensor.name = numbers.get(tensor.name, tensor.name)
    graph.initializer.append(numpy_helper.from_array(np.ones((64, 64), np.float32), "unused"))
    return model


def shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every tensor has its shape written down."""
    return onnx.shape_inference.infer_shapes(model)


def simplified_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Outputs come through Identity, and a tensor inside is an output too."""
    graph = model.graph
    for output in list(graph.output):
        for node in graph.node:
            node.output[:] = [f"{output.name}_inner" if n == output.name else n for n in node.output]
            node.input[:] = [f"{output.name}_inner" if n == output.name else n for n in node.input]
        graph.node.append(helper.make_node("Identity", [f"{output.name}_inner"], [output.name]))
    return model


def _none(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


_ALL = (
    identity,
    constants,
    graph_inputs,
    graph_inputs_ir3,
    float16_storage,
    bfloat16_storage,
    transposed,
    functions,
    branch,
)
HABITS: dict[str, Habit] = {"plain": _none}
HABITS |= {habit.__name__: habit for habit in (*_ALL, float16, unnamed, shapes, simplified_outputs)}
