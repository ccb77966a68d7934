"""Encoded weights of a quantized file, read from the planes that its records name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.artifact.records import Record
from onnxquant.errors import ModelError
from onnxquant.formats.base import Encoded
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import TensorSpec
from onnxquant.graph.traverse import graphs
from onnxquant.native import dispatch
from onnxquant.targets import layout_types
from onnxquant.targets.layouts.base import Layout

T = onnx.TensorProto
# Codes are bytes to a layout, whatever their type is in the file.
_CODES = (T.UINT8, T.INT8, T.UINT4, T.INT4, T.UINT2, T.INT2)
_PLANES_OF_CODES = ("codes", "zero_points")

PlaneIndex = Mapping[str, onnx.TensorProto]


def plane_index(proto: onnx.ModelProto) -> PlaneIndex:
    """Initializers of all graphs by name."""
    return {t.name: t for g in graphs(proto.graph) for t in g.initializer}


def read_encoded(document: Document, record: Record, index: PlaneIndex | None = None) -> Encoded:
    """The encoded weight of a record.

    Args:
        document: the quantized file.
        record: one of its records.
        index: its ``plane_index``.

    Raises:
        ModelError: planes are missing or damaged, or their layout is not installed.
    """
    index = index or plane_index(document.proto)
    name, planes = next(iter(record.planes.items()))
    layout = _layout(record, name, document.opset)
    arrays = {}
    for plane, spec in layout.specs().items():
        tensor = index.get(planes.get(plane, ""))
        if tensor is None:
            raise ModelError(f"{document.name}: plane {plane!r} of {record.name!r} is missing")
        arrays[plane] = _array(document, tensor, spec, _array_type(plane, spec.elem_type))
    return layout.unpack(arrays)


def decode_weight(
    document: Document, record: Record, index: PlaneIndex, encoded: Encoded | None = None
) -> NDArray[Any]:
    """The weight that a record stands for, in its original shape and type.

    Args:
        document: the quantized file.
        record: one of its records.
        index: its ``plane_index``.
        encoded: the encoded weight, where it was read already.
    """
    encoded = encoded or read_encoded(document, record, index)
    matrix = dispatch.decode(encoded)
    return np.ascontiguousarray(record.view.restore(matrix).astype(record.dtype, copy=False))


def _array(document: Document, tensor: onnx.TensorProto, spec: TensorSpec, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A plane as an array; codes of less than 8 bits stay packed, in one axis."""
    if tuple(tensor.dims) != spec.shape or tensor.data_type != spec.elem_type:
        raise ModelError(
            f"{document.name}: plane {tensor.name!r} has shape {list(tensor.dims)}, expected {list(spec.shape)}"
        )
    raw = document.raw(tensor)
    content = raw if raw is not None else b""
    if len(content) != spec.nbytes:
        raise ModelError(f"{document.name}: plane {tensor.name!r} does not hold {spec.nbytes} bytes")
    values = np.frombuffer(content, dtype)
    return values.reshape(spec.shape) if values.size == np.prod(spec.shape, dtype=np.int64) else values


def _array_type(plane: str, elem_type: int) -> np.dtype[Any]:
    if plane in _PLANES_OF_CODES and elem_type in _CODES:
        return np.dtype(np.uint8)
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))


def _layout(record: Record, name: str, opset: int) -> Layout:
    """The layout of a record's planes, by its name in the file."""
    layout_type = layout_types().get(name)
    if layout_type is None:
        raise ModelError(
            f"the model stores {record.name!r} in the unknown layout {name!r}: made by a newer version, or by a target "
            f"that is not installed?"
        )
    try:
        return layout_type(record.stored_format, record.view, opset)
    except ValueError as error:
        raise ModelError(f"the model's record of {record.name!r} is damaged: {error}") from None
