"""Models of float16 and float64 as models of float32, in which integer activations can be placed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from onnxquant.graph.io import Document
from onnxquant.graph.names import NameAllocator
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.sites import MIN_ELEMENTS
from onnxquant.graph.traverse import graphs, names_of, nodes, replace_field, tensors
from onnxquant.passes.base import Pass, PassResult

_FLOAT, _HALF, _DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE
# Attributes that state the element type of an output.
_TYPES = ("to", "dtype", "output_dtype", "stash_type")
# Wider constants stay in memory until they are encoded; above this many bytes they would not fit one file.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class WidenFloat16(Pass):
    """Makes a model compute in float32 what it computes in float16; its inputs and outputs keep their types.

    onnxruntime's integer kernels on CPUs take and give float32 alone, and its float16 kernels are Casts around float32.

    1. Every float16 constant becomes float32; so do the types that nodes, nested graphs and recorded shapes state.
    2. A Cast follows each float16 input, and comes before each float16 output.

           y = MatMul(x, W) in float16   ->   y = Cast(MatMul(Cast(x), W), float16)

    3. A model with float16 in sequences, in sparse constants, in constants that are inputs or outputs too, or in more
       than 1 GiB of constants stays.
    4. A constant that is stored in float16 and read through Casts to float32 alone stays: nothing computes in float16 there.
    """

    name = "widen-float16"
    summary = "makes a model of float16 compute in float32, its inputs and outputs as they are"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        return _to_float32(document, _HALF, "float16")


@dataclass(frozen=True)
class NarrowFloat64(Pass):
    """Makes a model compute in float32 what it computes in float64, as ``WidenFloat16`` does for float16.

    1. A model with no weight of float64 stays: what it computes in float64 may need the digits.
    2. So does one with numbers that float32 has not.
    """

    name = "narrow-float64"
    summary = "makes a model with weights of float64 compute in float32, its inputs and outputs as they are"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        doubles = [t for t in tensors(document.proto) if t.data_type == _DOUBLE]
        if not any(len(t.dims) > 1 and math.prod(t.dims) >= MIN_ELEMENTS for t in doubles):
            return PassResult()
        largest = np.finfo(np.float32).max
        for tensor in doubles:
            values = document.array(tensor)
            if (np.isfinite(values) & (np.abs(values) > largest)).any():
                return PassResult(False, (f"float64 stays: {tensor.name!r} holds numbers beyond float32",))
        return _to_float32(document, _DOUBLE, "float64")


def _to_float32(document: Document, kind: int, name: str) -> PassResult:
    """Make a model compute in float32 what it computes in another float type, in place.

    Args:
        document: the model.
        kind: the type.
        name: its name.
    """
    proto = document.proto
    stored = _only_cast(proto)
    constants = [t for t in tensors(proto) if t.data_type == kind and t.name not in stored]
    if not constants and not _boundary(proto, kind):
        return PassResult()
    if refusal := _refusal(proto, kind, sum(4 * math.prod(t.dims) for t in constants)):
        return PassResult(False, (f"{name} stays: {refusal}",))
    for tensor in constants:
        values = document.array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for node in nodes(proto):
        for entry in node.attribute:
            if entry.name in _TYPES and entry.type == onnx.AttributeProto.INT and entry.i == kind:
                entry.i = _FLOAT
    _cast_at_boundary(proto, kind)
    return PassResult(True, (f"{name} became float32; inputs and outputs keep their types",))


def _only_cast(proto: onnx.ModelProto) -> set[str]:
    """Names of the initializers that nothing reads but Casts to float32."""
    names = {tensor.name for graph in graphs(proto.graph) for tensor in graph.initializer}
    names -= {output.name for graph in graphs(proto.graph) for output in graph.output}
    for node in nodes(proto):
        if not (is_op(node, "Cast") and attribute(node, "to") == _FLOAT):
            names.difference_update(node.input)
    return names


def _boundary(proto: onnx.ModelProto, kind: int) -> set[str]:
    """Names of the inputs and outputs of a model that have a type."""
    values = (*proto.graph.input, *proto.graph.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == kind}


def _refusal(proto: onnx.ModelProto, kind: int, nbytes: int) -> str:
    """The reason why a model cannot be widened; empty where it can."""
    if nbytes > _MOST_BYTES:
        return f"{nbytes} bytes of constants"
    types = [value.type for graph in graphs(proto.graph) for value in (*graph.input, *graph.value_info, *graph.output)]
    if any(not kind.HasField("tensor_type") and kind.WhichOneof("value") for kind in types):
        return "values that are no tensors"
    if any(sparse.values.data_type == kind for graph in graphs(proto.graph) for sparse in graph.sparse_initializer):
        return "sparse constants"
    initializers = {tensor.name for graph in graphs(proto.graph) for tensor in graph.initializer}
    computed = {name for node in proto.graph.node for name in node.output}
    inputs = {value.name for value in proto.graph.input}
    if inputs & initializers or any(o.name not in computed for o in proto.graph.output):
        return "constants or inputs that are inputs or outputs, too"
    return ""


def _cast_at_boundary(proto: onnx.ModelProto, kind: int) -> None:
    """State float32 for all values, and put Casts between them and the inputs and outputs of a type."""
    boundary, fresh = _boundary(proto, kind), NameAllocator(names_of(proto)).fresh
    renamed = {name: fresh(f"{name}/float32") for name in sorted(boundary)}
    for graph in graphs(proto.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            is_public = graph is proto.graph and value.name in boundary
            if value.type.tensor_type.elem_type == kind and not is_public:
                value.type.tensor_type.elem_type = _FLOAT
        for node in graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        if graph is not proto.graph:
            for value in graph.output:
                value.name = renamed.get(value.name, value.name)
    make = onnx.helper.make_node
    inputs = {value.name for value in proto.graph.input}
    first = [make("Cast", [n], [renamed[n]], name=fresh(f"{n}/Cast"), to=_FLOAT) for n in renamed if n in inputs]
    last = [make("Cast", [renamed[n]], [n], name=fresh(f"{n}/Cast"), to=kind) for n in renamed if n not in inputs]
    replace_field(proto.graph.node, [*first, *proto.graph.node, *last])
