"""The module of a graph: runs its nodes in order, each by a function of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
import torch
from torch import Tensor, nn

from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.node import STANDARD, constant_value
from onnxquant.modules import operators  # noqa: F401  fills the table
from onnxquant.modules.node import OPERATORS, Node
from onnxquant.modules.types import tensor_of

Values = dict[str, Tensor]
Watch = Callable[[Node, tuple[Tensor, ...]], None]


@dataclass(frozen=True)
class Replacement:
    """A module in the place of a node.

    Attributes:
        module: computes the tensor.
        inputs: names of the tensors that it reads.
    """

    module: nn.Module
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One computation of a schedule.

    Attributes:
        node: the node.
        inputs: names of the tensors that it, or the module in its place, reads.
        module: that module.
        done: tensors that nothing reads after it.
    """

    node: Node
    inputs: tuple[str, ...]
    module: nn.Module | None
    done: tuple[str, ...]


class GraphModule(nn.Module):
    """An ONNX graph as a torch module. Shapes may be dynamic; nodes with graphs inside are refused.

    Weights are its parameters: initializers of floats with more than one element that some node computes with. All others are
    buffers. Dots of a name are no part of names in torch: they become slashes there, and ``constant`` takes the ONNX name.

    Args:
        document: the model. Functions of its own are to be expanded.
        replaced: modules in the place of nodes, by the tensor that they compute.
        rounded: modules that a weight goes through before anything reads it, by the weight's name.

    Raises:
        ModelError: an operator has no function here; all that are missing are named.

    >>> module = GraphModule(load("model.onnx"))
    >>> module({"x": torch.zeros(1, 64)})["y"].shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        document: Document,
        replaced: Mapping[str, Replacement] | None = None,
        rounded: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        graph = document.proto.graph
        self._replaced = dict(replaced or {})
        self._nodes = _nodes_of(document.proto, self._replaced)
        self.outputs = [value.name for value in graph.output]
        constants = {tensor.name: tensor for tensor in graph.initializer}
        constants |= {node.output[0]: tensor for node in graph.node if (tensor := constant_value(node)) is not None}
        self.inputs = [value.name for value in graph.input if value.name not in constants]
        learned = _computed_with(self._nodes)
        self._places: dict[str, str] = {}
        for name, tensor in constants.items():
            self._add(name, tensor_of(document.array(tensor), name), is_learned=name in learned)
        self.rounded = nn.ModuleDict()
        for name, module in (rounded or {}).items():
            self.rounded[self._places[name]] = module
        self.replacements = nn.ModuleDict(
            {str(i): replacement.module for i, replacement in enumerate(self._replaced.values())}
        )
        self._schedules: dict[tuple[frozenset[str], tuple[str, ...]], list[Step]] = {}

    def _add(self, name: str, value: Tensor, *, is_learned: bool) -> None:
        place = name.replace(".", "/") or "_"
        while hasattr(self, place):
            place += "_"
        self._places[name] = place
        if is_learned and value.dtype == torch.float32 and value.numel() > 1:
            self.register_parameter(place, nn.Parameter(value))
        else:
            self.register_buffer(place, value)

    @property
    def constants(self) -> list[str]:
        """Names of the initializers."""
        return list(self._places)

    def constant(self, name: str) -> Tensor:
        """An initializer, as it is before anything rounds it: a parameter or a buffer."""
        value: Tensor = getattr(self, self._places[name])
        return value

    def learned(self) -> dict[str, nn.Parameter]:
        """The initializers that are parameters, by their ONNX names."""
        values = {name: self.constant(name) for name in self._places}
        return {name: value for name, value in values.items() if isinstance(value, nn.Parameter)}

    def forward(self, feeds: Mapping[str, Tensor] | None = None, **inputs: Tensor) -> Values:
        """The outputs of the model by name.

        Args:
            feeds: inputs by name.
            inputs: more of them, where their names are words of Python.

        Raises:
            ModelError: an input is missing.
        """
        known = {**(feeds or {}), **inputs}
        if missing := [name for name in self.inputs if name not in known]:
            raise ModelError(f"input {missing[0]!r} is missing; expected {', '.join(self.inputs)}")
        return self.run(known, self.outputs)

    def run(self, known: Mapping[str, Tensor], names: Sequence[str], watch: Watch | None = None) -> Values:
        """Some tensors of the graph, computed from others.

        Args:
            known: tensors by name; what only these depend on is not computed.
            names: the tensors to compute.
            watch: function that sees each node with what it computed.

        Raises:
            ModelError: a node asks for what its function does not do, or does not fit its inputs.
        """
        values, rounded = dict(known), dict(self.rounded.items())
        for step in self.schedule(known, names):
            arguments = [self._value(name, values, rounded) for name in step.inputs]
            results = self._computed(step, arguments)
            if watch is not None:
                watch(step.node, results)
            values.update(zip(step.node.outputs, results, strict=False))
            for name in step.done:
                values.pop(name, None)
        return {name: self._value(name, values, rounded) for name in names}  # type: ignore[misc]  # none is left out

    def _computed(self, step: Step, arguments: list[Tensor | None]) -> tuple[Tensor, ...]:
        node = step.node
        try:
            if step.module is not None:
                result = step.module(*arguments)
            else:
                result = OPERATORS[node.domain, node.op].function(node, *arguments)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            shapes = ", ".join("-" if a is None else str(list(a.shape)) for a in arguments)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"node {node.name!r} ({node.op}) of inputs {shapes}: {reason}") from error
        return result if isinstance(result, tuple) else (result,)

    def _value(self, name: str, values: Values, rounded: Mapping[str, nn.Module]) -> Tensor | None:
        if not name:
            return None
        if name not in values:
            place = self._places[name]
            value = getattr(self, place)
            if place not in rounded:
                return value  # type: ignore[no-any-return]  # torch types attributes of modules as Any
            values[name] = rounded[place](value)  # once, however many nodes read it
        return values[name]

    def schedule(self, known: Iterable[str], names: Iterable[str]) -> list[Step]:
        """The steps that compute some tensors from others, in order.

        Args:
            known: names of the tensors that are there; what only these depend on is left out.
            names: names of the tensors to compute.

        Raises:
            ModelError: no node computes one of them.
        """
        key = frozenset(known), tuple(names)
        if key not in self._schedules:
            self._schedules[key] = self._planned(*key)
        return self._schedules[key]

    def _planned(self, known: frozenset[str], names: tuple[str, ...]) -> list[Step]:
        needed, steps, read = set(names) - known, list[Step](), set(names)
        for node in reversed(self._nodes):
            if needed.isdisjoint(node.outputs):
                continue
            replacement = self._replaced.get(node.outputs[0])
            inputs = node.inputs if replacement is None else replacement.inputs
            needed |= {name for name in inputs if name and name not in known}
            done = tuple(sorted({name for name in (*inputs, *node.outputs) if name and name not in read}))
            read |= set(inputs)
            steps.append(Step(node, inputs, replacement.module if replacement else None, done))
        computed = {name for step in steps for name in step.node.outputs}
        if unknown := sorted(needed - computed - set(self._places)):
            raise ModelError(f"tensor {unknown[0]!r} is computed by no node of the graph from what is known")
        return steps[::-1]

    @cached_property
    def producers(self) -> dict[str, Node]:
        """The node that computes each tensor."""
        return {name: node for node in self._nodes for name in node.outputs if name}

    @property
    def nodes(self) -> list[Node]:
        """The nodes in order."""
        return self._nodes


def refuse_operators(proto: onnx.ModelProto) -> None:
    """Refuse a model with operators that have no function here.

    Raises:
        ModelError: all that are missing are named.
    """
    _nodes_of(proto, {})


def _nodes_of(proto: onnx.ModelProto, replaced: Mapping[str, Replacement]) -> list[Node]:
    """The nodes of a model but for constants.

    Raises:
        ModelError: an operator has no function, or a node has a graph inside.
    """
    versions = {"" if entry.domain in STANDARD else entry.domain: entry.version for entry in proto.opset_import}
    nodes = [
        Node.of(node, versions.get("" if node.domain in STANDARD else node.domain, 1))
        for node in proto.graph.node
        if constant_value(node) is None
    ]
    missing = sorted(
        {
            f"{node.domain}.{node.op}".lstrip(".")
            for node in nodes
            if (node.domain, node.op) not in OPERATORS and node.outputs[0] not in replaced
        }
    )
    if missing:
        raise ModelError(
            f"operators without a torch function: {', '.join(missing)}; a model with them can be quantized, not trained"
        )
    return nodes


def _computed_with(nodes: Iterable[Node]) -> set[str]:
    """Names of the tensors that some node computes with, not only reads as numbers."""
    names = set()
    for node in nodes:
        entry = OPERATORS.get((node.domain, node.op))
        numbers = entry.numbers if entry else frozenset()
        names |= {name for position, name in enumerate(node.inputs) if position not in numbers}
    return names
