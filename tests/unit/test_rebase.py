"""Change of basis of linear streams: same function, less noise from one step for all channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import captures, model, node, rng, weight
from numpy.typing import NDArray

from onnxquant.errors import FeedError
from onnxquant.graph.analysis.linear import linear
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document, load
from onnxquant.observers.gram import ChannelMoments
from onnxquant.passes.equivalent import rebase as rebase_
from onnxquant.passes.equivalent.rebase import Rebase, best_basis, equalizing, stream_tensors

N = 6
SAMPLES = [{"x": rng(s).standard_normal((1, 4, 9, 9)).astype(np.float32)} for s in range(6)]
# Channels of the stream differ by orders of magnitude, and are correlated.
SPREAD = (np.geomspace(0.02, 5, N)[:, None] * rng(1).standard_normal((N, N))).astype(np.float32)
CONSTANTS: dict[str, Any] = {
    "first": np.tensordot(SPREAD, 5 * weight(N, 4, 3, 3), 1),
    "first_b": (10 * weight(N, seed=3)).astype(np.float32),
    "up": 8 * weight(8, N, 1, 1, seed=4),
    "up_b": weight(8, seed=5),
    "down": np.tensordot(SPREAD, 5 * weight(N, 8, 3, 3, seed=6), 1),
    "flat": np.tensordot(SPREAD, 5 * weight(N, 8, 1, 1, seed=7), 1),
    "own": 4 * weight(N, N, 1, 1, seed=8),
    "own_b": weight(N, seed=9),
    "last": 8 * weight(5, N, 1, 1, seed=10),
    "last_b": weight(5, seed=11),
    "three": weight(5, N, 3, 3, seed=12),
    "deep": weight(N, 1, 1, 1, seed=13),
    "shift": weight(1, N, 1, 1, seed=14),
    "one": weight(1, 4, 3, 3, seed=15),
    "grouped": weight(N, 2, 3, 3, seed=16),
    "turned": (20 * weight(4, N, 2, 2, seed=17) * np.geomspace(0.02, 5, N)[:, None, None]).astype(np.float32),
    "up2": 8 * weight(8, N, 1, 1, seed=20),
    **{f"last{i}": 8 * weight(5, N, 1, 1, seed=20 + i) for i in range(1, 5)},
    "first1": np.tensordot(SPREAD, 5 * weight(N, 4, 3, 3, seed=26), 1),
    "which": np.array(True),
}


def net(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",), **extra: Any) -> onnx.ModelProto:
    """A model of what it reads of the constants."""
    used = {i for n in nodes for i in n.input}
    constants = {k: v for k, v in (CONSTANTS | extra).items() if k in used}
    return model(nodes, {"x": ("float32", [1, 4, 9, 9])}, dict.fromkeys(outputs, "float32"), constants)


def tensors(proto: onnx.ModelProto, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Rows of channels of tensors, over all samples."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    seen = [agreement.outputs(shown, feed) for feed in SAMPLES]
    rows = {n: [np.moveaxis(s[n].astype(np.float64), 1, -1).reshape(-1, s[n].shape[1]) for s in seen] for n in names}
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def moments(proto: onnx.ModelProto) -> dict[str, ChannelMoments]:
    names = stream_tensors(GraphEditor(load(proto).proto.graph))
    return {n: ChannelMoments(v.mean(0), np.cov(v.T, bias=True)) for n, v in tensors(proto, names).items()}


FIRST = node("Conv", ["x", "first", "first_b"], ["a"], pads=[1, 1, 1, 1])
LAST = node("Conv", ["a", "last"], ["y"])
INVERTED = [node("Conv", ["a", "up", "up_b"], ["m"]), node("Relu", ["m"], ["r"])]
STREAMS: dict[str, tuple[list[onnx.NodeProto], tuple[str, ...], set[str]]] = {
    "one reader, no bias": ([FIRST, LAST], ("y",), {"a"}),
    "strides": ([FIRST, node("Conv", ["a", "last", "last_b"], ["y"], strides=[2, 2], auto_pad="VALID")], ("y",), {"a"}),
    "turned": ([node("ConvTranspose", ["x", "turned"], ["a"], strides=[2, 2]), LAST], ("y",), {"a"}),
    "residual": (
        [
            FIRST,
            *INVERTED,
            node("Conv", ["r", "down"], ["b"], pads=[1, 1, 1, 1]),
            node("Add", ["a", "b"], ["s"]),
            node("Conv", ["s", "up2"], ["m2"]),
            node("Relu", ["m2"], ["r2"]),
            node("Conv", ["r2", "flat"], ["c"]),
            node("Add", ["c", "s"], ["t"]),
            node("Conv", ["t", "last"], ["y"]),
            node("Conv", ["t", "last1", "last_b"], ["z"]),
            node("Conv", ["s", "last2", "last_b"], ["o"]),
        ],
        ("y", "z", "o"),
        set("abcst"),
    ),
    "both maker and reader, a sum with itself": (
        [
            FIRST,
            node("Conv", ["a", "own", "own_b"], ["b"]),
            node("Add", ["a", "b"], ["s"]),
            node("Add", ["s", "s"], ["t"]),
            node("Conv", ["t", "last"], ["y"]),
        ],
        ("y",),
        set("abst"),
    ),
    "one after the other": (
        [FIRST, node("Conv", ["a", "own", "own_b"], ["b"]), node("Conv", ["b", "last", "last_b"], ["y"])],
        ("y",),
        set("ab"),
    ),
    "biases of others": (
        [
            FIRST,
            node("Conv", ["x", "first1", "first_b"], ["f"], pads=[1, 1, 1, 1]),
            LAST,
            node("Relu", ["f"], ["g"]),
            node("Conv", ["g", "last1"], ["z"]),
        ],
        ("y", "z"),
        {"a"},
    ),
    "a sum that spreads one place over all": (
        [
            FIRST,
            node("GlobalAveragePool", ["x"], ["p"]),
            node("Conv", ["p", "point"], ["b"]),
            node("Add", ["b", "a"], ["s"]),
            node("Conv", ["s", "last"], ["y"]),
        ],
        ("y",),
        set("abs"),
    ),
}


def stream(name: str) -> tuple[onnx.ModelProto, set[str]]:
    nodes, outputs, names = STREAMS[name]
    return net(nodes, outputs, point=10 * weight(N, 4, 1, 1, seed=18)), names


@pytest.mark.parametrize("name", STREAMS)
def test_outputs_stay(name: str) -> None:
    proto, names = stream(name)
    given = moments(proto)
    assert given.keys() == names
    # Float32 through a change of basis: a handful of units in the last place of the largest value.
    document, note = agreement.check(proto, Rebase(moments=given), *SAMPLES[:3], within=3e-6)
    many = 2 if name == "one after the other" else 1
    assert note == f"{many} linear streams in another basis ({len(names)} tensors)"
    assert agreement.ops(document) == agreement.ops(load(proto))
    after = tensors(agreement.complete(document), sorted(names))
    before = tensors(proto, sorted(names))
    for tensor in names:
        assert not np.allclose(after[tensor], before[tensor], rtol=0.1)
        size = np.abs(after[tensor]).max()
        assert size < 1e3 * np.abs(before[tensor]).max()
        assert np.abs(after[tensor].mean(0)).max() < 1e-4 * size  # shifted by the mean


def test_variances_are_equal() -> None:
    proto, _ = stream("one reader, no bias")
    document, _ = agreement.check(proto, Rebase(moments=moments(proto)))
    variances = [tensors(p, ["a"])["a"].var(0) for p in (proto, agreement.complete(document))]
    assert variances[0].max() > 100 * variances[0].min()
    # Up to directions that the floor keeps from being stretched as far as they would be.
    np.testing.assert_allclose(variances[1], variances[1].mean(), rtol=1e-2)
    np.testing.assert_allclose(variances[1].sum(), variances[0].sum(), rtol=1e-2)


@pytest.mark.parametrize("name", ["one reader, no bias", "residual", "turned"])
def test_codes_of_one_step_cost_readers_less(name: str) -> None:
    """Every tensor rounded to 255 steps between its extremes: what its readers make of it, without and with the pass."""
    proto, _ = stream(name)
    document, _ = agreement.check(proto, Rebase(moments=moments(proto)))

    def ratio(proto: onnx.ModelProto) -> float:
        editor, worst = GraphEditor(proto.graph), np.inf
        for n in editor.nodes:
            if n.op_type == "Conv" and n.input[0] in "abcst":
                tensor = editor.constant(n.input[1])
                assert tensor
                w = onnx.numpy_helper.to_array(tensor).astype(np.float64)[:, :, 0, 0]
                x = tensors(proto, [n.input[0]])[n.input[0]]
                step = np.ptp(x) / 255
                signal, error = (x - x.mean(0)) @ w.T, (np.round(x / step) * step - x) @ w.T
                worst = min(worst, (signal**2).sum() / (error**2).sum())
        return 10 * float(np.log10(worst))

    assert ratio(agreement.complete(document)) > ratio(proto) + 3


def test_rounding_stays_within_its_bound() -> None:
    """The bound in the module's text, from the weights that the pass made, for a stream that is hard to change."""
    first = np.tensordot(np.diag(np.geomspace(1e-3, 30, N)) @ SPREAD, weight(N, 4, 3, 3), 1).astype(np.float32)
    proto = net([FIRST, node("Conv", ["a", "last", "last_b"], ["y"])], first=first)
    document, note = agreement.check(proto, Rebase(moments=moments(proto)))
    assert note
    editor = GraphEditor(document.proto.graph)
    ops = [op for n in editor.nodes if (op := linear(editor, n))]
    w1, w2 = (np.abs(op.blocks(document)[0].reshape(op.outputs, -1)) for op in ops)
    b1, b2 = (np.abs(b) for op in ops if (b := op.bias(document, editor)) is not None)
    u, depth = 2.0**-24, w1.shape[1]
    rounded, want = tensors(agreement.complete(document), ["a", "y"]), doubled(proto)
    e = (depth + 3) * u * (patches() @ w1.T + b1)
    bound = e @ w2.T + (N + 3) * u * (np.abs(rounded["a"]) @ w2.T + b2)
    error = np.abs(rounded["y"] - want)
    assert (error <= bound).all()
    assert error.max() > 0
    assert bound.max() < 1e-3 * np.abs(want).max()


def patches() -> NDArray[np.float64]:
    """Magnitudes of what a 3x3 convolution with padding sees, a row for each place."""
    found = []
    for feed in SAMPLES:
        x = np.pad(np.abs(feed["x"][0]).astype(np.float64), ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
        found.append(windows.transpose(1, 2, 0, 3, 4).reshape(81, -1))
    return np.concatenate(found)


def doubled(proto: onnx.ModelProto) -> NDArray[np.float64]:
    """The output of a network of two convolutions in float64, a row for each place."""
    w1, b1, w2, b2 = (
        next(onnx.numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer if t.name == name)
        for name in ("first", "first_b", "last", "last_b")
    )
    rows = []
    for feed in SAMPLES:
        x = np.pad(feed["x"][0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
        a = np.einsum("chwij,ocij->hwo", windows, w1) + b1
        rows.append((a @ w2[:, :, 0, 0].T + b2).reshape(81, -1))
    return np.concatenate(rows)


REFUSED: dict[str, list[onnx.NodeProto]] = {
    "padded reader": [FIRST, node("Conv", ["a", "last"], ["y"], pads=[1, 1, 1, 1])],
    "one of two readers padded": [FIRST, LAST, node("Conv", ["a", "last"], ["z"], pads=[1, 1, 1, 1])],
    "3x3 reader": [FIRST, node("Conv", ["a", "three"], ["y"])],
    "padded 3x3 reader": [FIRST, node("Conv", ["a", "three"], ["y"], pads=[1, 1, 1, 1])],
    "depthwise reader": [FIRST, node("Conv", ["a", "deep"], ["y"], group=N)],
    "transposed reader": [FIRST, node("ConvTranspose", ["a", "own"], ["y"], strides=[2, 2])],
    "grouped maker": [node("Conv", ["x", "grouped"], ["a"], group=2), LAST],
    "Relu between": [FIRST, node("Relu", ["a"], ["r"]), node("Conv", ["r", "last"], ["y"])],
    "read by something else": [FIRST, LAST, node("Neg", ["a"], ["n"])],
    "a sum that is read by something else": [
        FIRST,
        node("Conv", ["x", "first"], ["b"], pads=[1, 1, 1, 1]),
        node("Add", ["a", "b"], ["s"]),
        node("Relu", ["s"], ["n"]),
        LAST,
    ],
    "a sum with something else": [
        FIRST,
        node("Relu", ["a2"], ["q"]),
        node("Add", ["a", "q"], ["s"]),
        node("Conv", ["s", "last"], ["y"]),
    ],
    "a sum with a constant": [FIRST, node("Add", ["a", "shift"], ["s"]), node("Conv", ["s", "last"], ["y"])],
    "a sum with one channel": [
        FIRST,
        node("Conv", ["x", "one"], ["b"], pads=[1, 1, 1, 1]),
        node("Add", ["a", "b"], ["s"]),
        node("Conv", ["s", "last"], ["y"]),
    ],
    "no reader": [FIRST, node("Conv", ["x", "first"], ["y"])],
    "graph output": [FIRST, LAST],
    "captured": [FIRST, LAST],
    "weight is an input": [FIRST, LAST],
}


@pytest.mark.parametrize("case", REFUSED)
def test_streams_that_are_not_linear_stay_in_their_basis(case: str) -> None:
    nodes = list(REFUSED[case])
    if case == "a sum with something else":
        nodes.insert(0, node("Conv", ["x", "first"], ["a2"], pads=[1, 1, 1, 1]))
    read = {i for n in nodes for i in n.input}
    proto = net(nodes, [n.output[0] for n in nodes if n.output[0] not in read])
    if case == "graph output":
        proto.graph.output.append(onnx.helper.make_tensor_value_info("a", 1, None))
    elif case == "captured":
        inner = captures("a", "Relu", "Neg")
        proto.graph.node.append(node("If", ["which"], ["n"], then_branch=inner[0], else_branch=inner[1]))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "which"))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("n", 1, None))
    elif case == "weight is an input":
        proto.graph.input.append(onnx.helper.make_tensor_value_info("last", 1, [5, N, 1, 1]))
    given = ChannelMoments(np.ones(N), np.eye(N))
    document = load(proto)
    before = document.proto.SerializeToString()
    assert stream_tensors(GraphEditor(document.proto.graph)) == []
    result = Rebase(dict.fromkeys(("a", "a2", "b", "s", "r", "y", "q"), given))(document)
    assert not result.changed and not result.notes
    assert document.proto.SerializeToString() == before


def computed_bias() -> onnx.ModelProto:
    return net([node("Abs", ["first_b"], ["bias"]), node("Conv", ["x", "first", "bias"], ["a"], pads=[1] * 4), LAST])


def halves() -> onnx.ModelProto:
    constants = {"w": weight(N, 4, 3, 3, dtype="float16"), "v": weight(5, N, 1, 1, dtype="float16")}
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Conv", ["a", "v"], ["y"])]
    return model(nodes, {"x": ("float16", [1, 4, 9, 9])}, {"y": "float16"}, constants)


@pytest.mark.parametrize(
    ("build", "given", "reason"),
    [
        (computed_bias, ChannelMoments(np.ones(N), np.eye(N)), "a bias is computed"),
        (halves, ChannelMoments(np.full(N, 1e7), np.eye(N)), "a weight or a bias would not fit its type"),
        (lambda: net([FIRST, LAST]), None, "no statistics of a tensor"),
        (lambda: net([FIRST, LAST]), ChannelMoments(np.ones(N), np.zeros((N, N))), "what it is read for is constant"),
        (
            lambda: net([FIRST, LAST], last=np.zeros((5, N, 1, 1), np.float32)),
            ChannelMoments(np.ones(N), np.eye(N)),
            "what it is read for is constant",
        ),
    ],
)
def test_a_refused_stream_is_reported_with_its_reason(build: Any, given: ChannelMoments | None, reason: str) -> None:
    document = load(build())
    before = document.proto.SerializeToString()
    result = Rebase({} if given is None else {"a": given})(document)
    assert result.notes == (f"0 linear streams in another basis (0 tensors); 1 left: {reason}",)
    assert result.refusals == {reason: 1} and not result.changed
    assert document.proto.SerializeToString() == before


def test_very_many_channels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = net([FIRST, LAST])
    given = moments(proto)
    monkeypatch.setattr(rebase_, "MOST_CHANNELS", N - 1)
    document = load(proto)
    assert stream_tensors(GraphEditor(document.proto.graph)) == []
    result = Rebase(given)(document)
    assert result.notes == ("0 linear streams in another basis (0 tensors); 1 left: more than 5 channels",)


def test_moments_that_do_not_fit_are_refused() -> None:
    proto = net([FIRST, LAST])
    for mean, covariance, words in (
        (
            np.ones(N + 1),
            np.eye(N),
            rf"moments of 'a': expected those of {N} channels, found shapes \[7\] and \[6, 6\]",
        ),
        (np.ones(N), np.eye(N + 1), r"found shapes \[6\] and \[7, 7\]"),
        (np.full(N, np.nan), np.eye(N), "moments of 'a': expected finite numbers"),
        (np.ones(N), np.full((N, N), np.inf), "finite"),
    ):
        with pytest.raises(FeedError, match=words):
            Rebase({"a": ChannelMoments(mean, covariance)})(load(proto))


def test_streams_of_nested_graphs() -> None:
    nodes = [FIRST, LAST]
    plain = net(nodes)
    given = moments(plain)
    inner = [
        onnx.helper.make_graph(
            [
                node("Conv", ["x", ("first", "first1")[i], "first_b"], [f"a{i}"], pads=[1] * 4),
                node("Conv", [f"a{i}", f"last{i + 1}"], [f"y{i}"]),
            ],
            f"branch{i}",
            [],
            [onnx.helper.make_tensor_value_info(f"y{i}", 1, None)],
        )
        for i in range(2)
    ]
    proto = net([node("If", ["which"], ["y"], then_branch=inner[0], else_branch=inner[1])])
    read = {name for graph in inner for n in graph.node for name in n.input} & CONSTANTS.keys()
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(CONSTANTS[name], name) for name in sorted(read))
    wanted = {f"a{i}": given["a"] for i in range(2)}
    _, note = agreement.check(proto, Rebase(moments=wanted), *SAMPLES[:2], within=3e-6)
    assert note == "2 linear streams in another basis (2 tensors)"


def test_a_stream_whose_weights_others_read_stays() -> None:
    proto = net([FIRST, LAST, node("Relu", ["a1"], ["r"]), node("Conv", ["r", "last"], ["z"])], ("y", "z"))
    proto.graph.node.insert(1, node("Conv", ["x", "first1"], ["a1"]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(CONSTANTS["first1"], "first1"))
    document, note = agreement.check(proto, Rebase(moments={}), *SAMPLES[:1], within=0)
    assert note == "0 linear streams in another basis (0 tensors); 1 left: a weight is read elsewhere too"
    assert len(document.proto.graph.initializer) == 4


def hard(n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A covariance and a sensitivity of channels."""
    made, read = rng(seed).standard_normal((2, 3 * n, n)) * np.geomspace(1, 20, n)
    return made.T @ made / np.trace(made.T @ made), read.T @ read


def noise(basis: NDArray[np.float64], covariance: NDArray[np.float64], sensitivity: NDArray[np.float64]) -> float:
    """The noise that rounding in a basis of equal variances gives readers, up to a factor that no basis changes."""
    back = np.linalg.inv(basis)
    return float(np.trace(basis @ covariance @ basis.T) * np.trace(sensitivity @ back @ back.T))


@pytest.mark.parametrize("n", [2, 3, 16, 45])
def test_no_basis_has_less_noise(n: int) -> None:
    c, s = hard(n, n)
    found = noise(best_basis(c, s), c, s)
    others = [np.eye(n), np.diag(1 / np.sqrt(np.diag(c))), np.linalg.inv(np.linalg.cholesky(c))]
    others += [rng(i).standard_normal((n, n)) for i in range(50)]
    others += [best_basis(c, s) @ (np.eye(n) + 0.05 * rng(i).standard_normal((n, n))) for i in range(50)]
    assert all(found <= noise(other, c, s) * (1 + 1e-9) for other in others)
    # Singular values of the product of roots: (tr M^1/2)^2 without a root of M.
    roots = np.linalg.cholesky(s).T @ np.linalg.cholesky(c)
    assert found == pytest.approx(np.linalg.svd(roots)[1].sum() ** 2, rel=1e-6)
    assert found < noise(np.eye(n), c, s)


def test_a_basis_is_well_conditioned_for_directions_without_variance_or_reader() -> None:
    c, s = hard(8, 0)
    dead = np.diag([1.0] * 6 + [0.0] * 2)
    for covariance, sensitivity in ((dead @ c @ dead, s), (c, dead @ s @ dead), (dead @ c @ dead, dead @ s @ dead)):
        basis = best_basis(covariance, sensitivity)
        assert np.linalg.cond(basis) < 3.2e4
        assert noise(basis, covariance, sensitivity) <= noise(np.eye(8), covariance, sensitivity)


@pytest.mark.parametrize("n", [2, 3, 24, 97])
@pytest.mark.parametrize("kind", ["flat", "geometric", "one"])
def test_all_variances_become_the_mean(n: int, kind: str) -> None:
    spectrum = {"flat": np.ones(n), "geometric": np.geomspace(1e-3, 1, n), "one": np.eye(n)[0]}[kind]
    rotation = equalizing(spectrum)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(n), atol=1e-12)
    np.testing.assert_allclose(np.diag((rotation * spectrum) @ rotation.T), spectrum.mean(), rtol=1e-9)


def test_the_same_model_gives_the_same_bytes() -> None:
    proto, _ = stream("residual")
    given = moments(proto)
    documents: list[Document] = [load(proto) for _ in range(2)]
    assert all(Rebase(given)(document).changed for document in documents)
    assert documents[0].proto.SerializeToString() == documents[1].proto.SerializeToString()
