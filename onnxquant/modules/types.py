"""Types of elements in torch."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor

from onnxquant.errors import ModelError
from onnxquant.modules.node import Node
from onnxquant.numerics.arrays import Array

_TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT16: torch.uint16,
    onnx.TensorProto.UINT32: torch.uint32,
    onnx.TensorProto.UINT64: torch.uint64,
    onnx.TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    onnx.TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    onnx.TensorProto.BOOL: torch.bool,
}


def torch_type(element: int, node: Node) -> torch.dtype:
    """The type of an ONNX element type.

    Raises:
        ModelError: torch has no such type.
    """
    if element not in _TYPES:
        raise node.refuse(f"its type is {onnx.TensorProto.DataType.Name(element)}", "a type that torch computes with")
    return _TYPES[element]


# Types of numpy that torch reads as bytes, and those that it holds in a wider one.
_VIEWED = {"bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
_WIDENED = {"int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8"}


def tensor_of(array: Array, name: str) -> Tensor:
    """The values of a constant in memory of their own; codes of 4 bits as 8.

    Args:
        array: the values.
        name: name of the constant, for messages.

    Raises:
        ModelError: torch has no such type.
    """
    kind = array.dtype.name
    if kind in _VIEWED:
        stored = np.array(array).view(f"int{8 * array.itemsize}")
        return torch.from_numpy(stored).view(_VIEWED[kind])
    try:
        return torch.from_numpy(np.array(array, _WIDENED.get(kind)))
    except TypeError:
        raise ModelError(f"constant {name!r} has type {kind}; as a torch tensor it needs one that torch has") from None
