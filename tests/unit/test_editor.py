"""The editors of one graph and of one model."""

from __future__ import annotations

import agreement
import numpy as np
import onnx
import pytest
from graphs import model, node

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.names import SITE, NameAllocator
from onnxquant.graph.node import attribute, is_op, set_attribute
from onnxquant.graph.sites import find_sites
from onnxquant.graph.size_counter import SizeCounter


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


def test_new_nodes_around_new_nodes_keep_their_order() -> None:
    document = agreement.load(small())
    editor = GraphEditor(document.proto.graph)
    total = next(n for n in editor.nodes if n.name == "sum")
    first, last = node("Neg", ["a"], ["first"]), node("Abs", ["first"], ["last"])
    editor.insert_before(total, [last])
    editor.insert_before(last, [first])
    editor.insert_after(last, [node("Relu", ["last"], ["relu"])])
    editor.connect(total, 0, "relu")
    editor.apply()
    ops = [n.op_type for n in document.proto.graph.node]
    assert ops == ["Constant", "Mul", "Add", "Neg", "Abs", "Relu", "Add", "If"]


def test_nodes_of_another_graph_are_refused() -> None:
    editor = GraphEditor(small().graph)
    with pytest.raises(ValueError, match="no node of this graph: Mul 'mul'"):
        editor.remove(next(n for n in small().graph.node if n.name == "mul"))


def test_nodes_without_outputs_can_be_removed() -> None:
    proto = small()
    proto.graph.node.append(node("Print", ["m"], [], domain="com.example", name="print"))
    editor = GraphEditor(proto.graph)
    editor.remove(next(n for n in editor.nodes if n.name == "print"))
    editor.apply()
    assert "Print" not in {n.op_type for n in proto.graph.node}


def test_nested_graphs_stay_valid_when_the_graph_around_them_is_edited() -> None:
    document = agreement.load(small())
    branch = document.proto.graph.node[4].attribute[0].g
    editor = GraphEditor(document.proto.graph)
    editor.insert_after(None, [node("Neg", ["x"], ["negative"])])
    editor.apply()
    branch.name = "renamed"
    assert document.proto.graph.node[5].attribute[0].g.name == "renamed"


def test_a_removed_node_is_told_from_the_one_that_makes_its_output_now() -> None:
    editor = GraphEditor(small().graph)
    twice = next(n for n in editor.nodes if n.name == "twice")
    new = node("Relu", ["m"], ["a"])
    editor.remove(twice)
    editor.insert_before(twice, [new])
    assert editor.is_removed(twice) and not editor.is_removed(new)
    assert editor.producer("a") is new and editor.consumers("m") == [new]


def test_a_models_editor_replaces_the_consumer_of_a_weight_and_drops_nothing_else() -> None:
    proto = model(
        [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"]), node("Relu", ["y"], ["z"])],
        {"x": ("float32", [3, 20])},
        {"z": "float32"},
        {"w": np.ones((20, 20), np.float32), "unread": np.ones(2, np.float32)},
    )
    document = agreement.load(proto)
    editor = ModelEditor(document.proto, SizeCounter())
    site = find_sites(document)[0][0]
    product = editor.node(site, "Product", ["x"], domain="com.example", output="y")
    editor.replace(site.uses[0], [product])
    editor.drop_initializer(site.graph, "w")
    editor.finish()
    assert [(n.op_type, n.name) for n in document.proto.graph.node] == [("Product", "w/Product/node"), ("Relu", "")]
    assert [t.name for t in document.proto.graph.initializer] == ["unread"]
    assert {e.key: e.value for e in document.proto.graph.node[0].metadata_props} == {SITE: "w"}
    assert "com.example" in {o.domain for o in document.proto.opset_import}


def test_new_names_are_unlike_all_others() -> None:
    names = NameAllocator({"x", "x_2"})
    assert [names.fresh(base) for base in ("x", "y", "y", "x")] == ["x_3", "y", "y_2", "x_4"]
