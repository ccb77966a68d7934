"""The benchmark of generalization: photographs are divided by source, and its table names what falls short."""

from __future__ import annotations

import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from generalization_bench import networks, photographs, quantizers, rows

    return SimpleNamespace(networks=networks, photographs=photographs, quantizers=quantizers, rows=rows)


def photographs(bench, count=30):
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (170, 180, 3), np.uint8)) for _ in range(count)]
    return [bench.photographs.Photograph(f"p{i}", p) for i, p in enumerate(pictures)]


def test_photographs_are_read_from_packages_and_folders(bench, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (200, 200)).save(buffer, "PNG")
    with zipfile.ZipFile(tmp_path / "some_pack-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("data/a.png", buffer.getvalue())
        wheel.writestr("data/logo.png", buffer.getvalue())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "b.png").write_bytes(buffer.getvalue())
    read = bench.photographs.read(tmp_path, {"some-pack": [r"data/a\.png"]})
    assert [p.name for p in read] == ["some-pack data/a.png", "mine b.png"]


def test_no_photograph_both_calibrates_and_judges(bench):
    split = bench.photographs.split(photographs(bench), 3)
    assert len(split.unseen) == bench.photographs.UNSEEN
    assert not {p.name for p in split.unseen} & {p.name for p in split.calibrating}


def test_names_of_samples_tell_the_photograph(bench):
    samples = bench.photographs.calibrating(photographs(bench), 5, (8, 8), 0)
    assert len({name.split("_")[0] for name in samples}) == 5
    assert len(samples) == 20


def result(bench, mean, tenth, claim=None):
    return bench.quantizers.Result(
        bench.quantizers.Quality(mean, tenth, tenth - 1, mean - 1), mean_here=mean - 1, claim=claim
    )


@pytest.mark.parametrize(
    ("ours", "failed"), [((21.1, 16.1, 20.0), False), ((20.9, 16.1, 20.0), True), ((21.1, 16.1, 23.0), True)]
)
def test_a_gain_below_one_decibel_or_a_report_that_is_off_has_a_star(bench, ours, failed):
    tools = {"onnxquant": ours, "minmax": (20.0, 14.0), "percentile": (19.0, 15.0)}
    table = bench.rows.table([bench.rows.Row("net", 5, 0, t, result(bench, *q)) for t, q in tools.items()])
    assert table.rstrip().endswith("*") is failed
    assert max(map(len, table.splitlines())) <= 80


def test_rows_are_read_back(bench, tmp_path):
    row = bench.rows.Row("net", 5, 0, "minmax", result(bench, 20.0, 14.0))
    (tmp_path / "rows").write_text(row.to_json() + "\n")
    assert bench.rows.read(tmp_path / "rows") == {row.key: row}


def test_quality_is_that_of_the_worst_output_and_the_worst_tenth(bench):
    expected = [[np.ones(4), np.ones(4)] for _ in range(20)]
    actual = [[a * 1.001, a * (1.1 if i < 2 else 1.01)] for i, (a, _) in enumerate(expected)]
    quality = bench.quantizers.quality(expected, actual)
    assert quality.mean == pytest.approx(38.0)
    assert quality.worst_tenth == pytest.approx(20.0)
