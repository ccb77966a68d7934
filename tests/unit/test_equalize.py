"""Cross-layer equalization: same function, balanced weights."""

from __future__ import annotations

from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import captures, model, node, rng, weight

from onnxquant.graph.analysis.linear import linear
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.passes import PassResult
from onnxquant.passes.equivalent.equalize import Equalize
from onnxquant.passes.pipeline import simplify


def uneven(*shape: int, seed: int = 0, axis: int = 0) -> Any:
    """A weight whose channels along an axis differ by orders of magnitude."""
    spread = 10.0 ** rng(seed + 50).uniform(-1, 1, shape[axis])
    return (weight(*shape, seed=seed) * spread.reshape([-1 if a == axis else 1 for a in range(len(shape))])).astype(
        np.float32
    )


def image(*shape: int) -> dict[str, Any]:
    return {"x": rng(3).standard_normal(shape).astype(np.float32)}


def ranges(document: Document) -> list[tuple[Any, Any]]:
    """Largest weight per output and per input channel of each linear op."""
    editor = GraphEditor(document.proto.graph)
    blocks = [op.blocks(document) for n in editor.nodes if (op := linear(editor, n))]
    return [(np.abs(b).max((2, 3)).reshape(-1), np.abs(b).max((1, 3)).reshape(-1)) for b in blocks]


def two_convs(*between: onnx.NodeProto, opset: int = 17, **extra: Any) -> onnx.ModelProto:
    """Conv from x to a, nodes from a to z, Conv from z to y."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], name="first"),
        *between,
        node("Conv", ["z", "w2"], ["y"], name="second"),
    ]
    constants = {"w1": uneven(8, 4, 3, 3), "b1": weight(8, seed=2), "w2": uneven(6, 8, 1, 1, seed=5)} | extra
    return model(nodes, {"x": ("float32", [1, 4, 8, 8])}, {"y": "float32"}, constants, opset)


X = image(1, 4, 8, 8)
HOMOGENEOUS = [
    [node("Relu", ["a"], ["z"])],
    [node("LeakyRelu", ["a"], ["z"], alpha=0.2)],
    [node("PRelu", ["a", "slope"], ["z"])],
    [node("Clip", ["a", "zero"], ["z"])],
    [node("Relu", ["a"], ["r"]), node("MaxPool", ["r"], ["z"], kernel_shape=[2, 2])],
    [node("AveragePool", ["a"], ["r"], kernel_shape=[2, 2], pads=[1, 1, 1, 1]), node("Relu", ["r"], ["z"])],
    [node("GlobalAveragePool", ["a"], ["z"])],
    [node("Pad", ["a", "pads"], ["z"])],
    [node("Add", ["shift", "a"], ["s"]), node("Relu", ["s"], ["z"])],
    [node("Sub", ["shift", "a"], ["s"]), node("Relu", ["s"], ["z"])],
    [node("Mul", ["a", "half"], ["s"]), node("Relu", ["s"], ["z"])],
    [node("ReduceMean", ["a"], ["z"], axes=[2, 3])],
    [
        node("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1]),
        node("Relu", ["t"], ["r"]),
        node("Transpose", ["r"], ["z"], perm=[0, 3, 1, 2]),
    ],
    [],
]
EXTRA = {
    "slope": weight(8, 1, 1, seed=8),
    "zero": np.float32(0),
    "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1]),
    "shift": weight(8, 1, 1, seed=9),
    "half": np.float32(0.5),
}


@pytest.mark.parametrize("between", HOMOGENEOUS, ids=lambda b: "-".join(n.op_type + n.input[0] for n in b) or "nothing")
def test_between_two_convs(between: list[onnx.NodeProto]) -> None:
    if not between:
        between = [node("Identity", ["a"], ["z"])]
    proto = two_convs(*between, **EXTRA)
    document, note = agreement.check(proto, Equalize(), X)
    assert note and note.startswith("1 activations")
    (made, _), (_, read) = ranges(document)
    assert np.allclose(made, read, rtol=1e-5)
    assert [n.name for n in document.proto.graph.node][0 :: len(between) + 1] == ["first", "second"]


@pytest.mark.parametrize(
    "between",
    [
        [node("Sigmoid", ["a"], ["z"])],
        [node("Clip", ["a", "zero", "six"], ["z"])],
        [node("Clip", ["a", "low"], ["z"])],
        [node("HardSwish", ["a"], ["z"])],
        [node("Softmax", ["a"], ["z"], axis=1)],
        [node("Add", ["a", "a"], ["z"])],
        [node("Add", ["a", "half"], ["z"])],
        [node("Pad", ["a", "pads", "half"], ["z"])],
        [node("Pad", ["a", "narrow"], ["z"])],
        [node("ReduceMean", ["a"], ["m"], axes=[1]), node("Expand", ["m", "eight"], ["z"])],
        [node("MaxPool", ["a"], ["z", "at"], kernel_shape=[2, 2])],
    ],
    ids=lambda b: "-".join(n.op_type for n in b) + "_".join(b[0].input),
)
def test_what_is_not_homogeneous_is_left(between: list[onnx.NodeProto]) -> None:
    extra = EXTRA | {
        "six": np.float32(6),
        "low": np.float32(-1),
        "narrow": np.int64([0, 1, 0, 0, 0, -1, 0, 0]),
        "eight": np.int64([1, 8, 1, 1]),
    }
    _, note = agreement.check(two_convs(*between, **extra), Equalize())
    assert note is None


@pytest.mark.parametrize("case", ["output", "read twice", "captured", "weight is an input"])
def test_traps(case: str) -> None:
    proto = two_convs(node("Relu", ["a"], ["z"]))
    feed = dict(X)
    if case == "output":
        proto.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    elif case == "read twice":
        proto.graph.node.append(node("Neg", ["a"], ["n"]))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("n", 1, None))
    elif case == "captured":
        inner = captures("z", "Relu", "Neg")
        proto.graph.node.append(node("If", ["which"], ["n"], then_branch=inner[0], else_branch=inner[1]))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "which"))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("n", 1, None))
    else:
        proto.graph.input.append(onnx.helper.make_tensor_value_info("w1", 1, [8, 4, 3, 3]))
    _, note = agreement.check(proto, Equalize(), feed, reference=case != "weight is an input")
    assert note is None


def test_a_depthwise_chain_converges() -> None:
    """Conv, depthwise, pointwise: three ops, two activations, each balanced in the end."""
    proto = model(
        [
            node("Conv", ["x", "w1"], ["a"]),
            node("Relu", ["a"], ["ra"]),
            node("Conv", ["ra", "w2", "b2"], ["b"], group=8),
            node("Relu", ["b"], ["rb"]),
            node("Conv", ["rb", "w3"], ["y"]),
        ],
        {"x": ("float32", [1, 4, 8, 8])},
        {"y": "float32"},
        {
            "w1": uneven(8, 4, 3, 3),
            "w2": uneven(8, 1, 3, 3, seed=3),
            "b2": weight(8),
            "w3": uneven(5, 8, 1, 1, seed=6, axis=1),
        },
    )
    document, note = agreement.check(proto, Equalize(), X)
    assert note and note.startswith("2 activations")
    first, second, third = ranges(document)
    assert np.allclose(first[0], second[1], rtol=1e-2) and np.allclose(second[0], third[1], rtol=1e-2)


@pytest.mark.parametrize("first", ["ConvTranspose", "grouped"])
def test_groups_and_transposed_convs(first: str) -> None:
    conv = (
        node("ConvTranspose", ["x", "w1"], ["a"])
        if first == "ConvTranspose"
        else node("Conv", ["x", "w1"], ["a"], group=2)
    )
    w1 = uneven(4, 8, 3, 3, axis=1) if first == "ConvTranspose" else uneven(8, 2, 3, 3)
    proto = model(
        [conv, node("Relu", ["a"], ["r"]), node("ConvTranspose", ["r", "w2"], ["y"], group=2)],
        {"x": ("float32", [1, 4, 8, 8])},
        {"y": "float32"},
        {"w1": w1, "w2": uneven(8, 3, 2, 2, seed=4)},
    )
    document, note = agreement.check(proto, Equalize(), X, reference=False)
    assert note
    (made, _), (_, read) = ranges(document)
    assert np.allclose(made, read, rtol=1e-5)


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("flat", ["Flatten", "Reshape", "Squeeze"])
def test_conv_then_gemm_through_a_flattened_map(trans: int, flat: str) -> None:
    spatial = 1 if flat == "Squeeze" else 36
    columns = 8 * spatial
    nodes = [node("Conv", ["x", "w1"], ["a"]), node("Relu", ["a"], ["r"])]
    pooled = [node("GlobalAveragePool", ["r"], ["g"])] if spatial == 1 else [node("Identity", ["r"], ["g"])]
    shapes = {
        "Flatten": node("Flatten", ["g"], ["f"]),
        "Reshape": node("Reshape", ["g", "s"], ["f"]),
        "Squeeze": node("Squeeze", ["g", "axes"], ["f"]),
    }
    gemm = node("Gemm", ["f", "w2", "c"], ["y"], transB=trans, beta=0.5)
    proto = model(
        [*nodes, *pooled, shapes[flat], gemm],
        {"x": ("float32", [2, 4, 8, 8])},
        {"y": "float32"},
        {
            "w1": uneven(8, 4, 3, 3),
            "w2": uneven(*((5, columns) if trans else (columns, 5)), seed=3),
            "c": weight(5),
            "s": np.int64([2, -1]),
            "axes": np.int64([2, 3]),
        },
    )
    document, note = agreement.check(proto, Equalize(), image(2, 4, 8, 8))
    assert note
    (made, _), (_, read) = ranges(document)
    assert np.allclose(made, read.reshape(8, spatial).max(1), rtol=1e-5)


def test_matmuls_with_biases_written_out() -> None:
    nodes = [
        node("MatMul", ["x", "w1"], ["m"]),
        node("Add", ["b1", "m"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("MatMul", ["r", "w2"], ["n"]),
        node("Add", ["n", "b2"], ["y"]),
    ]
    constants = {"w1": uneven(6, 10, axis=1), "b1": weight(10), "w2": uneven(10, 5, seed=4), "b2": weight(5)}
    proto = model(nodes, {"x": ("float32", ["n", 3, 6])}, {"y": "float32"}, constants)
    document, note = agreement.check(proto, Equalize(), image(2, 3, 6))
    assert note
    (made, _), (_, read) = ranges(document)
    assert np.allclose(made, read, rtol=1e-5)


def test_a_gemm_with_a_scaled_bias() -> None:
    nodes = [
        node("Gemm", ["x", "w1", "c"], ["a"], alpha=0.3, beta=4.0),
        node("Relu", ["a"], ["r"]),
        node("Gemm", ["r", "w2"], ["y"]),
    ]
    constants = {"w1": uneven(6, 10, axis=1), "c": weight(10), "w2": uneven(10, 5, seed=4)}
    proto = model(nodes, {"x": ("float32", ["n", 6])}, {"y": "float32"}, constants)
    _, note = agreement.check(proto, Equalize(), image(3, 6))
    assert note


def test_a_weight_that_several_read_stays_one() -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], ["a"]),
            node("Relu", ["a"], ["r"]),
            node("Conv", ["r", "w"], ["y"]),
            node("Conv", ["x", "w"], ["z"]),
        ],
        {"x": ("float32", [1, 4, 8, 8])},
        {"y": "float32", "z": "float32"},
        {"w": uneven(4, 4, 3, 3)},
    )
    document, note = agreement.check(proto, Equalize(), X, within=0)
    assert note is None and len(document.proto.graph.initializer) == 1


def test_channels_without_weights_and_limits() -> None:
    """A channel that is zero on one side is left; a nearly dead one moves by the limit, not by 1e10."""
    proto = two_convs(node("Relu", ["a"], ["z"]))
    w1 = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    w1[0], w1[1] = 0, w1[1] * 1e-20
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(w1, "w1"))
    before = onnx.numpy_helper.to_array(proto.graph.initializer[1])
    document, _ = agreement.check(proto, Equalize(), X)
    after = {t.name: document.array(t) for t in document.proto.graph.initializer}["b1"]
    assert after[0] == before[0] and np.isclose(after[1], before[1] * 1e3)


@pytest.mark.parametrize("opset", [8, 11, 17])
def test_a_clip_split_into_relu_and_min_is_the_same_function(opset: int) -> None:
    clip = (
        node("Clip", ["a"], ["z"], min=0.0, max=0.7, name="six")
        if opset < 11
        else node("Clip", ["a", "zero", "six"], ["z"], name="six")
    )
    proto = two_convs(clip, opset=opset, zero=np.float32(0), six=np.float32(0.7))
    assert (
        agreement.outputs(
            model(
                [node("Conv", ["x", "w1", "b1"], ["a"])],
                {"x": ("float32", [1, 4, 8, 8])},
                {"a": "float32"},
                {"w1": uneven(8, 4, 3, 3), "b1": weight(8, seed=2)},
            ),
            X,
        )["a"]
        > 0.7
    ).any()
    assert agreement.check(proto, Equalize(), X)[1] is None
    document, note = agreement.check(proto, Equalize(split_clip=True), X)
    assert note and agreement.ops(document) == {"Conv": 2, "Relu": 1, "Min": 1}
    assert "six" in {n.name for n in document.proto.graph.node}


def test_min_does_not_broadcast_before_opset_8() -> None:
    proto = two_convs(node("Clip", ["a"], ["z"], min=0.0, max=0.7), opset=7)
    assert agreement.check(proto, Equalize(split_clip=True))[1] is None


def test_a_relaxed_clip_is_another_function() -> None:
    proto = two_convs(node("Clip", ["a", "zero", "six"], ["z"]), zero=np.float32(0), six=np.float32(0.7))
    document, note = agreement.check(proto, Equalize(relax_clip=True))
    assert note and "relaxed" in note and agreement.ops(document) == {"Conv": 2, "Relu": 1}
    assert agreement.difference(agreement.outputs(proto, X), agreement.outputs(agreement.complete(document), X)) > 0.01
    # Where nothing is clipped it is the same.
    small = {"x": X["x"] * 1e-3}
    proto = two_convs(node("Clip", ["a", "zero", "six"], ["z"]), zero=np.float32(0), six=np.float32(50))
    agreement.check(proto, Equalize(relax_clip=True), small)


def test_the_bound_on_what_changes() -> None:
    """Per layer at most (K + 2) 2^-23 sum |w| |x|; and it does change, so the scales are no powers of two."""
    w1, w2 = uneven(64, 40, axis=0), uneven(20, 64, seed=4, axis=1)
    nodes = [
        node("Gemm", ["x", "w1"], ["a"], transB=1),
        node("Relu", ["a"], ["r"]),
        node("Gemm", ["r", "w2"], ["y"], transB=1),
    ]
    proto = model(nodes, {"x": ("float32", [50, 40])}, {"y": "float32"}, {"w1": w1, "w2": w2})
    feed = image(50, 40)
    document, _ = agreement.check(proto, Equalize(), feed)
    before, after = (agreement.outputs(p, feed)["y"].astype(np.float64) for p in (proto, agreement.complete(document)))
    x, a, b = feed["x"].astype(np.float64), np.abs(w1).astype(np.float64), np.abs(w2).astype(np.float64)
    bound = 2.0**-23 * ((40 + 2) + (64 + 2)) * (np.abs(x) @ a.T @ b.T)
    assert np.abs(after - before).max() > 0 and (np.abs(after - before) <= bound).all()


@pytest.mark.parametrize("opset", range(7, 27))
def test_every_opset_from_batch_norm_to_equal_ranges(opset: int) -> None:
    """The whole way that a model goes: constants, batch norm, pad, equalization."""
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    pad = node("Pad", ["r"], ["p"], pads=pads) if opset < 11 else node("Pad", ["r", "pads"], ["p"])
    proto = model(
        [
            node("Conv", ["x", "w1"], ["c"], name="first"),
            node("Exp", ["logs"], ["s"]),
            node("BatchNormalization", ["c", "s", "b", "m", "s"], ["n"]),
            node("Relu", ["n"], ["r"], name="relu"),
            pad,
            node("Conv", ["p", "w2"], ["i"], name="second"),
            node("Identity", ["i"], ["y"]),
        ],
        {"x": ("float32", [1, 4, 8, 8])},
        {"y": "float32"},
        {"w1": uneven(8, 4, 3, 3), "w2": uneven(6, 8, 3, 3, seed=5), "pads": np.int64(pads)}
        | {k: weight(8, seed=i) for i, k in enumerate(["logs", "b", "m"])},
        opset,
    )

    def whole(document: Document) -> PassResult:
        return PassResult(True, (*simplify(document), *Equalize()(document).notes))

    document, note = agreement.check(proto, whole, X, reference=opset >= 14)
    assert note and note.endswith("1 activations equalized between their linear ops")
    assert [n.name for n in document.proto.graph.node] == ["first", "relu", "second"]
