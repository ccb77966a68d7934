"""Constant folding: what is folded, what must stay."""

from __future__ import annotations

from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import model, node, rng

from onnxquant.passes.simplify.constants import SMALL, FoldConstants

X = rng(5).standard_normal((2, 3)).astype(np.float32)


def const(name: str, value: Any) -> onnx.NodeProto:
    return node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value)))


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21, 23])
def test_a_chain_of_constants_becomes_one(opset: int) -> None:
    proto = model(
        [
            const("a", np.float32([1, 2, 3])),
            node("Mul", ["a", "b"], ["ab"]),
            node("Neg", ["ab"], ["abt"]),
            node("Add", ["x", "abt"], ["y"], name="sum"),
        ],
        {"x": ("float32", [2, 3])},
        {"y": "float32"},
        {"b": np.float32([4, 5, 6])},
        opset,
    )
    document, note = agreement.check(proto, FoldConstants(), {"x": X}, within=0)
    assert note and "folded" in note
    assert [n.name for n in document.proto.graph.node] == ["sum"]
    assert [t.name for t in document.proto.graph.initializer] == ["abt"]


@pytest.mark.parametrize("opset", [7, 10, 11, 12, 13, 17])
def test_nodes_without_effect_go(opset: int) -> None:
    dropout: dict[str, Any] = {"ratio": 0.3} if opset < 12 else {}
    proto = model(
        [
            node("Identity", ["x"], ["i"]),
            node("Dropout", ["i"], ["d"], **dropout),
            node("Cast", ["d"], ["c"], to=1),
            node("Transpose", ["c"], ["t"], perm=[0, 1]),
            node("Flatten", ["t"], ["f"]),
            node("Reshape", ["f", "shape"], ["r"]),
            node("Relu", ["r"], ["relu"], name="relu"),
            node("Identity", ["relu"], ["y"]),
        ],
        {"x": ("float32", ["n", 3])},
        {"y": "float32"},
        {"shape": np.int64([-1, 3])},
        opset,
    )
    document, note = agreement.check(proto, FoldConstants(), {"x": X}, within=0)
    assert note == "nodes: 7 without effect removed"
    assert [(n.name, list(n.output)) for n in document.proto.graph.node] == [("relu", ["y"])]


def test_nodes_that_compute_the_same_become_one_constant() -> None:
    turned = [node("Transpose", ["w"], [f"w{i}"], perm=[1, 0]) for i in range(3)]
    products = [node("MatMul", ["x", "w0"], ["a"]), node("MatMul", ["a", "w1"], ["b"]), node("MatMul", ["b", "w2"], ["y"])]
    weight = rng(2).standard_normal((3, 3)).astype(np.float32)
    proto = model([*turned, *products], {"x": ("float32", [2, 3])}, {"y": "float32"}, {"w": weight})
    document, note = agreement.check(proto, FoldConstants(), {"x": X}, within=0)
    assert note == "nodes: 3 folded" and len(document.proto.graph.initializer) == 1


def kept(nodes: list[onnx.NodeProto], initializers: dict[str, Any], opset: int = 17, **inputs: Any) -> None:
    """Nothing may happen to these."""
    taken = inputs or {"x": ("float32", ["n", 3])}
    proto = model(nodes, taken, {"y": "float32"}, initializers, opset)
    document, note = agreement.check(proto, FoldConstants(), {"x": X}, within=0)
    assert note is None and len(document.proto.graph.node) == len(nodes)


def test_casts_and_reshapes_with_an_effect_stay() -> None:
    # The rank is kept, the shape is not; a length that varies is not what the other says.
    kept([node("Reshape", ["x", "s"], ["y"])], {"s": np.int64([3, -1])})
    kept([node("Reshape", ["x", "s"], ["y"])], {"s": np.int64([2, 3])})
    kept([node("Cast", ["x"], ["d"], to=11), node("Cast", ["d"], ["y"], to=1)], {})
    kept([node("Pad", ["x", "p"], ["y"])], {"p": np.int64([0, 0, 0, 1])})


def test_input_to_output_stays() -> None:
    kept([node("Identity", ["x"], ["y"])], {})


def test_an_output_beside_its_copy_stays() -> None:
    proto = model(
        [node("Relu", ["x"], ["y"]), node("Identity", ["y"], ["z"])],
        {"x": ("float32", ["n", 3])},
        {"y": "float32", "z": "float32"},
        {},
    )
    document, note = agreement.check(proto, FoldConstants(), {"x": X}, within=0)
    assert note is None and len(document.proto.graph.node) == 2


def test_dropout_whose_mask_is_read_or_that_trains_stays() -> None:
    nodes = [node("Dropout", ["x"], ["d", "mask"]), node("Cast", ["mask"], ["m"], to=1), node("Add", ["d", "m"], ["y"])]
    kept(nodes, {})
    proto = model(
        [node("Dropout", ["x", "", "train"], ["d"], seed=3), node("Relu", ["d"], ["y"])],
        {"x": ("float32", ["n", 3])},
        {"y": "float32"},
        {"train": np.array(True)},
    )
    document, note = agreement.check(proto, FoldConstants())
    assert note is None and len(document.proto.graph.node) == 2


def test_what_a_caller_may_override_is_not_constant() -> None:
    proto = model(
        [node("Relu", ["w"], ["r"]), node("Add", ["x", "r"], ["y"])],
        {"x": ("float32", [2, 3]), "w": ("float32", [3])},
        {"y": "float32"},
        {"w": np.float32([1, -2, 3])},
    )
    document, note = agreement.check(
        proto, FoldConstants(), {"x": X}, {"x": X, "w": np.float32([-1, 5, 2])}, within=0, reference=False
    )
    assert note is None and len(document.proto.graph.node) == 2


def test_random_numbers_stay_random() -> None:
    proto = model(
        [
            node("RandomNormal", [], ["r"], shape=[2, 3]),
            node("Add", ["x", "r"], ["y"]),
            node("RandomUniformLike", ["c"], ["l"]),
            node("Add", ["y", "l"], ["z"]),
        ],
        {"x": ("float32", [2, 3])},
        {"z": "float32"},
        {"c": np.zeros((2, 3), np.float32)},
    )
    document, note = agreement.check(proto, FoldConstants())
    assert note is None and len(document.proto.graph.node) == 4


@pytest.mark.parametrize(
    ("nodes", "initializers"),
    [
        ([node("ConstantOfShape", ["s"], ["big"])], {"s": np.int64([1000, 1000])}),
        ([node("Expand", ["one", "s"], ["big"])], {"one": np.ones((1, 1), np.float32), "s": np.int64([1000, 1000])}),
        ([node("Tile", ["one", "s"], ["big"])], {"one": np.ones((1, 1), np.float32), "s": np.int64([1000, 1000])}),
        (
            [node("Range", ["a", "b", "c"], ["r"]), node("Reshape", ["r", "s"], ["big"])],
            {"a": np.float32(0), "b": np.float32(1e6), "c": np.float32(1), "s": np.int64([1000, 1000])},
        ),
        (
            [node("MatMul", ["v", "h"], ["big"])],
            {"v": np.ones((1000, 1), np.float32), "h": np.ones((1, 1000), np.float32)},
        ),
        ([node("Cast", ["half"], ["big"], to=1)], {"half": np.ones((200, 200), np.float16)}),
    ],
)
def test_nothing_grows(nodes: list[onnx.NodeProto], initializers: dict[str, Any]) -> None:
    nodes = [*nodes, node("ReduceMax", ["big"], ["top"], keepdims=0), node("Add", ["x", "top"], ["y"])]
    proto = model(nodes, {"x": ("float32", [2, 3])}, {"y": "float32"}, initializers)
    document, _ = agreement.check(proto, FoldConstants(), {"x": X}, within=0)
    assert sum(len(t.raw_data) for t in document.proto.graph.initializer) <= SMALL
    assert [n.op_type for n in document.proto.graph.node][-3:][0] == nodes[-3].op_type


def test_a_weight_is_moved_only_if_nothing_else_reads_it() -> None:
    w = rng().standard_normal((200, 200)).astype(np.float32)
    feed = {"x": rng(1).standard_normal((2, 200)).astype(np.float32)}
    alone = [node("Transpose", ["w"], ["t"]), node("MatMul", ["x", "t"], ["y"])]
    proto = model(alone, {"x": ("float32", [2, 200])}, {"y": "float32"}, {"w": w})
    document, _ = agreement.check(proto, FoldConstants(), feed)
    assert agreement.ops(document) == {"MatMul": 1} and len(document.proto.graph.initializer) == 1
    shared = [*alone[:1], node("MatMul", ["x", "t"], ["p"]), node("MatMul", ["p", "w"], ["y"])]
    proto = model(shared, {"x": ("float32", [2, 200])}, {"y": "float32"}, {"w": w})
    document, note = agreement.check(proto, FoldConstants(), feed, within=0)
    assert note is None and agreement.ops(document) == {"Transpose": 1, "MatMul": 2}


def test_codes_stay_codes() -> None:
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    kept(nodes, {"q": np.ones((3, 3), np.int8), "s": np.float32(0.5)}, opset=21)


def test_lengths_that_are_fixed_are_constants() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Concat", ["batch", "length", "one"], ["wanted"], axis=0),
        node("Reshape", ["x", "wanted"], ["y"]),
    ]
    proto = model(nodes, {"x": ("float32", ["n", 3])}, {"y": "float32"}, {"one": np.int64([1]), "zero": np.int64([0])})
    document, note = agreement.check(proto, FoldConstants(), {"x": X}, within=0)
    assert note == "nodes: 1 folded"
    assert agreement.ops(document) == {"Shape": 1, "Gather": 1, "Concat": 1, "Reshape": 1}


@pytest.mark.parametrize("length", [-1, 0])
def test_lengths_that_only_seem_fixed_are_not(length: int) -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=1), node("ReduceSum", ["f"], ["t"], keepdims=0)]
    proto = model([*nodes, node("Identity", ["t"], ["y"])], {"x": ("float32", ["n", 3])}, {"y": "float32"}, {})
    proto.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = length
    from onnxquant.graph.io import load

    document = load(proto)
    FoldConstants()(document)
    assert agreement.ops(document)["Shape"] == 1


def test_claimed_shapes_are_not_believed() -> None:
    """value_info may be wrong: exporters leave a fixed batch in it."""
    nodes = [node("Relu", ["x"], ["r"]), node("Reshape", ["r", "s"], ["y"])]
    proto = model(nodes, {"x": ("float32", ["n", "m"])}, {"y": "float32"}, {"s": np.int64([2, 3])})
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("r", 1, [2, 3]))
    document, note = agreement.check(proto, FoldConstants(), {"x": X.T.copy()}, within=0, reference=False)
    assert note is None and agreement.ops(document)["Reshape"] == 1


def test_nested_graphs_keep_their_meaning() -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        nodes = [
            node("Mul", ["outer", "two"], [f"{name}_c"]),
            node(op, ["h", f"{name}_c"], [f"{name}_m"]),
            node("Identity", [f"{name}_m"], [f"{name}_y"]),
        ]
        info = onnx.helper.make_tensor_value_info(f"{name}_y", 1, None)
        return onnx.helper.make_graph(nodes, name, [], [info])

    nodes = [
        node("Identity", ["x"], ["h"]),
        node("Add", ["a", "a"], ["outer"]),
        node("If", ["c"], ["y"], then_branch=branch("then", "Add"), else_branch=branch("else", "Sub")),
    ]
    proto = model(
        nodes,
        {"x": ("float32", ["n", 3]), "c": ("bool", [])},
        {"y": "float32"},
        {"a": np.float32([1, 2, 3]), "two": np.float32(2)},
    )
    feeds = [{"x": X, "c": np.array(v)} for v in (True, False)]
    document, _ = agreement.check(proto, FoldConstants(), *feeds, within=0)
    # Identity of an input that nested graphs know by name stays: x cannot be renamed, and the name h is theirs.
    assert agreement.ops(document) == {"Identity": 1, "If": 1, "Add": 1, "Sub": 1}


def test_what_nothing_reads_goes_and_foreign_ops_stay() -> None:
    nodes = [
        node("Relu", ["x"], ["y"]),
        node("Exp", ["x"], ["unread"]),
        node("Log", ["unread"], ["also_unread"]),
        node("Watch", ["x"], ["seen"], domain="somebody"),
    ]
    proto = model(nodes, {"x": ("float32", ["n", 3])}, {"y": "float32"}, {})
    proto.opset_import.append(onnx.helper.make_opsetid("somebody", 1))
    from onnxquant.graph.io import load

    document = load(proto)
    assert FoldConstants()(document).notes == ("nodes: 2 unread removed",)
    assert agreement.ops(document) == {"Relu": 1, "Watch": 1}


def test_types_that_onnxruntime_does_not_hand_out() -> None:
    import ml_dtypes

    nodes = [node("Transpose", ["w"], ["t"]), node("Cast", ["t"], ["f"], to=1), node("MatMul", ["x", "f"], ["y"])]
    proto = model(
        nodes,
        {"x": ("float32", [2, 3])},
        {"y": "float32"},
        {"w": rng().standard_normal((4, 3)).astype(ml_dtypes.bfloat16)},
    )
    document, _ = agreement.check(proto, FoldConstants(), {"x": X}, within=0)
    assert agreement.ops(document) == {"MatMul": 1}
