"""Samples of a run: opened once, and no more of them read than the steps need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import pytest

import onnxquant
from onnxquant.calibration.samples import Samples
from onnxquant.graph.io import load
from onnxquant.plan.activations import SampleUse
from onnxquant.recipe.options import Options

K, N = 96, 512


class Source:
    """Samples of one matrix product that count how often they are gone through, and how far."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, [0] * count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for i in range(self.count):
            self.read[i] += 1
            yield {"x": graphs.weight(2, 3, K, seed=i)}


def opened(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The limits with which data is opened."""
    from onnxquant.calibration import feeds

    limits: list[int | None] = []
    open_feeds = feeds.open_feeds

    def counted(data: Any, inputs: Any, **options: Any) -> Any:
        limits.append(options["limit"])
        return open_feeds(data, inputs, **options)

    monkeypatch.setattr(feeds, "open_feeds", counted)
    return limits


@pytest.mark.parametrize(
    "options",
    [
        {"format": "int4"},
        {"format": "int4", "solver": "awq"},
        {"format": "int4", "permutation": "activation", "target": "custom"},
        {"formats": ("int8", "int4"), "budget_bpw": 5.0},
        {"activations": "static", "solver": "rtn", "smooth": False},
        {"activations": "dynamic"},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_data_is_opened_once(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = opened(monkeypatch)
    report = onnxquant.quantize(graphs.matmul(k=K, n=N), tmp_path / "out.onnx", data=Source(12), **options)
    assert limits == [Options().calibration_samples + Options().samples]
    assert report.proof.feeds.samples == (12 if options.get("activations") == "static" else Options().samples)


def test_a_run_that_only_proves_reads_no_other_samples(tmp_path: Path) -> None:
    source = Source(12)
    onnxquant.quantize(graphs.matmul(k=K, n=N), tmp_path / "out.onnx", data=source, samples=3, format="int8")
    assert all(source.read[:3]) and not any(source.read[3:])


def test_an_iterator_serves_calibration_and_proof(tmp_path: Path) -> None:
    data = iter(Source(12))
    report = onnxquant.quantize(graphs.matmul(k=K, n=N), tmp_path / "out.onnx", data=data, format="int4", samples=5)
    assert {s.decision.solver for s in report.encoded} == {"gptq"}
    assert report.passed and report.proof.feeds.samples == 5


def test_more_samples_may_be_proven_than_calibrated(tmp_path: Path) -> None:
    report = onnxquant.quantize(
        graphs.matmul(k=K, n=N), tmp_path / "out.onnx", data=Source(12), format="int4", samples=9, calibration_samples=2
    )
    assert report.proof.feeds.samples == 9


def test_a_search_and_its_proof_are_judged_by_the_same_samples(tmp_path: Path) -> None:
    model, data = graphs.save(graphs.matmul(k=K, n=N), tmp_path / "model.onnx"), list(Source(40))
    settings = {"activations": "static", "calibration_method": "minmax", "solver": "rtn", "smooth": False}
    report = onnxquant.quantize(model, tmp_path / "out.onnx", data=data, **settings)
    assert report.activations.samples == SampleUse(40, 24, apart=True, folds=4)
    assert report.proof.unseen.samples == report.proof.feeds.samples == 24
    again = onnxquant.validate(model, tmp_path / "out.onnx", data=data)
    assert again.proof.feeds == report.proof.feeds


@pytest.mark.parametrize("folds", [False, True])
def test_a_slow_model_calibrates_on_fewer_and_is_judged_by_the_same(*, folds: bool) -> None:
    """What a call takes on a busy machine does not decide which samples judge, and a later proof finds them."""
    model = load(graphs.matmul(k=K, n=N))
    options = Options(samples=16)
    whole, limited = (Samples(list(Source(400)), options, are_compared_on=True) for _ in range(2))
    expected = [feed["x"].tobytes() for feed in whole.for_calibration(model).judging]
    limited.for_calibration(model)
    limited.limit_calibration(16)
    split = limited.for_calibration(model)
    assert [feed["x"].tobytes() for feed in split.judging] == expected and len(expected) == 100
    assert len(split.calibrating) == 16 and len(split.whole) == 116
    search = limited.for_search(model, in_folds=folds)
    judged, count = len(search.judging.feeds), search.calibrating.count
    later = Samples(list(Source(400)), options, are_compared_on=True)
    assert later.is_split_into(model, len(search.calibrating.feeds), judged, count)
    both = [[feed["x"].tobytes() for feed in samples.for_proof(model)] for samples in (limited, later)]
    assert both[0] == both[1] and len(both[0]) == (24 if folds else 100)
