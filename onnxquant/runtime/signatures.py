"""Types that operators take: schemas of onnx for standard domains, of onnxruntime for its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
import onnx.defs

from onnxquant.graph.node import STANDARD
from onnxquant.runtime import sessions


@dataclass(frozen=True)
class Slot:
    """A formal input or output.

    Attributes:
        parameter: the type parameter that it shares with others, or its only type.
        allowed: the types that it may have.
    """

    parameter: str
    allowed: frozenset[str]


@dataclass(frozen=True)
class Signature:
    """The formal inputs and outputs of an operator; the last of each stands for all further ones where it is variadic."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    def input(self, index: int) -> Slot | None:
        """The formal input at a position."""
        return self.inputs[min(index, len(self.inputs) - 1)] if self.inputs else None

    def parameter(self, index: int) -> str | None:
        """The type parameter of the formal input at a position."""
        slot = self.input(index)
        return slot.parameter if slot else None

    def output(self, index: int) -> Slot | None:
        """The formal output at a position."""
        return self.outputs[min(index, len(self.outputs) - 1)] if self.outputs else None


def signatures(model: onnx.ModelProto) -> Callable[[onnx.NodeProto], Signature | None]:
    """A lookup of the signatures of a model's nodes, at its opsets; None for an unknown operator."""
    versions = {o.domain if o.domain not in STANDARD else "": o.version for o in model.opset_import}

    def look_up(node: onnx.NodeProto) -> Signature | None:
        domain = "" if node.domain in STANDARD else node.domain
        return _signature(node.op_type, domain, versions.get(domain, 1))

    return look_up


@cache
def _signature(op_type: str, domain: str, version: int) -> Signature | None:
    if onnx.defs.has(op_type, domain):
        try:
            return _signature_from(onnx.defs.get_schema(op_type, version, domain), "type_str")
        except onnx.defs.SchemaError:  # younger than this opset
            return None
    schema = sessions.schema(op_type, domain, version)
    return _signature_from(schema, "typeStr") if schema else None


def _signature_from(schema: Any, type_key: str) -> Signature:  # noqa: ANN401 - onnx and onnxruntime have one each
    allowed = {t.type_param_str: frozenset(t.allowed_type_strs) for t in schema.type_constraints}

    def slots(formal: Sequence[Any]) -> tuple[Slot, ...]:
        types = [str(getattr(f, type_key)) for f in formal]
        return tuple(Slot(text, allowed.get(text, frozenset([text]))) for text in types)

    return Signature(slots(schema.inputs), slots(schema.outputs))
