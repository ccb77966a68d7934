"""Inputs that a graph declares, against those that a session of onnxruntime has."""

from __future__ import annotations

import onnx
import pytest
from graphs import node
from onnx import TensorProto, helper

from onnxquant import runtime
from onnxquant.calibration.feeds import Input
from onnxquant.calibration.inputs import inputs_of, sampled_inputs_of
from onnxquant.graph.io import load

TENSOR = helper.make_tensor_type_proto
FLOATS = TENSOR(TensorProto.FLOAT, [None, "n", 3])
TYPES = {
    **{
        TensorProto.DataType.Name(kind): TENSOR(kind, ["batch", 2])
        for kind in (*range(TensorProto.FLOAT, TensorProto.UINT64 + 1), TensorProto.BFLOAT16)
    },
    "scalar": TENSOR(TensorProto.FLOAT, []),
    "no shape": TENSOR(TensorProto.FLOAT, None),
    "odd lengths": TENSOR(TensorProto.FLOAT, [None, "", "n", 0, -1, 3]),
    "sequence": helper.make_sequence_type_proto(FLOATS),
    "optional": helper.make_optional_type_proto(FLOATS),
    "optional sequence": helper.make_optional_type_proto(helper.make_sequence_type_proto(FLOATS)),
}


def model(*inputs: onnx.ValueInfoProto, values: list[onnx.TensorProto] | None = None) -> onnx.ModelProto:
    """A model that gives its inputs back."""
    nodes = [node("Identity", [i.name], [f"same {i.name}"]) for i in inputs]
    outputs = [onnx.ValueInfoProto(name=name) for made in nodes for name in made.output]
    graph = helper.make_graph(nodes, "inputs", list(inputs), outputs, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_declared_inputs_are_those_of_a_session(kind: onnx.TypeProto) -> None:
    proto = model(onnx.ValueInfoProto(name="x", type=kind))
    with runtime.session_of(load(proto)) as session:
        assert inputs_of(load(proto)) == [Input(n, t, tuple(s)) for n, t, s in runtime.inputs_of(session)]


def test_an_input_with_a_value_is_left_out_but_for_the_count_of_logits() -> None:
    names = ("logits_count", "scale", "x")
    inputs = [onnx.ValueInfoProto(name=name, type=TENSOR(TensorProto.INT64, [])) for name in names]
    document = load(model(*inputs, values=[helper.make_tensor(n, TensorProto.INT64, [], [1]) for n in names[:2]]))
    plain, count = Input("x", "tensor(int64)", ()), Input("logits_count", "tensor(int64)", (), default=True)
    assert inputs_of(document) == [plain]
    assert sampled_inputs_of(document) == [plain, count]
