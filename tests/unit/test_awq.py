"""AWQ: same function, the best of the paper's scales by an objective written out here, and nothing where nothing can be."""

from __future__ import annotations

from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import model, node, rng, weight
from numpy.typing import NDArray

from onnxquant.errors import FeedError, WeightError
from onnxquant.formats import format_named
from onnxquant.formats.base import Format
from onnxquant.passes.equivalent.awq import AwqResult, Quantizer, ScaleForAwq
from onnxquant.solvers.base import Inputs

Array = NDArray[Any]
K = 64
INT3, INT4 = format_named("int3", block_size=32), format_named("int4", block_size=32)
# One channel in eight is large, and in no order.
LARGE = np.where(np.arange(K) % 8 == 3, 30, 1) * rng(1).uniform(0.5, 2, K)
CONSTANTS: dict[str, Array] = {
    "g": LARGE.astype(np.float32),
    "b": weight(K, seed=2),
    "w": weight(K, 48, seed=3),
    "w2": weight(K, 32, seed=4),
    "up": weight(K, K, seed=5),
    "gate": weight(K, K, seed=6),
    "down": weight(K, 24, seed=7),
}
NORM = node("LayerNormalization", ["x", "g", "b"], ["a"])
QK = [node("MatMul", ["a", "w"], ["y"]), node("MatMul", ["a", "w2"], ["z"])]
MLP = [
    node("MatMul", ["a", "up"], ["u"]),
    node("MatMul", ["a", "gate"], ["v"]),
    node("Sigmoid", ["v"], ["s"]),
    node("Mul", ["s", "u"], ["m"]),
    node("MatMul", ["m", "down"], ["y"]),
]


def build(nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    used = {i for n in nodes for i in n.input}
    constants = {k: v for k, v in CONSTANTS.items() if k in used}
    return model(nodes, {"x": ("float32", [6, 20, K])}, dict.fromkeys(outputs, "float32"), constants)


def feed(seed: int) -> dict[str, Array]:
    return {"x": rng(seed).standard_normal((6, 20, K)).astype(np.float32)}


def seen(proto: onnx.ModelProto, name: str, seed: int = 11) -> Array:
    """An activation, as float64 rows."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.output[:]
    shown.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    return agreement.outputs(shown, feed(seed))[name].astype(np.float64).reshape(-1, K)


def rounding(form: Format) -> Quantizer:
    return lambda w: form.decode(form.encode(w))


def step(proto: onnx.ModelProto, form: Format, *names: str, kept: str = "") -> Any:
    """AWQ on these activations, as a pass that also keeps its result."""
    found = {name: seen(proto, name) for name in names}

    def run(document: Any) -> AwqResult:
        run.result = ScaleForAwq(  # type: ignore[attr-defined]
            {name: np.abs(x).mean(0) for name, x in found.items()},
            lambda name: Inputs((found[name].T @ found[name])[None], len(found[name])),
            lambda weight: None if weight == kept else rounding(form),
        )(document)
        return run.result  # type: ignore[attr-defined]

    return run


def objective(w: Array, scale: Array, x: Array, form: Format) -> float:
    """Of a stored weight [inputs, outputs]: squared error of the products with x."""
    scaled = (w.astype(np.float64) * scale[:, None]).astype(np.float32).T
    decoded = form.decode(form.encode(scaled)).astype(np.float64).T / scale[:, None]
    return float(np.square(x @ (w - decoded)).sum())


def paper(x: Array, alpha: float) -> Array:
    scale = np.abs(x).mean(0) ** alpha
    return np.asarray(scale / np.sqrt(scale.max() * scale.min()))


@pytest.mark.parametrize("form", [INT3, INT4], ids=str)
def test_the_best_of_the_papers_scales_is_folded(form: Format) -> None:
    proto = build([NORM, *QK], ("y", "z"))
    run = step(proto, form, "a")
    document, note = agreement.check(proto, run, feed(5))
    assert note == "1 activations scaled (1 by what makes it)"
    x = seen(proto, "a")
    tried = [
        sum(objective(CONSTANTS[w], paper(x, alpha), x, form) for w in ("w", "w2")) for alpha in np.arange(20) / 20
    ]
    choice = run.result.choices["a"]
    assert choice.alpha == np.argmin(tried) / 20 > 0
    assert choice.before == pytest.approx(tried[0], rel=1e-5) and choice.after == pytest.approx(min(tried), rel=1e-5)
    # A planted outlier is what it is for.
    assert choice.after < 0.6 * choice.before
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    scale = paper(x, choice.alpha)
    np.testing.assert_allclose(made["w2"], CONSTANTS["w2"] * scale[:, None], rtol=1e-6)
    np.testing.assert_allclose(made["g"], CONSTANTS["g"] / scale, rtol=1e-6)


@pytest.mark.parametrize("form", [INT3, INT4], ids=str)
def test_outputs_of_unseen_inputs_come_nearer(form: Format) -> None:
    proto = build([NORM, *MLP])
    run = step(proto, form, "a", "m")
    document, note = agreement.check(proto, run, feed(5))
    assert note == "2 activations scaled (2 by what makes it)"

    def error(changed: onnx.ModelProto) -> float:
        for tensor in changed.graph.initializer:
            if tensor.name in ("up", "gate", "down"):
                w = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor).T)
                tensor.CopyFrom(onnx.numpy_helper.from_array(rounding(form)(w).T.copy(), tensor.name))
        expected, got = (agreement.outputs(p, feed(77))["y"].astype(np.float64) for p in (proto, changed))
        return float(np.linalg.norm(expected - got))

    assert error(agreement.complete(document)) < 0.7 * error(agreement.complete(agreement.load(proto)))


def test_weights_that_stay_in_float_have_no_say() -> None:
    proto = build([NORM, *QK], ("y", "z"))
    x = seen(proto, "a")
    run = step(proto, INT3, "a", kept="w2")
    document, _ = agreement.check(proto, run, feed(5))
    choice = run.result.choices["a"]
    assert choice.before == pytest.approx(objective(CONSTANTS["w"], np.ones(K), x, INT3), rel=1e-5)
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    assert not np.array_equal(made["w2"], CONSTANTS["w2"])  # it reads what was divided all the same


def scaled(nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("y",), **changes: Any) -> AwqResult:
    def never(name: str) -> Inputs:
        raise AssertionError(f"asked for the inputs {name}, which cannot be scaled")

    given: dict[str, Any] = {"magnitudes": {"a": LARGE}, "inputs": never, "quantizer": lambda weight: rounding(INT3)}
    document = agreement.load(build(nodes, outputs))
    before = document.proto.SerializeToString()
    result = ScaleForAwq(**(given | changes))(document)
    assert document.proto.SerializeToString() == before
    assert not result.choices and not result.moved
    return result


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        ([NORM, *QK, node("Neg", ["a"], ["n"])], ("y", "z", "n"), "Neg reads it too"),
        ([NORM, QK[0]], ("y", "a"), "it is an output, or a nested graph reads it"),
        ([node("Gelu", ["x"], ["a"], domain="com.microsoft"), QK[0]], ("y",), "Gelu lies before it"),
        (
            [NORM, QK[0], node("MatMul", ["x", "w"], ["n"])],
            ("y", "n"),
            "the weight of a MatMul is read elsewhere too",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_scales_that_cannot_be_folded_are_left_with_the_reason(
    nodes: list[onnx.NodeProto], outputs: tuple[str, ...], reason: str
) -> None:
    assert scaled(nodes, outputs).refused == {"a": reason}


def test_activations_that_need_no_scales_are_left_with_the_reason() -> None:
    assert scaled([NORM, QK[0]], quantizer=lambda w: None).refused == {"a": "no weight that reads it is encoded"}
    assert scaled([NORM, QK[0]], magnitudes={"a": LARGE * 0}).refused == {"a": "it was always zero"}
    exact = scaled(
        [NORM, QK[0]], inputs=lambda name: Inputs(np.eye(K)[None]), quantizer=lambda w: lambda matrix: matrix
    )
    assert exact.refused == {"a": "no scales lose less"}
    nothing_known = scaled([NORM, QK[0]], inputs=lambda name: Inputs(np.full((1, K, K), np.nan)))
    assert nothing_known.refused == {"a": "no scales lose less"}


def test_windows_are_left() -> None:
    proto = model(
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["a"]), node("Conv", ["a", "w"], ["y"])],
        {"x": ("float32", [2, 4, 6, 6])},
        {"y": "float32"},
        {**{n: rng(i).uniform(0.5, 2, 4).astype(np.float32) for i, n in enumerate("sbmv")}, "w": weight(5, 4, 3, 3)},
    )
    result = ScaleForAwq({"a": np.ones(4)}, lambda n: Inputs(np.eye(4)[None]), lambda w: rounding(INT4))(
        agreement.load(proto)
    )
    assert result.refused == {"a": "a Conv with groups or windows reads it"}


def test_channels_that_a_flatten_made_of_one_share_their_scale() -> None:
    proto = model(
        [
            node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("Flatten", ["r"], ["a"]),
            node("Gemm", ["a", "w"], ["y"], transB=1),
        ],
        {"x": ("float32", [30, 8, 2, 2])},
        {"y": "float32"},
        {**{n: rng(i).uniform(0.5, 2, 8).astype(np.float32) for i, n in enumerate("sbmv")}, "w": weight(20, 32)},
    )
    x = {"x": rng(3).standard_normal((30, 8, 2, 2)).astype(np.float32)}
    magnitude = np.repeat(np.geomspace(1, 40, 8), 4) * rng(4).uniform(0.9, 1.1, 32)
    results = []

    def run(document: Any) -> AwqResult:
        gram = Inputs(np.diag(magnitude**2)[None])
        results.append(ScaleForAwq({"a": magnitude}, lambda name: gram, lambda w: rounding(INT3))(document))
        return results[-1]

    document, note = agreement.check(proto, run, x)
    assert note == "1 activations scaled (1 by what makes it)"
    factor = {t.name: document.array(t) for t in document.proto.graph.initializer}["w"] / weight(20, 32)
    shared = np.abs(magnitude).reshape(8, 4).mean(1) ** results[0].choices["a"].alpha
    np.testing.assert_allclose(factor[0], np.repeat(shared / np.sqrt(shared.max() * shared.min()), 4), rtol=1e-5)


@pytest.mark.parametrize("magnitudes", [LARGE[:3], LARGE * np.nan, -LARGE])
def test_magnitudes_that_do_not_fit(magnitudes: Array) -> None:
    with pytest.raises(FeedError, match="magnitudes of 'a': expected 64 finite numbers, one per channel"):
        scaled([NORM, QK[0]], magnitudes={"a": magnitudes})


def test_a_gram_matrix_that_does_not_fit() -> None:
    with pytest.raises(
        WeightError, match=r"Gram matrix of shape \[1, 3, 3\]: does not fit a weight of shape \[48, 64\]"
    ):
        scaled([NORM, QK[0]], inputs=lambda name: Inputs(np.eye(3)[None]))
