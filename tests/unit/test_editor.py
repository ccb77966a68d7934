"""The view of one graph that passes edit through."""

from __future__ import annotations

import agreement
import numpy as np
import onnx
from graphs import model, node

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.node import attribute, is_op, set_attribute


def small() -> onnx.ModelProto:
    inner = [
        onnx.helper.make_graph([node(op, ["r", "k"], [op])], op, [], [onnx.helper.make_tensor_value_info(op, 1, None)])
        for op in ("Add", "Sub")
    ]
    return model(
        [
            node("Constant", [], ["k"], value_float=2.0),
            node("Mul", ["x", "w"], ["m"], name="mul"),
            node("Add", ["m", "m"], ["a"], name="twice"),
            node("Add", ["a", "w"], ["r"], name="sum"),
            node("If", ["c"], ["y"], then_branch=inner[0], else_branch=inner[1]),
        ],
        {"x": ("float32", [3]), "c": ("bool", []), "o": ("float32", [3])},
        {"y": "float32"},
        {"w": np.float32([1, 2, 3]), "o": np.float32([1, 1, 1])},
    )


def test_who_makes_and_reads_what() -> None:
    document = agreement.load(small())
    editor = GraphEditor(document.proto.graph)
    names = {n.name: n for n in editor.nodes}
    assert editor.producer("m") is names["mul"] and editor.producer("x") is None
    assert editor.consumers("w") == [names["mul"], names["sum"]] and editor.consumers("m") == [names["twice"]]
    assert editor.single_consumer("a") is names["sum"]
    assert editor.single_consumer("m") is None  # one node, but twice
    assert editor.single_consumer("w") is None
    assert editor.captured >= {"r", "k"} and not editor.is_private("r") and editor.is_read("r")
    assert not editor.is_private("y") and editor.is_private("m")


def test_constants() -> None:
    document = agreement.load(small())
    outer, first, _ = graph_editors(document)
    for editor in (outer, first):  # nested graphs see the constants around them
        tensor, constant = editor.constant("w"), editor.constant("k")
        assert tensor is not None and document.array(tensor).tolist() == [1, 2, 3]
        assert constant is not None and document.array(constant) == 2
        assert editor.constant("o") is None  # a caller may give another
        assert editor.constant("x") is None and editor.constant("m") is None and editor.constant("") is None


def test_a_shared_constant_is_copied_and_an_own_one_is_not() -> None:
    document = agreement.load(small())
    editor = GraphEditor(document.proto.graph)
    mul, total = (n for n in editor.nodes if n.name in ("mul", "sum"))
    assert editor.set_constant(mul, 1, np.float32([4, 5, 6])) == "w_folded"
    assert editor.set_constant(total, 1, np.float32([7, 8, 9])) == "w"
    editor.apply()
    values = {t.name: document.array(t).tolist() for t in document.proto.graph.initializer}
    assert values == {"w": [7, 8, 9], "w_folded": [4, 5, 6], "o": [1, 1, 1]}


def test_what_lost_its_reader_goes() -> None:
    document = agreement.load(small())
    editor = GraphEditor(document.proto.graph)
    total = next(n for n in editor.nodes if n.name == "sum")
    mul = next(n for n in editor.nodes if n.name == "mul")
    editor.set_constant(total, 1, np.float32([0, 0, 0]))
    editor.set_constant(mul, 1, np.float32([0, 0, 0]))
    editor.apply()
    assert {t.name for t in document.proto.graph.initializer} == {"w", "w_folded", "o"}


def test_names_are_not_used_twice() -> None:
    editor = GraphEditor(small().graph)
    assert [editor.names.fresh("m"), editor.names.fresh("m"), editor.names.fresh("Sub"), editor.names.fresh("new")] == [
        "m_2",
        "m_3",
        "Sub_2",
        "new",
    ]


def test_an_output_keeps_its_name_when_its_maker_is_bypassed() -> None:
    document = agreement.load(
        model(
            [node("Relu", ["x"], ["r"], name="relu"), node("Neg", ["r"], ["n"]), node("Identity", ["r"], ["y"])],
            {"x": ("float32", [3])},
            {"y": "float32", "n": "float32"},
            {},
        )
    )
    editor = GraphEditor(document.proto.graph)
    assert editor.bypass(editor.nodes[2], "r")
    editor.apply()
    assert [(n.op_type, list(n.input), list(n.output)) for n in document.proto.graph.node] == [
        ("Relu", ["x"], ["y"]),
        ("Neg", ["y"], ["n"]),
    ]


def test_insertion_keeps_the_order() -> None:
    document = agreement.load(small())
    editor = GraphEditor(document.proto.graph)
    total = next(n for n in editor.nodes if n.name == "sum")
    editor.insert_before(total, [node("Neg", ["a"], ["first"])])
    editor.insert_before(total, [node("Neg", ["first"], ["second"])])
    editor.connect(total, 0, "second")
    editor.apply()
    assert [n.op_type for n in document.proto.graph.node] == ["Constant", "Mul", "Add", "Neg", "Neg", "Add", "If"]


def test_attributes() -> None:
    conv = node("Conv", ["x", "w"], ["y"], group=2, auto_pad="VALID", pads=[1, 2])
    assert attribute(conv, "group", 1) == 2 and attribute(conv, "auto_pad") == "VALID"
    assert attribute(conv, "pads") == [1, 2] and attribute(conv, "strides", [1]) == [1]
    set_attribute(conv, "group", None)
    set_attribute(conv, "pads", [0, 0])
    assert attribute(conv, "group", 1) == 1 and attribute(conv, "pads") == [0, 0]
    assert is_op(conv, "Gemm", "Conv") and not is_op(None, "Conv")
    assert not is_op(node("Conv", [], ["y"], domain="com.microsoft"), "Conv")
