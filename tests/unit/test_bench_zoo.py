"""The zoo's own parts: flags of rows, intervals of ratios, processes with a limit."""

from __future__ import annotations

import os
import signal
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT


@pytest.fixture
def zoo(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from zoo_bench import league, measure, processes, rows

    return SimpleNamespace(league=league, measure=measure, processes=processes, rows=rows)


def row(zoo, mode="static", *, peer=None, against_peer=None, **ours):
    good = {
        "size": 30_000,
        "verdict": "PASSED",
        "sqnr_db": 30.0,
        "claim": 1.5,
        "claim_db": 30.0,
        "speed": (1.5, 1.4, 1.6),
    }
    other = {"size": 30_000, "sqnr_db": 30.0, **(peer or {})}
    return zoo.rows.Row(
        "net",
        mode,
        False,
        100_000,
        ours=zoo.rows.Side(**{**good, **ours}),
        peer=zoo.rows.Side(**other),
        against_peer=against_peer,
    )


@pytest.mark.parametrize(
    ("flag", "figures"),
    [
        ("larger than float", {"size": 100_001, "sqnr_db": 40.0}),
        ("larger", {"size": 50_000}),
        ("worse", {"sqnr_db": 29.0}),
        ("worse", {"here_db": 28.9, "peer": {"here_db": 29.5}}),
        ("slower", {"against_peer": (0.9, 0.88, 0.95)}),
        ("slower than float", {"speed": (0.9, 0.88, 0.95), "claim": None}),
        ("claims more speed", {"speed": (0.99, 0.98, 0.995)}),
        ("claims more dB", {"claim_db": 33.0}),
        ("claims more dB", {"claim_db": 46.0, "claims_mean": True, "sqnr_db": 46.0, "samples_db": [20.0, 40.0, 30.0]}),
        ("long", {"seconds": 11.0, "peer": {"seconds": 1.0}}),
        ("failed", {"code": 1, "verdict": "FAILED"}),
        ("traceback", {"code": 70, "traceback": True, "size": 0}),
        ("timeout", {"late": True, "size": 0}),
        ("refused", {"code": 2, "size": 0}),
        ("does not load", {"error": "INVALID_GRAPH"}),
    ],
)
def test_each_fault_has_its_flag_and_no_other(zoo, flag, figures):
    assert row(zoo, **figures).flags() == [flag]


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"against_peer": (0.97, 0.93, 1.01)},
        {"against_peer": (0.8, 0.7, 0.9), "verdict": "smaller, not faster", "claim": 0.8, "peer": {"size": 99_000}},
        {"speed": (0.9, 0.88, 0.95), "verdict": "smaller, not faster", "claim": 0.9},
        {"sqnr_db": 25.0, "claim_db": 25.0, "peer": {"size": 90_000}},
        {"claim_db": 33.0, "samples_db": [20.0, 40.0, 30.0]},
        {"claim_db": 35.0, "claims_mean": True, "sqnr_db": 20.0, "samples_db": [20.0, 40.0, 30.0], "peer": {"sqnr_db": 20.0}},
        {"sqnr_db": 29.0, "samples_db": [27.0, 32.0], "peer": {"samples_db": [33.0, 31.0]}},
        {"size": 50_000, "peer": {"sqnr_db": 20.0}},
        {"size": 50_000, "here_db": 30.0, "peer": {"here_db": 20.0}},
        {"seconds": 9.0, "peer": {"seconds": 0.1}},
        {"code": 2, "size": 0, "peer": {"size": 99_000}},
    ],
)
def test_what_is_said_uncertain_or_a_trade_has_no_flag(zoo, figures):
    assert row(zoo, **figures).flags() == []


def test_rows_survive_their_file(zoo, tmp_path):
    original = row(zoo, against_peer=(0.9, 0.8, 0.95))
    path = tmp_path / "rows.jsonl"
    path.write_text(row(zoo, size=1).to_json() + "\n" + original.to_json() + "\n")
    read = zoo.rows.read(path)
    assert list(read) == ["net/static"]
    assert read["net/static"].flags() == ["slower"]
    assert max(map(len, zoo.league.table(list(read.values())).splitlines())) <= 80


def test_an_interval_holds_the_median_and_leaves_out_outliers(zoo):
    ratios = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08, 1.09, 1.1, 1.11, 1.12, 1.13, 9.0]
    middle, low, high = zoo.measure.ratio(ratios, [1.0] * 15)
    assert (middle, low, high) == (1.07, 1.03, 1.11)


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_process_reports_its_end_and_its_output(zoo, tmp_path):
    def leave():
        os.write(1, b"hello")
        sys.exit(3)

    run = zoo.processes.run(leave, tmp_path / "log", 20)
    assert (run.code, run.output, run.late) == (3, "hello", False)
    assert zoo.processes.run(lambda: 1 / 0, tmp_path / "log", 20).code == zoo.processes.RAISED
    assert zoo.processes.run(lambda: os.kill(os.getpid(), signal.SIGKILL), tmp_path / "log", 20).code == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_process_that_does_not_end_is_ended(zoo, tmp_path):
    def work():
        while True:
            pass

    assert zoo.processes.run(work, tmp_path / "log", 1).late


def test_the_best_file_is_the_fastest_that_keeps_enough_and_the_smallest_of_equals(zoo):
    rows = [
        row(zoo, "static", speed=(2.0, 1.9, 2.1), sqnr_db=12.0),
        row(zoo, "dynamic", speed=(1.50, 1.4, 1.6), size=25_000, peer={"speed": (1.2, 1.1, 1.3)}),
        row(zoo, "bits4", speed=(1.52, 1.4, 1.6), size=50_000),
    ]
    line = zoo.league.best_table(rows).splitlines()[-1]
    assert line == "| net | 100 | dynamic | 4.00x | 1.50x | 30.0 | PASSED | dynamic | 3.33x | 1.20x | 30.0 |"


def test_the_table_of_choices_says_where_another_tool_is_better(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import bench_choice

    def flags(chosen, other, beside=None):
        other = bench_choice.Side(1.0, *other, beside=beside)
        return bench_choice.Row("net", 100, {bench_choice.CHOICE: bench_choice.Side(1.0, *chosen), "static": other}).flags()

    good = (50, 25.0, 2.0)
    assert flags(good, good) == []
    assert flags(good, (50, 25.0, 2.1), (1.05, 1.02, 1.08)) == []  # which may be less than 3 %
    says = "slower than static, which is 1.05x as fast (1.04 to 1.08)"
    assert flags(good, (50, 25.0, 2.1), (1.05, 1.04, 1.08)) == [says]
    assert flags(good, (50, 19.0, 3.0), (1.5, 1.4, 1.6)) == []  # below the bound
    assert flags((53, 25.0, 2.0), good) == ["larger by 6%"]
    assert flags((50, 18.0, 2.0), (50, 20.5, 2.0)) == ["worse: 18.0 of 20.5 dB"]
    assert flags((0, None, None), good)[0].startswith("no file")
