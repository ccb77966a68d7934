"""Small models, each with one rarely used part of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, helper

FLOAT = TensorProto.FLOAT


def value(name: str, kind: int = FLOAT, shape: list[int | str] | None = None) -> onnx.ValueInfoProto:
    """A tensor of a graph's signature."""
    return helper.make_tensor_value_info(name, kind, [1] if shape is None else shape)


def model(nodes: list[onnx.NodeProto], **fields: Sequence[Message]) -> ModelProto:
    """A model from x to y; ``fields`` are further repeated fields of the graph."""
    graph = onnx.GraphProto(name="g", node=nodes, input=[value("x")], output=[value("y")])
    for name, messages in fields.items():
        getattr(graph, name).extend(messages)
    imports = [helper.make_opsetid("", 23), helper.make_opsetid("com.example", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=11, producer_name="a test")


def node(op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: object) -> onnx.NodeProto:
    """A node with attributes."""
    out = helper.make_node(op, inputs, outputs, name=f"{op} of {outputs[0]}", domain=domain or None)
    out.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(attributes.items()))
    return out


def relu() -> onnx.NodeProto:
    """A node from x to y."""
    return node("Relu", ["x"], ["y"])


def with_attribute(attribute: AttributeProto) -> ModelProto:
    """A model whose only node has one attribute."""
    unusual = node("Unusual", ["x"], ["y"], domain="com.example")
    unusual.attribute.append(attribute)
    return model([unusual])


def string_that_is_not_utf8() -> ModelProto:
    """A tokenizer whose vocabulary is one string of bytes."""
    return with_attribute(AttributeProto(name="model", type=AttributeProto.STRING, s=b"\x0a\xff\xfe\x80 piece"))


def strings_that_are_not_utf8() -> ModelProto:
    """A tokenizer whose vocabulary is a list of byte strings."""
    return with_attribute(AttributeProto(name="pieces", type=AttributeProto.STRINGS, strings=[b"\xff", b"plain"]))


def functions() -> ModelProto:
    """A model-local function with an attribute reference, metadata and types of its own."""
    inner = node("LeakyRelu", ["a"], ["b"])
    inner.attribute.append(AttributeProto(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="slope"))
    function = helper.make_function(
        "com.example", "Leaky", ["a"], ["b"], [inner], [helper.make_opsetid("", 23)], ["slope"]
    )
    function.doc_string, function.overload = "a function", "v2"
    function.metadata_props.add(key="k", value="v")
    function.attribute_proto.append(helper.make_attribute("bias", 0.5))
    function.value_info.append(value("b"))
    proto = model([node("Leaky", ["x"], ["y"], domain="com.example", slope=0.1)])
    proto.graph.node[0].overload = "v2"
    proto.functions.append(function)
    return proto


def metadata_and_texts() -> ModelProto:
    """Metadata and doc strings wherever ONNX allows them."""
    weight = onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")
    proto = model([node("Add", ["x", "w"], ["y"])], initializer=[weight], value_info=[value("unread")])
    graph = proto.graph
    for place in (proto, graph, graph.node[0], graph.initializer[0], graph.input[0], graph.value_info[0]):
        place.doc_string = "a text"
        place.metadata_props.add(key="b", value="1")
        place.metadata_props.add(key="a", value="2")
    return proto


def attribute_with_a_type() -> ModelProto:
    """An attribute of the type TYPE_PROTO."""
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, ["n"]))
    return with_attribute(AttributeProto(name="type", type=AttributeProto.TYPE_PROTO, tp=kind))


def attribute_with_graphs() -> ModelProto:
    """An attribute of the type GRAPHS."""
    graphs = [
        onnx.GraphProto(name=f"g{i}", node=[node("Abs", ["x"], [f"z{i}"])], output=[value(f"z{i}")]) for i in range(2)
    ]
    return with_attribute(AttributeProto(name="graphs", type=AttributeProto.GRAPHS, graphs=graphs))


def attribute_with_tensors() -> ModelProto:
    """An attribute of the type TENSORS, with a doc string."""
    tensors = [onnx.numpy_helper.from_array(np.arange(3, dtype=np.int16), f"t{i}") for i in range(2)]
    attribute = AttributeProto(name="tensors", type=AttributeProto.TENSORS, tensors=tensors, doc_string="a text")
    return with_attribute(attribute)


def attribute_with_a_sparse_tensor() -> ModelProto:
    """An attribute of the type SPARSE_TENSOR."""
    values, places = helper.make_tensor("v", FLOAT, [1], [2.0]), helper.make_tensor("i", TensorProto.INT64, [1], [4])
    sparse = helper.make_sparse_tensor(values, places, [9])
    return with_attribute(AttributeProto(name="s", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse))


def with_input(kind: TypeProto) -> ModelProto:
    """A model with one more input."""
    proto = model([relu()])
    proto.graph.input.append(helper.make_value_info("further", kind))
    return proto


def sequence_input() -> ModelProto:
    """An input that is a sequence of tensors."""
    return with_input(helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, ["batch", 3])))


def optional_input() -> ModelProto:
    """An input that may be missing."""
    return with_input(helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, ["batch", 3])))


def map_input() -> ModelProto:
    """An input that is a map, as scikit-learn's converters make them."""
    return with_input(helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, [])))


def sparse_initializers() -> ModelProto:
    """An initializer that is stored sparse."""
    values = helper.make_tensor("w", FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("w_indices", TensorProto.INT64, [2], [1, 5])
    return model([node("Add", ["x", "w"], ["y"])], sparse_initializer=[helper.make_sparse_tensor(values, indices, [8])])


def quantization_annotations() -> ModelProto:
    """A tensor with the names of its scale and zero point."""
    annotation = onnx.TensorAnnotation(tensor_name="y")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    return model([relu()], quantization_annotation=[annotation])


def training() -> ModelProto:
    """A training graph beside the model."""
    proto = model([relu()])
    info = proto.training_info.add()
    info.algorithm.CopyFrom(onnx.GraphProto(name="training", node=[node("Neg", ["x"], ["g"])]))
    info.update_binding.add(key="w", value="g")
    return proto


def unknown_domains() -> ModelProto:
    """An operator, and an import, that nothing knows."""
    proto = model([node("Never", ["x", "", "x"], ["y", "", "z"], domain="org.nowhere", anything=[1.5])])
    proto.opset_import.append(helper.make_opsetid("org.nowhere", 77))
    return proto


def captured_names() -> ModelProto:
    """An If in a Loop, both of which read names of the graphs around them."""
    yes = onnx.GraphProto(name="yes", node=[node("Add", ["x", "v"], ["r"])], output=[value("r")])
    no = onnx.GraphProto(name="no", node=[node("Identity", ["x"], ["r2"])], output=[value("r2")])
    inner = node("If", ["c"], ["next"], then_branch=yes, else_branch=no)
    body = onnx.GraphProto(
        name="body", node=[inner, node("Identity", ["c"], ["c2"])],
        input=[value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v")],
        output=[value("c2", TensorProto.BOOL, []), value("next")],
    )  # fmt: skip
    count = helper.make_tensor("count", TensorProto.INT64, [], [3])
    return model([node("Loop", ["count", "", "x"], ["y"], body=body)], initializer=[count])


def names_used_twice() -> ModelProto:
    """Two nested graphs that use one name each for a tensor of their own."""
    branches = [
        onnx.GraphProto(
            name=name, node=[node("Add", ["x", "w"], ["r"])], output=[value("r")],
            initializer=[onnx.numpy_helper.from_array(np.full(1, number, np.float32), "w")],
        )
        for name, number in (("yes", 1), ("no", 2))
    ]  # fmt: skip
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    both = node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    return model([both], initializer=[condition])


def empty_names() -> ModelProto:
    """Nodes without names, and a graph without one."""
    proto = model([helper.make_node("Relu", ["x"], ["y"])])
    proto.graph.name = ""
    return proto


def small_types() -> ModelProto:
    """Constants of types narrower than a byte, of float8 and of strings, raw and in typed fields."""
    tensors = [
        TensorProto(name="int4", data_type=TensorProto.INT4, dims=[3], raw_data=b"\x21\x03"),
        TensorProto(name="int4 in a field", data_type=TensorProto.INT4, dims=[3], int32_data=[0x21, 0x03]),
        TensorProto(name="uint2", data_type=TensorProto.UINT2, dims=[5], raw_data=b"\x1b\x01"),
        TensorProto(name="float8", data_type=TensorProto.FLOAT8E4M3FN, dims=[2], raw_data=b"\x38\x7f"),
        TensorProto(name="float8e8m0", data_type=TensorProto.FLOAT8E8M0, dims=[2], raw_data=b"\x7f\x80"),
        TensorProto(name="float4", data_type=TensorProto.FLOAT4E2M1, dims=[2], raw_data=b"\x21"),
        TensorProto(name="bfloat16", data_type=TensorProto.BFLOAT16, dims=[1], raw_data=b"\x80\x3f"),
        TensorProto(name="strings", data_type=TensorProto.STRING, dims=[2], string_data=[b"\xff\xfe", b""]),
        TensorProto(name="floats in a field", data_type=FLOAT, dims=[2], float_data=[1.0, float("nan")]),
    ]
    readers = [node("Unusual", [t.name], [f"from {t.name}"], domain="com.example") for t in tensors]
    return model([relu(), *readers], initializer=tensors)


def symbolic_shapes() -> ModelProto:
    """Dimensions with names, denotations, and without either."""
    proto = model([relu()])
    shape = proto.graph.input[0].type.tensor_type.shape
    shape.dim[0].dim_param = "batch"
    shape.dim[0].denotation = "DATA_BATCH"
    shape.dim.add()
    proto.graph.input[0].type.denotation = "TENSOR"
    proto.graph.value_info.append(value("unread", FLOAT, ["a", 2]))
    return proto


def shadowed_inputs() -> ModelProto:
    """An initializer that is an input too (a default that callers may override), and an output given twice."""
    proto = model(
        [node("Add", ["x", "w"], ["y"])], initializer=[onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")]
    )
    proto.graph.input.append(value("w"))
    proto.graph.output.append(value("x"))
    return proto


MODELS: tuple[Callable[[], ModelProto], ...] = (
    string_that_is_not_utf8, strings_that_are_not_utf8, attribute_with_a_type, attribute_with_graphs,
    attribute_with_tensors, attribute_with_a_sparse_tensor, functions, metadata_and_texts, sequence_input,
    optional_input, map_input, sparse_initializers, quantization_annotations, training, unknown_domains, captured_names,
    names_used_twice, empty_names, small_types, symbolic_shapes, shadowed_inputs,
)  # fmt: skip
