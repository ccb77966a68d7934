"""Constants that a Loop or Scan carries from step to step unchanged are read from outside instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.traverse import constant_names, names_of_graph, names_read, own_names, rename_reads, subgraphs
from onnxquant.passes.base import Pass, PassResult

# Until this opset Scan carried a batch of each state.
_SCAN_OPSET = 9


@dataclass(frozen=True)
class ReadCarriedConstants(Pass):
    """Lets the body of a Loop or Scan read a constant that it carries, so that a weight is seen where it is used.

    1. A state that begins as a constant, and that each step hands on as it is, is no state.

           Loop(w) { w' -> MatMul(x, w'), w' }   ->   Loop() { MatMul(x, w) }

    2. Nodes that read the last value of such a state read the constant; an output of the graph is a copy of it.
    3. A Loop in a Loop, or a Scan in a Scan, that hands on what the outer one carries is seen through.
    4. A state stays whose names mean other tensors in nested graphs, and those of a Scan before opset 9, which carries a
       batch of each.
    """

    name = "read-carried-constants"
    summary = "lets bodies of Loop and Scan read constants that they carry unchanged"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        ops = ("Loop",) if document.opset < _SCAN_OPSET else ("Loop", "Scan")
        dropped = _drop_states(document.proto.graph, (), ops)
        note = f"{dropped} constants carried by Loop or Scan read from outside"
        return PassResult(True, (note,)) if dropped else PassResult()


@dataclass(frozen=True)
class _State:
    """A state of a Loop or Scan, by the places of its names among inputs and outputs."""

    node: onnx.NodeProto
    body: onnx.GraphProto
    node_input: int
    node_output: int
    body_input: int
    body_output: int

    @property
    def begin(self) -> str:
        return self.node.input[self.node_input]

    @property
    def end(self) -> str:
        return self.node.output[self.node_output]

    @property
    def inside(self) -> str:
        return self.body.input[self.body_input].name

    def is_unchanged(self) -> bool:
        """Whether a step hands the state on as it is."""
        producers = {node.output[0]: node.input[0] for node in self.body.node if is_op(node, "Identity")}
        inner = [state for node in self.body.node if is_op(node, self.node.op_type) for state in _states(node)]
        producers |= {state.end: state.begin for state in inner if state.is_unchanged()}
        name = self.body.output[self.body_output].name
        while name in producers:
            name = producers[name]
        return name == self.inside

    def drop(self) -> None:
        """Let the body read the constant itself."""
        if self.inside != self.begin:
            rename_reads(self.body, {self.inside: self.begin})
        del self.node.input[self.node_input], self.node.output[self.node_output]
        del self.body.input[self.body_input], self.body.output[self.body_output]


def _states(node: onnx.NodeProto) -> list[_State]:
    """The states of a Loop or Scan, last first: dropping one moves none that follow."""
    body = attribute(node, "body")
    if is_op(
        node, "Loop"
    ):  # inputs begin with the number of steps and a condition, outputs of the body with a condition
        skipped, count, conditions = 2, len(body.input) - 2, 1
    else:
        skipped, count, conditions = 0, len(body.input) - attribute(node, "num_scan_inputs"), 0
    if len(node.output) != len(body.output) - conditions:  # outputs that nobody reads may be left out
        return []
    return [_State(node, body, skipped + i, i, skipped + i, conditions + i) for i in reversed(range(count))]


def _drop_states(graph: onnx.GraphProto, outer: Iterable[str], ops: tuple[str, ...]) -> int:
    """Drop the states of a graph, and of those nested in it, that are constants; their number.

    Args:
        graph: the graph.
        outer: names of the constants of the graphs around it.
        ops: operators whose states may be dropped.
    """
    own = own_names(graph)
    constants = {*(name for name in outer if name not in own), *constant_names(graph)}
    outputs = {value.name for value in graph.output}
    dropped = 0
    for node in list(graph.node):
        if is_op(node, *ops):
            for state in _states(node):
                if state.begin in constants and state.is_unchanged() and _can_be_dropped(state, graph):
                    for reader in graph.node:
                        for place, name in enumerate(reader.input):
                            if name and name == state.end:
                                reader.input[place] = state.begin
                    if state.end in outputs:
                        graph.node.append(onnx.helper.make_node("Identity", [state.begin], [state.end]))
                    state.drop()
                    dropped += 1
        for inner in subgraphs(node):
            dropped += _drop_states(inner, constants, ops)
    return dropped


def _can_be_dropped(state: _State, graph: onnx.GraphProto) -> bool:
    """Whether no other output is that state, and no name would mean another tensor."""
    nested = {name for node in graph.node for inner in subgraphs(node) for name in names_read(inner)}
    outputs = [value.name for place, value in enumerate(state.body.output) if place != state.body_output]
    renamed = state.inside != state.begin
    return (
        len(state.node.output) > 1
        and state.end not in nested
        and state.inside not in outputs
        and not (renamed and state.begin in names_of_graph(state.body))
    )
