"""Columns in another order: same function, codes as with a stored permutation, and what has to stay stays."""

from __future__ import annotations

from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import captures, model, node, rng, weight
from numpy.typing import NDArray

from onnxquant.errors import WeightError
from onnxquant.formats import format_named
from onnxquant.passes.equivalent.permute import PermuteChannels, order_of, orders

Array = NDArray[Any]
K = 32
X = {"x": rng(3).standard_normal((4, 5, K)).astype(np.float32)}
ORDER = rng(8).permutation(K).astype(np.int32)
CONSTANTS: dict[str, Array] = {
    **{name: weight(K, K, seed=i) for i, name in enumerate(("up", "gate", "q", "k", "v", "o", "w"))},
    "down": weight(K, 24, seed=20),
    "single": weight(K, 1, seed=25),
    "gemm": weight(K, K, seed=21),
    "g": rng(1).uniform(0.5, 2, K).astype(np.float32),
    "b": weight(K, seed=22),
    "c": weight(1, K, seed=23),
    "root": np.float32(2**0.5),
    "half": np.float32(0.5),
    "one": np.float32(1),
    "two": np.float32(2),
    "eps": np.float32([1e-5]),
    "zero": np.float32(0),
    "table": weight(5, K, seed=24),
    "shape": np.int64([4, 5, K]),
}


def build(nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("y",), opset: int = 17) -> onnx.ModelProto:
    used = {i for n in nodes for i in n.input}
    constants = {k: v for k, v in CONSTANTS.items() if k in used}
    return model(nodes, {"x": ("float32", [4, 5, K])}, dict.fromkeys(outputs, "float32"), constants, opset)


def folding(order: Array = ORDER, name: str = "m") -> PermuteChannels:
    """The pass for one activation."""
    return PermuteChannels({name: order})


NORM = node("LayerNormalization", ["x", "g", "b"], ["n"])
UP = node("MatMul", ["x", "up"], ["u"])
GATE = node("MatMul", ["x", "gate"], ["gated"])
DOWN = node("MatMul", ["m", "down"], ["y"])
MAKERS: dict[str, list[onnx.NodeProto]] = {
    "gelu written out": [
        UP,
        node("Add", ["u", "b"], ["h"]),
        node("Div", ["h", "root"], ["d"]),
        node("Erf", ["d"], ["e"]),
        node("Add", ["e", "one"], ["f"]),
        node("Mul", ["h", "f"], ["t"]),
        node("Mul", ["t", "half"], ["m"]),
    ],
    "gated by SiLU": [
        UP,
        GATE,
        node("Sigmoid", ["gated"], ["s"]),
        node("Mul", ["gated", "s"], ["t"]),
        node("Mul", ["t", "u"], ["m"]),
    ],
    "Gemm with a bias": [
        node("Flatten", ["x"], ["f"], axis=2),
        node("Gemm", ["f", "gemm", "c"], ["h"], transB=1, alpha=0.5, beta=2.0),
        node("LeakyRelu", ["h"], ["m"]),
    ],
    "norm between": [UP, node("Relu", ["u"], ["r"]), node("LayerNormalization", ["r", "g", "b"], ["m"])],
    "RMS norm written out": [
        UP,
        node("Pow", ["u", "two"], ["p"]),
        node("ReduceMean", ["p"], ["i"], axes=[-1]),
        node("Add", ["i", "eps"], ["j"]),
        node("Sqrt", ["j"], ["d"]),
        node("Div", ["u", "d"], ["t"]),
        node("Mul", ["g", "t"], ["m"]),
    ],
    "table per position": [UP, node("Add", ["u", "table"], ["t"]), node("Clip", ["t", "zero"], ["m"])],
    "nothing": [node("MatMul", ["x", "up"], ["m"])],
}


@pytest.mark.parametrize("case", MAKERS)
def test_rows_of_the_makers_move_with_the_columns_of_the_reader(case: str) -> None:
    proto = build([*MAKERS[case], DOWN])
    document, note = agreement.check(proto, folding(), X, within=1e-6)
    assert note == "1 activations permuted (1 by what makes it)"
    assert agreement.ops(document) == agreement.ops(agreement.load(proto))
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    np.testing.assert_array_equal(made["down"], CONSTANTS["down"][ORDER])
    for name in made.keys() & {"up", "gate", "c", "table"}:
        np.testing.assert_array_equal(made[name], CONSTANTS[name][:, ORDER])
    for name in made.keys() & {"g", "b", "gemm"}:
        np.testing.assert_array_equal(made[name], CONSTANTS[name][ORDER])
    # The columns that are stored are those of a format with a plane for their order.
    form = format_named("q4_k")
    wide = np.tile(CONSTANTS["down"].T, 8)
    order = (np.arange(8)[:, None] * K + ORDER).reshape(-1)
    folded, stored = form.encode(np.tile(made["down"].T, 8)), form.encode(wide, permutation=order)
    assert all(np.array_equal(plane, stored.planes[name]) for name, plane in folded.planes.items())


def test_convolutions_of_one_position() -> None:
    proto = model(
        [
            node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1]),
            node("Add", ["h", "c"], ["r"]),
            node("Relu", ["r"], ["m"]),
            node("Conv", ["m", "p"], ["y"]),
        ],
        {"x": ("float32", [1, 4, 6, 6])},
        {"y": "float32"},
        {
            "w": weight(K, 4, 3, 3),
            "b": weight(K, seed=2),
            "c": weight(K, 1, 1, seed=3),
            "p": weight(6, K, 1, 1, seed=4),
        },
    )
    document, note = agreement.check(proto, folding(), {"x": rng(3).standard_normal((1, 4, 6, 6)).astype(np.float32)})
    assert note == "1 activations permuted (1 by what makes it)"
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    np.testing.assert_array_equal(made["p"], weight(6, K, 1, 1, seed=4)[:, ORDER])


def test_an_op_may_be_permuted_on_both_sides() -> None:
    nodes = [node("MatMul", ["x", "q"], ["a"]), node("MatMul", ["a", "k"], ["m"]), DOWN]
    first = rng(9).permutation(K)
    both = PermuteChannels({"a": first, "m": ORDER})
    document, note = agreement.check(build(nodes), both, X)
    assert note == "2 activations permuted (2 by what makes it)"
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    np.testing.assert_array_equal(made["k"], CONSTANTS["k"][first][:, ORDER])


LEFT: dict[str, tuple[list[onnx.NodeProto], tuple[str, ...], str]] = {
    "residual stream before a norm": (
        [UP, node("LayerNormalization", ["u", "g", "b"], ["m"]), DOWN, node("Neg", ["u"], ["z"])],
        ("y", "z"),
        "Neg reads what makes it too",
    ),
    "residual stream": ([UP, node("Add", ["u", "x"], ["m"]), DOWN], ("y",), "it is made of an input or a constant"),
    "read by a sum": (
        [node("MatMul", ["x", "up"], ["m"]), DOWN, node("Add", ["m", "x"], ["z"])],
        ("y", "z"),
        "Add reads it too",
    ),
    "output": ([*MAKERS["nothing"], DOWN], ("y", "m"), "it is an output, or a nested graph reads it"),
    "output on the way": (
        [UP, node("Relu", ["u"], ["m"]), DOWN],
        ("y", "u"),
        "a caller or a nested graph reads what makes it too",
    ),
    "norm of the input": (
        [node("LayerNormalization", ["x", "g"], ["m"]), DOWN],
        ("y",),
        "it is made of an input or a constant",
    ),
    "channels meet": ([UP, node("Softmax", ["u"], ["m"]), DOWN], ("y",), "Softmax lies before it"),
    "axis moves": ([UP, node("Reshape", ["u", "shape"], ["m"]), DOWN], ("y",), "Reshape lies before it"),
    "another axis": (
        [
            node("MatMul", ["x", "up"], ["u"]),
            node("ReduceMean", ["u"], ["m"], axes=[0], keepdims=0),
            DOWN,
        ],
        ("y",),
        "ReduceMean lies before it",
    ),
    "gate of one channel": (
        [UP, node("MatMul", ["x", "single"], ["t"]), node("Mul", ["u", "t"], ["m"]), DOWN],
        ("y",),
        "the channels of the MatMul before it are others",
    ),
    "bias that is made": (
        [
            node("Flatten", ["x"], ["f"], axis=2),
            node("ReduceMax", ["f"], ["t"], axes=[0], keepdims=1),
            node("Gemm", ["f", "gemm", "t"], ["m"]),
            DOWN,
        ],
        ("y",),
        "the bias of the Gemm before it is not a constant per channel",
    ),
    "something else comes of it too": (
        [UP, node("LayerNormalization", ["u", "g", "b"], ["m", "mean"]), DOWN, node("Neg", ["mean"], ["z"])],
        ("y", "z"),
        "the LayerNormalization before it gives something else too",
    ),
    "tied": (
        [node("MatMul", ["x", "up"], ["m"]), DOWN, node("MatMul", ["x", "down"], ["z"])],
        ("y", "z"),
        "the weight of a MatMul is read elsewhere too",
    ),
    "tied maker": (
        [node("MatMul", ["x", "up"], ["m"]), DOWN, node("MatMul", ["x", "up"], ["z"])],
        ("y", "z"),
        "the weight of a MatMul is read elsewhere too",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_with_a_reason(case: str) -> None:
    nodes, outputs, reason = LEFT[case]
    proto = build(nodes, outputs)
    document, note = agreement.check(proto, folding(), X)
    assert note == f"0 activations permuted; 1 left: {reason}"
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    for tensor in proto.graph.initializer:
        np.testing.assert_array_equal(made[tensor.name], onnx.numpy_helper.to_array(tensor))
    assert len(made) == len(proto.graph.initializer)


def test_left_where_a_nested_graph_reads_what_makes_it() -> None:
    then, other = captures("u", "Neg", "Abs")
    proto = build(
        [UP, node("Relu", ["u"], ["m"]), DOWN, node("If", ["flag"], ["z"], then_branch=then, else_branch=other)],
        ("y", "z"),
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "flag"))
    document = agreement.load(proto)
    assert folding()(document).refused == {"m": "a caller or a nested graph reads what makes it too"}


def test_groups_and_windows_are_left() -> None:
    x = {"x": ("float32", [1, K, 6, 6])}
    reads = [node("Conv", ["x", "p"], ["m"]), node("Conv", ["m", "w"], ["y"])]
    weights = {"p": weight(K, K, 1, 1), "w": weight(4, K, 3, 3)}
    document = agreement.load(model(reads, x, {"y": "float32"}, weights))
    assert folding()(document).refused == {"m": "a Conv with groups or windows reads it"}
    assert orders(document, "norm", {}).keys() == {"x"}
    makes = [node("Conv", ["x", "d"], ["m"], group=K), node("Conv", ["m", "p"], ["y"])]
    document = agreement.load(model(makes, x, {"y": "float32"}, {**weights, "d": weight(K, 1, 3, 3)}))
    reason = "the Conv before it has groups"
    assert folding()(document).refused == {"m": reason}


def attention() -> list[onnx.NodeProto]:
    """A block of one head, with residuals, and an MLP after it."""
    return [
        NORM,
        *(node("MatMul", ["n", name], [f"{name}_"]) for name in "qkv"),
        node("Transpose", ["k_"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q_", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["p"]),
        node("MatMul", ["p", "v_"], ["context"]),
        node("MatMul", ["context", "o"], ["o_"]),
        node("Add", ["x", "o_"], ["stream"]),
        node("LayerNormalization", ["stream", "g"], ["n2"]),
        node("MatMul", ["n2", "up"], ["u"]),
        node("MatMul", ["n2", "gate"], ["gated"]),
        node("Sigmoid", ["gated"], ["s"]),
        node("Mul", ["s", "u"], ["m"]),
        node("MatMul", ["m", "w"], ["w_"]),
        node("Add", ["stream", "w_"], ["y"]),
    ]


def test_of_a_transformer_block_the_mlp_is_folded_and_o_is_not_touched() -> None:
    proto = build(attention())
    found = orders(agreement.load(proto), "norm", {})
    assert found.keys() == {"n", "context", "n2", "m"}
    document, note = agreement.check(proto, PermuteChannels(found), X)
    assert note is not None and note.startswith("1 activations permuted (1 by what makes it); ")
    reasons = PermuteChannels(found)(agreement.load(proto)).refused
    assert reasons == {
        "n": "it is made of an input or a constant",
        "context": "MatMul lies before it",
        "n2": "Add reads what makes it too",
    }
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    for name in ("q", "k", "v", "o", "g", "b"):
        np.testing.assert_array_equal(made[name], CONSTANTS[name])
    np.testing.assert_array_equal(made["w"], CONSTANTS["w"][found["m"]])
    np.testing.assert_array_equal(made["up"], CONSTANTS["up"][:, found["m"]])


def test_q_k_and_v_share_an_order_and_nothing_else_has_one() -> None:
    found = orders(agreement.load(build(attention())), "attention", {})
    assert found.keys() == {"n"}
    norms = np.linalg.norm(np.concatenate([CONSTANTS[w].astype(np.float64) for w in "qkv"], axis=1), axis=1)
    assert np.array_equal(found["n"], np.argsort(-norms, kind="stable"))


def test_attention_as_one_op() -> None:
    nodes = [
        node("MatMul", ["x", "up"], ["u"]),
        node("Relu", ["u"], ["n"]),
        *(node("MatMul", ["n", name], [f"{name}_"]) for name in "qkv"),
        node("MultiHeadAttention", ["q_", "k_", "v_"], ["context"], domain="com.microsoft", num_heads=2),
        node("MatMul", ["context", "o"], ["y"]),
    ]
    assert orders(agreement.load(build(nodes)), "attention", {}).keys() == {"n"}


def test_orders() -> None:
    a, b = weight(7, K).astype(np.float64), weight(9, K, seed=5).astype(np.float64)
    norms = [sum(float((w[:, j] ** 2).sum()) for w in (a, b)) for j in range(K)]
    expected = sorted(range(K), key=lambda j: -norms[j])
    for strategy in ("norm", "attention"):
        found = order_of([a, b], strategy)
        assert found.dtype == np.int32 and found.tolist() == expected
    energy = np.repeat([1.0, 3.0, 2.0, 3.0], K // 4)
    eighth = K // 4
    ties = [*range(eighth, 2 * eighth), *range(3 * eighth, K), *range(2 * eighth, 3 * eighth), *range(eighth)]
    assert order_of([a], "activation", energy).tolist() == ties
    document = agreement.load(build([*MAKERS["nothing"], DOWN]))
    assert {k: v.tolist() for k, v in orders(document, "activation", {"m": energy}).items()} == {"m": ties}


@pytest.mark.parametrize(
    ("weights", "energy", "message"),
    [
        ([], None, r"weights of \[\] columns"),
        ([np.ones((2, 3)), np.ones((2, 4))], None, r"weights of \[3, 4\] columns"),
        ([np.ones((2, 3))], None, r"order by activation: expected 3 finite numbers, found shape \[\]"),
        ([np.ones((2, 3))], [1, 2], r"found shape \[2\]"),
        ([np.ones((2, 3))], [1, np.nan, 2], r"found shape \[3\]"),
    ],
)
def test_orders_by_weights_or_energies_that_do_not_fit_are_refused(weights: list[Array], energy: Any, message: str) -> None:
    with pytest.raises(WeightError, match=message):
        order_of(weights, "activation", energy)


def test_an_order_that_is_no_permutation_is_refused() -> None:
    with pytest.raises(WeightError, match=r"expected each of 0 \.\. 31 once"):
        folding(np.zeros(K, np.int32))(agreement.load(build([*MAKERS["nothing"], DOWN])))
