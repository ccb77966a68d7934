"""Types and shapes of tensors, from the graph's inputs and the operators' own rules alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx
import onnx.shape_inference

from onnxquant.graph.io import Document
from onnxquant.graph.traverse import graphs
from onnxquant.graph.wire import OUTLINE_ABOVE


@dataclass(frozen=True)
class Known:
    """Type and shape of a tensor, as far as they are proven.

    Attributes:
        elem_type: ONNX element type; 0 when unknown.
        shape: lengths, None for each that may vary; None when even the rank is unknown.
        names: names of the lengths that may vary, empty for others: equal names are equal lengths.
    """

    elem_type: int
    shape: tuple[int | None, ...] | None
    names: tuple[str, ...] = field(default=(), compare=False)

    @property
    def rank(self) -> int | None:
        """Number of axes."""
        return None if self.shape is None else len(self.shape)

    @property
    def fixed(self) -> tuple[int, ...] | None:
        """The shape when every length is known."""
        if self.shape is None or None in self.shape:
            return None
        return tuple(length for length in self.shape if length is not None)


UNKNOWN = Known(0, None)


def infer(document: Document) -> dict[str, Known]:
    """Types and shapes of all tensors, nested graphs included, as far as they can be proven; names used twice are left out.

    Shapes that the file only claims (its value_info) are not believed. Weights are neither read nor copied.
    """
    outline = _outline(document.proto)
    try:
        inferred = onnx.shape_inference.infer_shapes(outline, data_prop=True)
    except Exception:  # InferenceError, and ValueError of the binding: then nothing is proven
        inferred = outline
    known: dict[str, Known] = {}
    twice: set[str] = set()
    for graph in graphs(inferred.graph):
        # Outputs declare what the file claims; a type is checked by whoever runs the model, a shape is not.
        entries = {v.name: _known(v.type) for v in (*graph.input, *graph.value_info)}
        entries.update((t.name, Known(t.data_type, tuple(t.dims))) for t in graph.initializer)
        for output in graph.output:
            entries.setdefault(output.name, Known(output.type.tensor_type.elem_type, None))
        twice.update(entries.keys() & known.keys())
        known.update(entries)
    return {name: entry for name, entry in known.items() if name not in twice}


def _known(kind: onnx.TypeProto) -> Known:
    if not kind.HasField("tensor_type"):
        return Known(0, None)
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return Known(tensor.elem_type, None)
    shape = tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return Known(tensor.elem_type, shape, tuple(str(d.dim_param) for d in tensor.shape.dim))


def _outline(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the values of its weights and without claimed shapes."""
    outline = onnx.ModelProto(ir_version=proto.ir_version)
    outline.opset_import.extend(proto.opset_import)
    outline.functions.extend(proto.functions)
    graph, source = outline.graph, proto.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value <= 0:  # some exporters write unknown lengths so
                dim.Clear()
    graph.output.extend(onnx.ValueInfoProto(name=o.name) for o in source.output)
    for tensor in source.initializer:
        graph.initializer.append(outlined(tensor))
    return outline


def outlined(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A tensor's name, type and shape, with its values only where they are few."""
    if tensor.ByteSize() <= OUTLINE_ABOVE:
        return tensor
    bare = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    bare.data_location = onnx.TensorProto.EXTERNAL
    bare.external_data.add(key="location", value="weights")
    return bare
