"""SmoothQuant: same function, scales by the paper's formula, folded into whatever makes the activation."""

from __future__ import annotations

from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import model, node, rng, weight

from onnxquant.errors import FeedError, RecipeError
from onnxquant.passes.equivalent.smooth import Smooth

K = 8
X = {"x": rng(3).standard_normal((4, 5, K)).astype(np.float32) * np.float32([1, 1, 30, 1, 0.1, 1, 1, 5])}
MAXIMA = rng(9).uniform(0.1, 40, K)
CONSTANTS: dict[str, Any] = {
    "g": rng(1).uniform(0.5, 2, K).astype(np.float32),
    "b": weight(K, seed=2),
    "w": weight(K, 6, seed=3),
    "w2": weight(K, 7, seed=4),
    "up": weight(K, K, seed=5),
    "half": np.float32(0.5),
    "eps": np.float32(1e-5),
    "two": np.float32(2),
}


def build(nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("y",), opset: int = 17) -> onnx.ModelProto:
    used = {i for n in nodes for i in n.input}
    constants = {k: v for k, v in CONSTANTS.items() if k in used}
    return model(nodes, {"x": ("float32", [4, 5, K])}, dict.fromkeys(outputs, "float32"), constants, opset)


def norm_written_out(target: str) -> list[onnx.NodeProto]:
    return [
        node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        node("Sub", ["x", "mean"], ["centred"]),
        node("Pow", ["centred", "two"], ["squared"]),
        node("ReduceMean", ["squared"], ["variance"], axes=[-1]),
        node("Add", ["variance", "eps"], ["safe"]),
        node("Sqrt", ["safe"], ["deviation"]),
        node("Div", ["centred", "deviation"], ["normal"]),
        node("Mul", ["normal", "g"], ["scaled"]),
        node("Add", ["scaled", "b"], [target]),
    ]


PRODUCERS: dict[str, list[onnx.NodeProto]] = {
    "norm": [node("LayerNormalization", ["x", "g", "b"], ["a"])],
    "norm without bias": [node("LayerNormalization", ["x", "g"], ["a"], axis=2)],
    "norm written out": norm_written_out("a"),
    "vector": [node("Mul", ["g", "x"], ["a"])],
    "divisor": [node("Div", ["x", "g"], ["a"])],
    "dividend": [node("Exp", ["x"], ["e"]), node("Div", ["g", "e"], ["a"])],
    "matmul": [node("MatMul", ["x", "up"], ["m"]), node("Add", ["m", "b"], ["s"]), node("Relu", ["s"], ["a"])],
    "gated": [node("MatMul", ["x", "up"], ["m"]), node("Sigmoid", ["x"], ["gate"]), node("Mul", ["gate", "m"], ["a"])],
}
QKV = [node("MatMul", ["a", "w"], ["y"]), node("MatMul", ["a", "w2"], ["z"])]


@pytest.mark.parametrize("producer", PRODUCERS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 0.85, 1.0])
def test_folded_into_what_makes_it(producer: str, strength: float) -> None:
    feed = {"x": X["x"] / 10} if producer == "dividend" else X
    proto = build([*PRODUCERS[producer], *QKV], ("y", "z"))
    step = Smooth(absmax={"a": MAXIMA}, strength=strength)
    document, note = agreement.check(proto, step, feed)
    assert note == "1 activations smoothed (1 by what makes it)"
    assert agreement.ops(document) == agreement.ops(agreement.load(proto))
    largest = np.maximum(*(np.abs(CONSTANTS[w].astype(np.float64)).max(1) for w in ("w", "w2")))
    scale = MAXIMA**strength / largest ** (1 - strength)
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    for name in ("w", "w2"):
        assert np.array_equal(made[name], (CONSTANTS[name] * scale[:, None]).astype(np.float32))


def test_difficulty_moves_into_the_weights() -> None:
    """With strength 0.5 both sides of every channel have the same range: the paper's figure 4."""
    proto = build([*PRODUCERS["norm"], QKV[0]])
    feed = {"x": X["x"]}
    seen = np.abs(agreement.outputs(build(PRODUCERS["norm"], ("a",)), feed)["a"]).max((0, 1))
    document, _ = agreement.check(proto, Smooth(absmax={"a": seen}), feed)
    changed = agreement.complete(document)
    changed.graph.output.append(onnx.helper.make_tensor_value_info("a", 1, None))
    after = np.abs(agreement.outputs(changed, feed)["a"]).max((0, 1))
    weights = np.abs({t.name: document.array(t) for t in document.proto.graph.initializer}["w"]).max(1)
    assert np.allclose(after, weights, rtol=1e-5)


LEFT: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "residual": ([*PRODUCERS["norm"], QKV[0], node("Neg", ["a"], ["z"])], "Neg reads it too"),
    "gelu": ([node("Gelu", ["x"], ["a"]), QKV[0], node("Neg", ["x"], ["z"])], "Gelu lies before it"),
    "input": ([node("MatMul", ["x", "w"], ["y"]), node("Neg", ["x"], ["z"])], "Neg reads it too"),
    "scalar": (
        [node("Sigmoid", ["x"], ["s"]), node("Mul", ["s", "half"], ["a"]), QKV[0], node("Neg", ["x"], ["z"])],
        "Sigmoid lies before it",
    ),
    "product": (
        [node("Sigmoid", ["x"], ["s"]), node("Mul", ["s", "x"], ["a"]), QKV[0], node("Neg", ["x"], ["z"])],
        "a Mul of two activations lies before it",
    ),
    "other axis": (
        [
            node("Flatten", ["x"], ["f"], axis=0),
            node("Reshape", ["f", "shape"], ["a"]),
            QKV[0],
            node("Neg", ["x"], ["z"]),
        ],
        "the shapes around Reshape before it are not known",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_with_a_reason_or_given_a_mul(case: str) -> None:
    nodes, reason = LEFT[case]
    proto = build(nodes, ("y", "z"), 20)
    if case == "other axis":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([4, 5, K]), "shape"))
    name = "x" if case == "input" else "a"
    document, note = agreement.check(proto, Smooth(absmax={name: MAXIMA}), X)
    assert note == f"0 activations smoothed; 1 left: {reason}"
    document, note = agreement.check(proto, Smooth(absmax={name: MAXIMA}, insert=True), X)
    assert note == "1 activations smoothed (1 by a Mul of its own)"
    assert sum(agreement.ops(document).values()) == len(nodes) + 1


def test_an_activation_that_is_an_output_is_left() -> None:
    _, note = agreement.check(build([*PRODUCERS["norm"], QKV[0]], ("y", "a")), Smooth(absmax={"a": MAXIMA}), X)
    assert note == "0 activations smoothed; 1 left: it is an output, or a nested graph reads it"


def test_shared_scales_are_copied_and_shared_weights_stay() -> None:
    """Two norms with one scale; a weight that one op alone reads, and one that two ops read."""
    nodes = [
        node("LayerNormalization", ["x", "g", "b"], ["a"]),
        node("MatMul", ["a", "w2"], ["y"]),
        node("LayerNormalization", ["x", "g", "b"], ["c"]),
        node("MatMul", ["c", "w"], ["m"]),
        node("LayerNormalization", ["x", "g", "b"], ["d"]),
        node("MatMul", ["d", "w"], ["n"]),
        node("Add", ["m", "n"], ["z"]),
    ]
    constants = dict.fromkeys("acd", MAXIMA)
    for insert in (False, True):
        document, note = agreement.check(build(nodes, ("y", "z")), Smooth(absmax=constants, insert=insert), X)
        assert note == (
            "1 activations smoothed (1 by what makes it); 2 left: the weight of a MatMul is read elsewhere too"
        )
        assert len(document.proto.graph.initializer) == 6


def test_convs_and_gemms() -> None:
    proto = model(
        [
            node("BatchNormalization", ["x", "s", "b", "m", "v"], ["a"]),
            node("Conv", ["a", "w"], ["y"]),
            node("Conv", ["a", "dw"], ["d"], group=4),
            node("GlobalAveragePool", ["d"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "k"], ["z"], transB=1),
        ],
        {"x": ("float32", [2, 4, 6, 6])},
        {"y": "float32", "z": "float32"},
        {
            **{n: rng(i).uniform(0.5, 2, 4).astype(np.float32) for i, n in enumerate("sbmv")},
            "w": weight(5, 4, 3, 3),
            "dw": weight(4, 1, 3, 3, seed=3),
            "k": weight(7, 4, seed=4),
        },
    )
    feed = {"x": rng(3).standard_normal((2, 4, 6, 6)).astype(np.float32)}
    maxima = {"a": np.float32([1, 50, 2, 3]), "f": np.float32([0.1, 2, 30, 1])}
    document, note = agreement.check(proto, Smooth(absmax=maxima), feed)
    assert note == "2 activations smoothed (2 by what makes it)"
    assert agreement.ops(document) == agreement.ops(agreement.load(proto))


def test_channels_that_a_flatten_made_of_one_share_their_scale() -> None:
    proto = model(
        [
            node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"]),
            node("Flatten", ["n"], ["a"]),
            node("Gemm", ["a", "w"], ["y"], transB=1),
        ],
        {"x": ("float32", [5, 4, 2, 2])},
        {"y": "float32"},
        {**{n: rng(i).uniform(0.5, 2, 4).astype(np.float32) for i, n in enumerate("sbmv")}, "w": weight(6, 16)},
    )
    feed = {"x": rng(3).standard_normal((5, 4, 2, 2)).astype(np.float32)}
    document, note = agreement.check(proto, Smooth(absmax={"a": np.tile(MAXIMA, 2)}), feed)
    assert note == "1 activations smoothed (1 by what makes it)"
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    scale = (np.tile(MAXIMA, 2) / np.abs(weight(6, 16)).max(0)) ** 0.5
    shared = np.repeat(scale.reshape(4, 4).max(1), 4)
    np.testing.assert_allclose(made["w"], weight(6, 16) * shared, rtol=1e-6)


def test_channels_that_are_zero_keep_their_scale() -> None:
    proto = build([*PRODUCERS["norm"], QKV[0]])
    document, _ = agreement.check(proto, Smooth(absmax={"a": np.where(np.arange(K) == 2, 0, MAXIMA)}), X)
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    assert np.array_equal(made["w"][2], CONSTANTS["w"][2]) and made["g"][2] == CONSTANTS["g"][2]


@pytest.mark.parametrize("maxima", [MAXIMA[:3], MAXIMA * np.nan, MAXIMA * np.inf, -MAXIMA])
def test_maxima_that_do_not_fit(maxima: Any) -> None:
    with pytest.raises(FeedError, match="maxima of 'a': expected 8 finite numbers, one per channel"):
        Smooth({"a": maxima})(agreement.load(build([*PRODUCERS["norm"], QKV[0]])))


def test_a_strength_out_of_range() -> None:
    with pytest.raises(RecipeError, match=r"strength 1\.5: expected a number from 0 to 1"):
        Smooth({}, strength=1.5)(agreement.load(build(PRODUCERS["norm"] + QKV, ("y", "z"))))


def test_nothing_to_smooth() -> None:
    result = Smooth({})(agreement.load(build([*PRODUCERS["norm"], QKV[0]])))
    assert not result.changed and not result.notes
