"""The run: what is observed is what the model computes, in any grouping, interrupted or not, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest

from onnxquant import runtime
from onnxquant.calibration import collect as run_
from onnxquant.calibration.collect import CollectSettings, collect
from onnxquant.calibration.feeds import Feed, SampleOrigin
from onnxquant.calibration.statistics import Statistics
from onnxquant.calibration.tensors import quantizable
from onnxquant.errors import FeedError, StatisticsError
from onnxquant.graph.identity import digest
from onnxquant.graph.io import load
from onnxquant.observers import ActivationGrid
from onnxquant.observers.histogram import Histogram

METHODS = ("minmax", "mse", "moving-average", "absmean", "gram")


class Made:
    """Samples made when they are read; may fail at one, as an interrupted run does."""

    def __init__(self, count: int, rows: int = 3, fail_at: int | None = None, name: str = "x", width: int = 48) -> None:
        self.count, self.rows, self.fail_at, self.name, self.width = count, rows, fail_at, name, width
        self.origin = SampleOrigin(source="made", samples=count)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Feed]:
        for i in range(self.count):
            if i == self.fail_at:
                raise KeyboardInterrupt
            rows = self.rows if i % 3 else self.rows + 1
            yield {self.name: np.random.default_rng(i).normal(size=(rows, self.width)).astype(np.float32)}


def layers() -> onnx.ModelProto:
    """MatMul, Relu, Add of what the input and the Relu give."""
    node = graphs.node
    return graphs.model(
        [
            node("MatMul", ["x", "w"], ["m"], name="product"),
            node("Relu", ["m"], ["r"]),
            node("Add", ["r", "x"], ["y"]),
            node("Shape", ["y"], ["s"]),
            node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.float32(2))),
            node("Mul", ["y", "k"], ["z"]),
        ],
        {"x": ("float32", ["batch", 48])},
        {"z": "float32"},
        {"w": graphs.weight(48, 48)},
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return graphs.save(layers(), tmp_path / "model.onnx")


@pytest.fixture(autouse=True)
def checkpoints_at_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_, "_CHECKPOINT_SECONDS", 0.0)


def states(statistics: Statistics) -> dict[tuple[str, str, str], list[Any]]:
    return {
        (tensor, key, part): array.tolist()
        for tensor in statistics.observers
        for key, one in statistics.accumulators(tensor).items()
        for part, array in one.state().items()
    }


def wanted(*tensors: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(tensors or ("x", "m", "r", "y", "z"), METHODS)


def test_observed_values_equal_those_of_numpy(model: Path) -> None:
    statistics = collect(model, Made(5), wanted())
    rows = np.concatenate([f["x"] for f in Made(5)]).astype(np.float64)
    weight = graphs.weight(48, 48).astype(np.float64)
    values = {"x": rows, "m": rows @ weight}
    values["r"] = np.maximum(values["m"], 0)
    values["y"] = values["r"] + rows
    values["z"] = 2 * values["y"]
    for tensor, x in values.items():
        want = min(0.0, x.min()), max(0.0, x.max())
        assert statistics.range(tensor, "minmax", ActivationGrid()) == pytest.approx(want, rel=1e-5)
        gram, absmean = statistics.observers[tensor]["gram"], statistics.observers[tensor]["absmean"]
        np.testing.assert_allclose(gram.matrix, x.T @ x, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(absmean.absmax, np.abs(x).max(0), rtol=1e-5)
        assert statistics.accumulators(tensor)["histogram"].count == x.size
    assert statistics.samples == 5
    assert statistics.sources == [SampleOrigin(source="made", samples=5)]


def test_grouping_tensors_changes_no_statistic(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = []
    open_session = runtime.ExtendableModel.session
    monkeypatch.setattr(runtime.ExtendableModel, "session", lambda *a, **k: sessions.append(1) or open_session(*a, **k))
    at_once = collect(model, Made(4), wanted())
    one_by_one = collect(model, Made(4), wanted(), settings=CollectSettings(memory=1))
    assert len(sessions) == (2 + 1) + (2 + 5)  # types and shapes, then the groups
    assert states(at_once) == states(one_by_one)


@pytest.mark.parametrize("memory", [1 << 30, 1, 1500])
@pytest.mark.parametrize("fail_at", [1, 3, 6])
def test_an_interrupted_run_resumes_to_the_same(model: Path, tmp_path: Path, memory: int, fail_at: int) -> None:
    checkpoint = tmp_path / "run.partial"
    whole = collect(model, Made(7), wanted())
    with pytest.raises(KeyboardInterrupt):
        collect(
            model, Made(7, fail_at=fail_at), wanted(), settings=CollectSettings(memory=memory, checkpoint=checkpoint)
        )
    assert checkpoint.exists()
    resumed = collect(model, Made(7), wanted(), settings=CollectSettings(checkpoint=checkpoint))
    assert states(resumed) == states(whole)
    again = collect(model, Made(7), wanted(), settings=CollectSettings(checkpoint=checkpoint))  # nothing is left to do
    assert states(again) == states(whole)


def test_an_interruption_between_observers_leaves_a_consistent_checkpoint(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted between two observers of one tensor."""
    checkpoint = tmp_path / "run.partial"
    add, calls = Histogram.add, []

    def interrupted(self: Any, batch: Any) -> None:
        calls.append(1)
        if len(calls) == 13:
            raise KeyboardInterrupt
        add(self, batch)

    monkeypatch.setattr(Histogram, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(model, Made(7), wanted(), settings=CollectSettings(compiled=False, checkpoint=checkpoint))
    monkeypatch.setattr(Histogram, "add", add)
    assert states(
        collect(model, Made(7), wanted(), settings=CollectSettings(compiled=False, checkpoint=checkpoint))
    ) == states(collect(model, Made(7), wanted(), settings=CollectSettings(compiled=False)))


def test_a_checkpoint_of_something_else_is_refused(model: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.partial"
    collect(model, Made(3), wanted(), settings=CollectSettings(checkpoint=checkpoint))
    with pytest.raises(StatisticsError, match="other samples"):
        collect(model, Made(4), wanted(), settings=CollectSettings(checkpoint=checkpoint))
    with pytest.raises(StatisticsError, match="other samples"):
        collect(model, Made(3, rows=2), wanted(), settings=CollectSettings(checkpoint=checkpoint))
    with pytest.raises(StatisticsError, match="other tensors or observers"):
        collect(model, Made(3), wanted("x", "m"), settings=CollectSettings(checkpoint=checkpoint))
    with pytest.raises(StatisticsError, match="holds the checkpoint of an interrupted run, expected statistics"):
        Statistics.load(checkpoint)
    proto = layers()
    proto.graph.node[1].op_type = "Sigmoid"
    with pytest.raises(StatisticsError, match="another model"):
        collect(
            graphs.save(proto, tmp_path / "other.onnx"),
            Made(3),
            wanted(),
            settings=CollectSettings(checkpoint=checkpoint),
        )


def test_memory_does_not_grow_with_samples(model: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        collect(model, Made(count, rows=400), wanted())
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(1)
    few, many = peak(3), peak(60)
    one_sample = 400 * 48 * 4 * 5
    assert many < few + one_sample


def test_zero_sized_batches_and_open_dimensions_are_observed(model: Path) -> None:
    class Some(Made):
        def __iter__(self) -> Iterator[Feed]:
            for i, feed in enumerate(super().__iter__()):
                yield {"x": feed["x"][:0]} if i % 2 == 0 else feed

    statistics = collect(model, Some(4), wanted())
    assert statistics.accumulators("m")["histogram"].count == 48 * (3 + 4)
    empty = collect(model, Made(2, rows=0, name="x", width=48), {"m": ["minmax"]})
    assert empty.accumulators("m")["moments"].count == 48  # only the first has a row

    class Nothing(Made):
        def __iter__(self) -> Iterator[Feed]:
            yield from ({"x": np.zeros((0, 48), np.float32)} for _ in range(2))

    nothing = collect(model, Nothing(2), {"m": ["minmax", "mse"]})
    with pytest.raises(StatisticsError, match="tensor 'm': mse: no values"):
        nothing.range("m", "mse", ActivationGrid())


def test_tensors_that_cannot_be_observed_are_skipped_with_a_reason(tmp_path: Path) -> None:
    path = graphs.save(graphs.branches(), tmp_path / "if.onnx")
    feeds = Made(2, width=64)

    class Conditions(Made):
        def __iter__(self) -> Iterator[Feed]:
            for i, feed in enumerate(feeds):
                yield {**feed, "c": np.array(bool(i))}

    statistics = collect(path, Conditions(2), {name: ["minmax"] for name in ("x", "c", "a", "b", "y", "w_outer")})
    assert list(statistics.observers) == ["x", "y"]
    assert "subgraph of If" in statistics.skipped["a"]
    assert "subgraph of If" in statistics.skipped["b"]
    assert "tensor(bool)" in statistics.skipped["c"]
    assert "constant" in statistics.skipped["w_outer"]
    with pytest.raises(StatisticsError, match=r"'a': it is computed in a subgraph of If.*; leave what reads it"):
        statistics.range("a", "minmax", ActivationGrid())
    with pytest.raises(StatisticsError, match=r"no tensor 'xx'.*did you mean 'x'"):
        collect(path, Conditions(2), {"xx": ["minmax"]})


def test_integers_and_texts_are_skipped(tmp_path: Path) -> None:
    proto = graphs.gather()
    proto.graph.node.append(graphs.node("Cast", ["i"], ["text"], to=onnx.TensorProto.STRING))
    path = graphs.save(proto, tmp_path / "gather.onnx")

    class Indices(Made):
        def __iter__(self) -> Iterator[Feed]:
            yield from ({"i": np.ones((2, 5), np.int64)} for _ in range(2))

    statistics = collect(path, Indices(2), {n: ["mse"] for n in ("i", "text", "y")})
    assert list(statistics.observers) == ["y"]
    assert {n: r.split(";")[0] for n, r in statistics.skipped.items()} == {
        "i": "is tensor(int64)",
        "text": "is tensor(string)",
    }


def test_infinite_tensors_are_skipped_and_others_are_observed(tmp_path: Path) -> None:
    node = graphs.node
    proto = graphs.model(
        [node("Log", ["x"], ["l"]), node("Relu", ["l"], ["y"])], {"x": ("float32", ["n", 4])}, {"y": "float32"}, {}
    )
    path = graphs.save(proto, tmp_path / "log.onnx")

    class Zero(Made):
        def __iter__(self) -> Iterator[Feed]:
            yield {"x": np.ones((1, 4), np.float32)}
            yield {"x": np.full((1, 4), 0, np.float32)}
            yield {"x": np.full((1, 4), 3, np.float32)}

    statistics = collect(path, Zero(3), {n: ["minmax"] for n in ("x", "l", "y")})
    assert statistics.skipped == {"l": "holds infinity in sample 1"}
    assert statistics.range("y", "minmax", ActivationGrid()) == pytest.approx((0, np.log(3)))


def test_collecting_without_samples_is_refused(model: Path) -> None:
    with pytest.raises(FeedError, match="no samples"):
        collect(model, Made(0), wanted())


def test_progress_rises_to_one(model: Path) -> None:
    seen: list[float] = []
    collect(
        model, Made(4), wanted(), settings=CollectSettings(memory=1), progress=lambda stage, done: seen.append(done)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(seen) == 1 + 4 * 5


@pytest.mark.parametrize("external", [False, True])
def test_statistics_do_not_depend_on_where_weights_are_stored(
    tmp_path: Path, external: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = graphs.save(layers(), tmp_path / f"{external}.onnx", external=external)
    want = states(collect(graphs.save(layers(), tmp_path / "plain.onnx"), Made(2), wanted()))
    assert states(collect(path, Made(2), wanted())) == want
    assert states(collect(load(path), Made(2), wanted())) == want
    assert states(collect(load(layers()), Made(2), wanted())) == want
    monkeypatch.setattr("onnxquant.runtime.extended._IN_MEMORY", 100)
    assert states(collect(path, Made(2), wanted())) == want
    assert digest(load(path)) == digest(load(layers()))


def test_an_edited_document_runs_as_edited(model: Path) -> None:
    document = load(model)
    document.proto.graph.node[1].op_type = "Neg"
    statistics = collect(document, Made(2), {"r": ["minmax"], "m": ["minmax"]})
    low, high = statistics.range("m", "minmax", ActivationGrid())
    assert statistics.range("r", "minmax", ActivationGrid()) == (-high, -low)
    assert statistics.model != digest(load(model))


def test_the_digest_depends_on_graph_and_weights() -> None:
    base = digest(load(layers()))
    for change in ("op", "weight", "name"):
        proto = layers()
        if change == "op":
            proto.graph.node[1].op_type = "Sigmoid"
        elif change == "weight":
            values = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
            values[3, 3] += 1e-3
            proto.graph.initializer[0].raw_data = values.tobytes()
        else:
            proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "other"
        assert digest(load(proto)) != base
    proto = layers()
    proto.producer_name, proto.doc_string = "somebody", "words"
    assert digest(load(proto)) == base


def test_quantizable_tensors_are_chosen(tmp_path: Path) -> None:
    document = load(layers())
    assert quantizable(document) == ["x", "r", "y", "z"]  # m is the Relu's alone
    assert quantizable(document, "^[mr]$") == ["r"]
    document.proto.graph.node.append(graphs.node("Neg", ["m"], ["n"]))
    assert quantizable(document) == ["x", "m", "r", "y", "z"]
    with pytest.raises(StatisticsError, match="matches none of 5"):
        quantizable(document, "nothing")
    with pytest.raises(StatisticsError, match="not a regular expression"):
        quantizable(document, "(")
