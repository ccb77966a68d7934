"""The inputs of a model as its graph declares them. No session tells more, and one on a large model takes its memory."""

from __future__ import annotations

import onnx

from onnxquant.calibration.feeds import Input
from onnxquant.calibration.feeds.caches import LOGITS_COUNT
from onnxquant.graph.io import Document


def inputs_of(model: Document) -> list[Input]:
    """The inputs of a model that it has no value for."""
    return [i for i in _declared(model.proto.graph) if not i.default]


def sampled_inputs_of(model: Document) -> list[Input]:
    """The inputs of a model that samples have: the count of logits too, though the model has a value for it."""
    inputs = _declared(model.proto.graph)
    return [*inputs_of(model), *(i for i in inputs if i.default and i.name == LOGITS_COUNT)]


def _declared(graph: onnx.GraphProto) -> list[Input]:
    with_values = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [Input(v.name, _type(v.type), _shape(v.type), default=v.name in with_values) for v in graph.input]


def _type(kind: onnx.TypeProto) -> str:
    """ONNX Runtime's name of a type.

    >>> _type(onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)))
    'seq(tensor(float))'
    """
    if kind.HasField("sequence_type"):
        return f"seq({_type(kind.sequence_type.elem_type)})"
    if kind.HasField("optional_type"):
        return f"optional({_type(kind.optional_type.elem_type)})"
    if kind.HasField("map_type"):
        return f"map({_element(kind.map_type.key_type)},{_type(kind.map_type.value_type)})"
    if kind.HasField("sparse_tensor_type"):
        return f"sparse_tensor({_element(kind.sparse_tensor_type.elem_type)})"
    return f"tensor({_element(kind.tensor_type.elem_type)})"


def _element(number: int) -> str:
    return onnx.TensorProto.DataType.Name(number).lower()


def _shape(kind: onnx.TypeProto) -> tuple[int | str | None, ...]:
    """A number, a name or None for each axis; none for what is no tensor."""
    tensor = (kind.optional_type.elem_type if kind.HasField("optional_type") else kind).tensor_type
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or None for d in tensor.shape.dim
    )
