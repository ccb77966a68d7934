"""A node as the function of its operator sees it, and the table of those functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import onnx
from torch import Tensor

from onnxquant.errors import ModelError
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import STANDARD, attribute

T = TypeVar("T")
Result = Tensor | tuple[Tensor, ...]
Function = Callable[..., Result]
Registered = TypeVar("Registered", bound=Function)


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        op: its operator.
        domain: the operator's domain; empty: ONNX's own.
        name: its name, or that of its first output.
        inputs: names of the tensors that it reads; empty: an optional one is left out.
        outputs: names of the tensors that it computes.
        opset: version of the domain.
        attributes: values of its attributes by name.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, proto: onnx.NodeProto, opset: int) -> Node:
        """The node of a graph."""
        return cls(
            op=proto.op_type,
            domain="" if proto.domain in STANDARD else proto.domain,
            name=proto.name or proto.output[0],
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
            opset=opset,
            attributes={entry.name: _as_text(attribute(proto, entry.name)) for entry in proto.attribute},
        )

    def get(self, name: str, default: T) -> T:
        """The value of an attribute, or its default."""
        value: T = self.attributes.get(name, default)
        return value

    def refuse(self, problem: str, expected: str) -> ModelError:
        """The error that the operator's function does not do what the node asks for."""
        return ModelError(f"node {self.name!r} ({self.op}): {problem}; as a torch module it needs {expected}")


def _as_text(value: object) -> object:
    """The value of an attribute, its bytes as texts."""
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [entry.decode() for entry in value]
    return value


@dataclass(frozen=True)
class Operator:
    """The function of an operator.

    Attributes:
        function: takes the node and its inputs, None for those that are left out; returns its outputs.
        numbers: positions of the inputs that are read as numbers: shapes, axes, bounds. They are no parameters.
    """

    function: Function
    numbers: frozenset[int]


OPERATORS: dict[tuple[str, str], Operator] = {}
"""Functions by domain and operator. The modules in ``operators`` fill it."""


def operator(*names: str, domain: str = "", numbers: tuple[int, ...] = ()) -> Callable[[Registered], Registered]:
    """Register a function for operators.

    Args:
        names: names of the operators.
        domain: their domain.
        numbers: positions of the inputs that are read as numbers.
    """

    def register(function: Registered) -> Registered:
        for name in names:
            OPERATORS[domain, name] = Operator(function, frozenset(numbers))
        return function

    return register


def microsoft(*names: str, numbers: tuple[int, ...] = ()) -> Callable[[Registered], Registered]:
    """Register a function for operators of onnxruntime."""
    return operator(*names, domain=MICROSOFT, numbers=numbers)
