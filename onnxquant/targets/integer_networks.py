"""Our operator IntegerNetwork: a part of a network between codes and codes, whose steps our library computes in one go.

The operator's body is the nodes that it replaces, so that any onnxruntime computes what it did before. onnxruntime takes time
to load a body, so its names are short, and clamps that rounding does, too, are left out; the nodes as they were stand in
an attribute, from which they can be put back. Its constants are inputs, which the kernel reads when a session is created.
``custom_ops/README.md`` has the steps of a program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.functions import (
    MOST_NAMES,
    expand_functions,
    import_domain,
    is_call,
    local_function,
    nodes_entry,
    plain_nodes,
)
from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN, INTEGER_NETWORK
from onnxquant.graph.order import sort_nodes
from onnxquant.graph.shapes import Known, infer
from onnxquant.targets.code_functions import CodeFunction, code_tables
from onnxquant.targets.network_ends import CodeReader
from onnxquant.targets.network_regions import NetworkRegion, network_regions
from onnxquant.targets.network_steps import Step, StepKind
from onnxquant.targets.network_units import find_units

_INPUTS, _PROGRAM, _OUTPUTS, _TABLES = "inputs", "program", "outputs", "tables"
_ABSENT = -1


def add_integer_networks(proto: onnx.ModelProto) -> int:
    """Replace parts of the main graph between codes and codes by our operator, in place.

    Args:
        proto: a model with integer activations.

    Returns:
        the number of operators.
    """
    editor = GraphEditor(proto.graph)
    shapes = infer(Document(proto, memoryview(b""), None))
    reader = CodeReader(editor, shapes)
    regions = network_regions(editor, find_units(reader), MOST_NAMES)
    if not regions:
        return 0
    functions = [f for region in regions for step in region.steps for f in step.functions if f is not None]
    tables = dict(zip(map(id, functions), code_tables(proto, editor, functions), strict=True))
    calls = []
    for number, region in enumerate(regions, 1):
        name = f"{INTEGER_NETWORK}{number}"
        constants = _constants(editor, region)
        call = _call(name, region, constants, tables)
        call.name = editor.names.fresh(f"{region.outputs[0]}/{INTEGER_NETWORK}")
        calls.append(call)
        call.attribute.append(nodes_entry(region.nodes))
        proto.functions.append(_function(call, region, reader, proto.opset_import))
    for region, call in zip(regions, calls, strict=True):
        for node in region.leaving:
            if not editor.is_removed(node):
                editor.remove(node)
        editor.insert_after(region.nodes[-1], [call])
        _declare(proto.graph, region, shapes)
    editor.apply(keep_unread=True)
    sort_nodes(proto.graph)
    import_domain(proto)
    return len(calls)


def is_integer_network(node: onnx.NodeProto) -> bool:
    """Whether a node is our operator."""
    return is_call(node, INTEGER_NETWORK)


def expand_integer_networks(proto: onnx.ModelProto) -> None:
    """Put the nodes back that our operator stands for, in place."""
    expand_functions(proto, INTEGER_NETWORK)


def _function(
    call: onnx.NodeProto, region: NetworkRegion, reader: CodeReader, imports: Iterable[onnx.OperatorSetIdProto]
) -> onnx.FunctionProto:
    """The function whose body computes what a call does."""
    inputs = {name: f"x{i}" for i, name in enumerate(call.input)}
    outputs = {name: f"y{i}" for i, name in enumerate(call.output)}
    nodes = plain_nodes(region.nodes, {**inputs, **outputs}, reader.idle_clamps(region.nodes))
    attributes = [attribute.name for attribute in call.attribute]
    return local_function(call.op_type, inputs.values(), outputs.values(), attributes, nodes, imports)


def _constants(editor: GraphEditor, region: NetworkRegion) -> list[str]:
    """Names of the constants that the nodes of a region read, in the order of the nodes."""
    own = {name for node in region.nodes for name in node.output}
    names = (name for node in region.nodes for name in node.input if name and name not in own)
    return [name for name in dict.fromkeys(names) if name not in region.inputs]


def _call(
    name: str, region: NetworkRegion, constants: Sequence[str], tables: Mapping[int, NDArray[np.integer]]
) -> onnx.NodeProto:
    """The operator in the place of a region.

    Args:
        name: its name.
        region: the region.
        constants: the constants that its nodes read.
        tables: tables of functions, by their identity.
    """
    call = onnx.helper.make_node(name, [*region.inputs, *constants], list(region.outputs), domain=DOMAIN)
    program = _Program(region.inputs, constants, tables)
    for step in region.steps:
        program.add(step)
    attributes = {
        _INPUTS: len(region.inputs),
        _PROGRAM: program.words,
        _OUTPUTS: [program.tensors[name] for name in region.outputs],
    }
    call.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    if program.tables:
        stacked = onnx.numpy_helper.from_array(np.stack(program.tables), _TABLES)
        call.attribute.append(onnx.helper.make_attribute(_TABLES, stacked))
    return call


class _Program:
    """The steps of a region as whole numbers.

    Attributes:
        words: the numbers so far.
        tensors: number of each tensor.
        tables: tables so far.
    """

    def __init__(
        self, inputs: Sequence[str], constants: Sequence[str], tables: Mapping[int, NDArray[np.integer]]
    ) -> None:
        self.words: list[int] = []
        self.tensors = {name: number for number, name in enumerate(inputs)}
        self.tables: list[NDArray[np.uint8]] = []
        self._constants = {name: len(inputs) + number for number, name in enumerate(constants)}
        self._computed = tables

    def add(self, step: Step) -> None:
        reads = [self.tensors[name] for name in step.reads]
        constants = [self._constants[name] if name else _ABSENT for name in step.constants]
        numbers = list(step.numbers)
        if step.kind is StepKind.MAP:
            numbers = [number for function in step.functions if function is not None for number in self._place(function)]
        elif step.kind is StepKind.CONCAT:
            numbers = [_ABSENT if function is None else self._place(function)[0] for function in step.functions]
        self.words += [step.kind, len(reads), *reads, len(constants), *constants, len(numbers), *numbers]
        self.tensors[step.makes] = len(self.tensors)

    def _place(self, function: CodeFunction) -> list[int]:
        """The first table of a function, and the number of its tables, which lie behind each other."""
        rows = self._computed[id(function)].view(np.uint8).reshape(-1, 256)
        count = len(rows)
        for first in range(len(self.tables) - count + 1):
            if np.array_equal(self.tables[first : first + count], rows):
                return [first, count]
        self.tables += list(rows)
        return [len(self.tables) - count, count]


def _declare(graph: onnx.GraphProto, region: NetworkRegion, shapes: Mapping[str, Known]) -> None:
    """State types and shapes of what an operator makes: tools that infer them know nothing of ours."""
    known = {value.name for value in (*graph.value_info, *graph.output)}
    graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, shapes[name].elem_type, shapes[name].shape)
        for name in region.outputs
        if name not in known
    )
