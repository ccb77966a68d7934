"""Operators: type constraints of their inputs and outputs, as onnx and onnxruntime declare them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import onnx

# The domain of onnx's own operators has two names.
STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class Signature:
    """Type constraints of an operator.

    Attributes:
        inputs, outputs: constraint of each; the last one is also that of all that follow.
        single: element types of the constraints that leave one.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    single: Mapping[str, str] = field(default_factory=dict)


@cache
def entries() -> dict[str, Any]:
    """The contents of ``onnxruntime.json``."""
    contents: dict[str, Any] = json.loads(resources.files(__package__).joinpath("onnxruntime.json").read_text())
    return contents


def schema(domain: str, operator: str, version: int) -> onnx.defs.OpSchema | None:
    """The declaration of an operator by onnx; None where it has none."""
    try:
        return onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return None


def is_defined_by_others(declared: onnx.defs.OpSchema) -> bool:
    """Whether onnx defines an operator by other operators, into which every client divides it that has no kernel."""
    return bool(declared.has_function or declared.has_context_dependent_function)  # type: ignore[attr-defined]


@cache
def signature(domain: str, operator: str, version: int) -> Signature | None:
    """Type constraints of an operator; None where nobody declares it."""
    own = entries()["operators"].get(domain, {}).get(operator)
    if own is not None:
        return Signature(tuple(own[0]), tuple(own[1]))
    declared = schema(domain, operator, version)
    if declared is None:
        return None
    single = {
        c.type_param_str: element_type(c.allowed_type_strs[0])
        for c in declared.type_constraints
        if len(c.allowed_type_strs) == 1
    }
    return Signature(tuple(i.type_str for i in declared.inputs), tuple(o.type_str for o in declared.outputs), single)


def element_type(kind: str) -> str:
    """Name of the element type of a tensor type, as tables have it; other types keep their names."""
    return kind.removeprefix("tensor(").removesuffix(")") if kind.startswith("tensor(") else kind
