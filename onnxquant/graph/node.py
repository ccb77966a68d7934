"""Reading and changing one node: its operator, its attributes, the constant that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import onnx

T = TypeVar("T")

STANDARD = ("", "ai.onnx")
_CONSTANT_TYPES = {
    "value_float": onnx.TensorProto.FLOAT,
    "value_floats": onnx.TensorProto.FLOAT,
    "value_int": onnx.TensorProto.INT64,
    "value_ints": onnx.TensorProto.INT64,
}


def is_op(node: onnx.NodeProto | None, *ops: str) -> bool:
    """Whether a node is one of these ops of the default domain."""
    return node is not None and node.domain in STANDARD and node.op_type in ops


@overload
def attribute(node: onnx.NodeProto, name: str) -> Any: ...  # noqa: ANN401 - protobuf: whatever it holds


@overload
def attribute(node: onnx.NodeProto, name: str, default: T) -> T: ...


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """Value of an attribute; strings as str, lists as lists.

    >>> attribute(conv, "group", 1)
    1
    """
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            if isinstance(value, bytes):
                return value.decode()
            return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    """Set an attribute, whether it is there or not; None removes it."""
    for index in range(len(node.attribute) - 1, -1, -1):
        if node.attribute[index].name == name:
            del node.attribute[index]
    if value is not None:
        node.attribute.append(onnx.helper.make_attribute(name, value))


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node; None for other nodes, and for constants that are strings or sparse."""
    if not is_op(node, "Constant") or len(node.attribute) != 1:
        return None
    only = node.attribute[0]
    if only.name == "value":
        return only.t
    if only.name not in _CONSTANT_TYPES:
        return None
    value = onnx.helper.get_attribute_value(only)
    dims = [] if only.name in ("value_float", "value_int") else [len(value)]
    values = list(value) if dims else [value]
    return onnx.helper.make_tensor(node.output[0], _CONSTANT_TYPES[only.name], dims, values)


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of a node whose tensors have other names, those that ``names`` has."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy
