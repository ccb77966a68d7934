"""The library's observers are, to the bit, those in numpy: any values, any pieces, any threads, in sessions too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from onnxquant.calibration import compiled as compiled_
from onnxquant.calibration.collect import CollectSettings, collect
from onnxquant.calibration.compiled import CompiledObserver
from onnxquant.calibration.feeds import SampleOrigin
from onnxquant.errors import ModelError, NativeLibraryError
from onnxquant.native import library as native
from onnxquant.observers.base import Accumulator
from onnxquant.observers.histogram import Histogram
from onnxquant.observers.moments import Moments
from onnxquant.runtime.blocked import read_blocked

pytestmark = pytest.mark.skipif(not compiled_.available(), reason="the library was built without observers")
METHODS = ("minmax", "mse", "moving-average")


def same(a: Accumulator, b: Accumulator) -> bool:
    one, other = a.state(), b.state()
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def check(parts: list[NDArray[np.float32]], pieces: int = 1) -> None:
    library, moments, histogram = CompiledObserver(histogram=True), Moments(), Histogram()
    for part in parts:
        library.update(part, pieces)
        moments.update(part)
        histogram.update(part)
    got = library.take()
    assert same(got[0], moments)
    assert same(got[1], histogram)
    assert library.take()[0].count == 0  # taken is taken


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("isa", native.isas())
@settings(max_examples=60, deadline=None)
@given(parts=st.lists(hnp.arrays(np.float32, st.integers(0, 70), elements=floats), max_size=5))
def test_the_library_observes_any_values_as_numpy_does(isa: str, parts: list[NDArray[np.float32]]) -> None:
    native.set_isa(isa)
    try:
        check(parts)
    finally:
        native.set_isa(None)


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("pieces", [1, 2, 5, 1000])
@pytest.mark.parametrize("size", [1, 8191, 8192, 8193, 100_003])
def test_the_number_of_pieces_changes_no_statistic(isa: str, pieces: int, size: int) -> None:
    rng = np.random.default_rng(size)
    # The largest values come late, so that histograms grow within a tensor and between tensors.
    wild = rng.normal(size=size) * np.exp(np.linspace(-5, 9, size))
    native.set_isa(isa)
    try:
        check([np.maximum(wild, -3).astype(np.float32), (wild * 7).astype(np.float32), np.zeros(9, np.float32)], pieces)
    finally:
        native.set_isa(None)


def test_extreme_float32_values_are_observed_as_in_numpy() -> None:
    tiny = np.array([-1e-45, 1e-45, -1e-30, 1e-30, -0.0, 0.0, 1.1754944e-38], np.float32)
    check([tiny, np.array([3.4028235e38, -3.4028235e38], np.float32), -tiny])
    check([np.full(20_000, 3.4028235e38, np.float32), np.full(20_000, -1e-45, np.float32)], 3)


def test_wrong_handles_of_observers_are_refused() -> None:
    library = CompiledObserver(histogram=False)
    with pytest.raises(NativeLibraryError, match="there is no observer 987654321"):
        native.call("observer_free", compiled_._INT(987654321))
    moments, histogram = library.take()
    assert (moments.count, histogram.count) == (0, 0)
    handle, library.handle = library.handle, 987654321
    with pytest.raises(NativeLibraryError, match="there is no observer"):
        library.update(np.zeros(3, np.float32))
    library.handle = handle


class Made:
    """Samples with tensors large enough for several pieces."""

    origin = SampleOrigin(source="made")

    def __init__(self, bad: float | None = None) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        for i in range(4):
            x = np.random.default_rng(i).normal(size=(0 if i == 2 else 300, 96)).astype(np.float32) * (i + 1)
            if self.bad is not None and i == 1:
                x[250, 90] = self.bad
            yield {"x": x}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    node = graphs.node
    proto = graphs.model(
        [
            node("Identity", ["x"], ["i"]),
            node("MatMul", ["i", "w"], ["m"]),
            node("Relu", ["m"], ["y"]),
            node("Cast", ["y"], ["h"], to=onnx.TensorProto.FLOAT16),
        ],
        {"x": ("float32", ["batch", 96])},
        {"y": "float32"},
        {"w": graphs.weight(96, 160)},
    )
    return graphs.save(proto, tmp_path / "model.onnx")


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_observers_in_a_session_equal_those_in_numpy(model: Path, threads: int) -> None:
    wanted = dict.fromkeys(("x", "i", "m", "y", "h"), METHODS)
    fast = collect(model, Made(), wanted, threads=threads)
    slow = collect(model, Made(), wanted, threads=threads, settings=CollectSettings(compiled=False))
    assert list(fast.observers) == list(slow.observers) == list(wanted)
    for tensor in wanted:
        there = slow.accumulators(tensor)
        assert sorted(there) == ["histogram", "moments", "moving-average"]
        for key, one in fast.accumulators(tensor).items():
            assert same(one, there[key]), (tensor, key)


def test_library_and_numpy_observers_share_a_session(model: Path) -> None:
    wanted = {"m": (*METHODS, "absmean", "gram")}
    fast, slow = (collect(model, Made(), wanted, settings=CollectSettings(compiled=c)) for c in (True, False))
    for key, one in fast.accumulators("m").items():
        assert same(one, slow.accumulators("m")[key])


@pytest.mark.parametrize(("bad", "words"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_tensors_that_are_not_finite_are_skipped(model: Path, bad: float, words: str) -> None:
    for compiled in (True, False):
        statistics = collect(
            model, Made(bad), dict.fromkeys(("x", "i"), METHODS), settings=CollectSettings(compiled=compiled)
        )
        assert statistics.skipped == dict.fromkeys(("x", "i"), f"holds {words} in sample 1")


@pytest.mark.parametrize("methods", [METHODS, ("minmax", "gram")])
def test_interrupted_runs_resume_to_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: tuple[str, ...]
) -> None:
    monkeypatch.setattr("onnxquant.calibration.collect._CHECKPOINT_SECONDS", 0.0)
    wanted, checkpoint = dict.fromkeys(("x", "m", "y"), methods), tmp_path / "partial"

    class Failing(Made):
        def __iter__(self) -> Any:
            for i, feed in enumerate(super().__iter__()):
                if i == 3:
                    raise KeyboardInterrupt
                yield feed

    with pytest.raises(KeyboardInterrupt):
        collect(model, Failing(), wanted, settings=CollectSettings(checkpoint=checkpoint))
    resumed, whole = (
        collect(model, Made(), wanted, settings=CollectSettings(checkpoint=checkpoint)),
        collect(model, Made(), wanted),
    )
    for tensor in wanted:
        for key, one in resumed.accumulators(tensor).items():
            assert same(one, whole.accumulators(tensor)[key])


def test_an_observe_node_with_an_unknown_handle_is_refused(model: Path) -> None:
    from onnxquant import runtime

    proto = onnx.load(model)
    library = CompiledObserver(histogram=False)
    proto.graph.node.append(library.node("m", "seen"))
    proto.graph.output.add(name="seen")
    proto.opset_import.add(domain="onnxquant", version=1)
    runtime.open_session(proto.SerializeToString(), runtime.session_options())
    proto.graph.node[-1].attribute[0].i = 987654321
    with pytest.raises(ModelError, match="there is no observer 987654321"):
        runtime.open_session(proto.SerializeToString(), runtime.session_options())


def convolutions(channels: int) -> onnx.ModelProto:
    node = graphs.node
    return graphs.model(
        [
            node("Conv", ["x", "v"], ["a"], name="first"),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "w"], ["c"], name="second"),
            node("Sigmoid", ["c"], ["d"]),
            node("Conv", ["d", "u"], ["y"], name="third"),
        ],
        {"x": ("float32", ["batch", 8, 9, 9])},
        {"y": "float32"},
        {
            "v": graphs.weight(channels, 8, 1, 1),
            "w": graphs.weight(channels, channels, 3, 3),
            "u": graphs.weight(channels, channels, 1, 1),
        },
    )


@pytest.mark.parametrize("channels", [32, 20])  # 20: not whole blocks, whose padding must not be seen
def test_blocked_tensors_hold_the_same_values(tmp_path: Path, channels: int) -> None:
    path = graphs.save(convolutions(channels), tmp_path / "conv.onnx")

    class Images(Made):
        def __iter__(self) -> Any:
            yield from ({"x": graphs.rng(i).normal(size=(3, 8, 9, 9)).astype(np.float32)} for i in range(4))

    wanted = dict.fromkeys(("x", "b", "c", "d", "y"), METHODS)
    fast, slow = (collect(path, Images(), wanted, settings=CollectSettings(compiled=c)) for c in (True, False))
    for tensor in wanted:
        one, other = fast.accumulators(tensor), slow.accumulators(tensor)
        assert one["moments"].count == other["moments"].count
        assert one["moments"].mean == pytest.approx(other["moments"].mean, rel=1e-6)
        # Convolutions fuse differently where tensors leave the session: a value in many may fall into the next bin.
        moved = np.abs(one["histogram"].counts - other["histogram"].counts).sum()
        assert moved <= 2 + one["moments"].count // 100


def test_observers_read_blocked_tensors_only_where_all_blocks_are_full() -> None:
    def graph(channels: int) -> onnx.ModelProto:
        node = onnx.helper.make_node
        reorder = node("ReorderOutput", ["blocked"], ["plain"], domain="com.microsoft.nchwc", channels=channels)
        nodes = [reorder, node("Observe", ["plain"], ["seen"], domain="onnxquant", handle=1)]
        return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [onnx.ValueInfoProto(name="seen")]))

    whole, padded, shared = graph(48), graph(24), graph(48)
    shared.graph.node.append(onnx.helper.make_node("Relu", ["plain"], ["other"]))
    assert (read_blocked(whole), read_blocked(padded), read_blocked(shared)) == (1, 0, 1)
    assert [n.op_type for n in whole.graph.node] == ["Observe"]
    assert whole.graph.node[0].input[0] == shared.graph.node[1].input[0] == "blocked"
    assert [n.op_type for n in shared.graph.node] == ["ReorderOutput", "Observe", "Relu"]
    assert padded.graph.node[1].input[0] == "plain"
