"""Statistics on disk and merged: whole, of this model, and the same in any order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxquant.calibration import archive
from onnxquant.calibration.feeds import SampleOrigin
from onnxquant.calibration.statistics import KIND, Statistics
from onnxquant.errors import OnnxQuantError, OutputError, StatisticsError
from onnxquant.observers import ActivationGrid, ranging

WANTED = {"a/b:0": [*ranging(), "absmean:1", "absmean", "gram", "gram:1"], "t": ["minmax", "percentile"]}


def shard(seed: int, samples: int = 3) -> Statistics:
    statistics = Statistics.of("model", WANTED)
    for i in range(samples):
        x = (np.random.default_rng([seed, i]).normal(size=(4, 6)) * 2.0**seed).astype(np.float32)
        for tensor in WANTED:
            for one in statistics.accumulators(tensor).values():
                one.update(x)
    statistics.samples = samples
    statistics.sources = [SampleOrigin(source=f"shard {seed}", samples=samples)]
    return statistics


def ranges(statistics: Statistics) -> list[tuple[float, float]]:
    grids = [ActivationGrid(8), ActivationGrid(8, True), ActivationGrid(4)]
    return [statistics.range("a/b:0", method, grid) for method in ranging() for grid in grids]


def test_statistics_round_trip_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    before = shard(1)
    before.skipped = {"u": "is tensor(int64)"}
    before.save(path)
    after = Statistics.load(path)
    assert ranges(after) == ranges(before)
    assert (after.model, after.samples, after.sources, after.skipped) == ("model", 3, before.sources, before.skipped)
    assert list(after.observers) == list(WANTED)
    assert [list(o) for o in after.observers.values()] == list(WANTED.values())
    for tensor in WANTED:
        for key, one in before.accumulators(tensor).items():
            other = after.accumulators(tensor)[key].state()
            assert all(np.array_equal(array, other[part]) for part, array in one.state().items())
    shared = after.observers["a/b:0"]
    assert shared["mse"].accumulated is shared["entropy"].accumulated
    assert [p.name for p in tmp_path.iterdir()] == ["stats.npz"]


def test_shards_merge_in_any_order_to_the_same_ranges() -> None:
    shards = [shard(seed, samples) for seed, samples in ((0, 3), (3, 1), (9, 5))]
    found = set()
    for order in itertools.permutations(shards):
        left = Statistics.merge(Statistics.merge(order[0], order[1]), order[2])
        right = Statistics.merge(order[0], Statistics.merge(order[1], order[2]))
        assert left.samples == right.samples == 9
        found |= {tuple(ranges(left)), tuple(ranges(right))}
    assert len(found) == 1
    assert [s.samples for s in shards] == [3, 1, 5]
    assert ranges(shards[0]) == ranges(shard(0, 3))  # merging changed no shard


def test_merged_statistics_equal_those_of_one_run() -> None:
    whole = Statistics.of("model", WANTED)
    for seed, i in ((0, 0), (0, 1), (5, 0), (5, 1)):
        x = (np.random.default_rng([seed, i]).normal(size=(4, 6)) * 2.0**seed).astype(np.float32)
        for one in whole.accumulators("a/b:0").values():
            one.update(x)
    merged = Statistics.merge(shard(0, 2), shard(5, 2))
    for method in set(ranging()) - {"moving-average"}:
        assert merged.range("a/b:0", method, ActivationGrid()) == whole.range("a/b:0", method, ActivationGrid())
    for name in ("absmean:1", "absmean"):
        one, other = merged.observers["a/b:0"][name], whole.observers["a/b:0"][name]
        np.testing.assert_allclose(one.absmean, other.absmean, rtol=1e-12)


def test_statistics_of_other_models_or_observers_are_not_merged() -> None:
    with pytest.raises(StatisticsError, match="another model"):
        Statistics.merge(shard(0), Statistics.of("other", WANTED))
    with pytest.raises(StatisticsError, match="of tensor 't' minmax, percentile and none"):
        Statistics.merge(shard(0), Statistics.of("model", {"a/b:0": WANTED["a/b:0"]}))
    with pytest.raises(StatisticsError, match="differ in what they observe: of tensor 't'"):
        Statistics.merge(shard(0), Statistics.of("model", {**WANTED, "t": ["minmax"]}))


def test_tensors_that_one_shard_skipped_are_skipped() -> None:
    other = shard(1)
    other.skipped["t"] = "holds infinity in sample 1"
    del other.observers["t"]
    for merged in (Statistics.merge(shard(0), other), Statistics.merge(other, shard(0))):
        assert list(merged.observers) == ["a/b:0"]
        assert merged.skipped == other.skipped


def test_unknown_tensors_methods_and_parameters_are_refused() -> None:
    statistics = shard(0)
    for call, words in (
        (
            lambda: statistics.range("tt", "mse", ActivationGrid()),
            "'tt': its values were not collected; did you mean 't'",
        ),
        (lambda: statistics.range("t", "mean_std", ActivationGrid()), "did you mean 'mean-std'"),
        (lambda: statistics.range("t", "moving-average", ActivationGrid()), "collected for entropy, mean-std, minmax"),
        (lambda: statistics.range("t", "gram", ActivationGrid()), "gram gives no range"),
        (
            lambda: statistics.range("t", "percentile", ActivationGrid(), percentil=3),
            "percentile has no parameter percentil",
        ),
        (
            lambda: statistics.range("t", "percentile", ActivationGrid(), percentile=300),
            "tensor 't': percentile is 300",
        ),
    ):
        with pytest.raises(StatisticsError, match=words):
            call()
    assert statistics.range("t", "entropy", ActivationGrid())  # a histogram serves it, whoever asked for that
    narrow, wide = (statistics.range("t", "percentile", ActivationGrid(), percentile=p) for p in (50, 100))
    assert narrow[1] < wide[1]


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flip(raw: bytes) -> bytes:
    at = raw.index(b"NUMPY") + 300
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [cut, flip, lambda raw: b"", lambda raw: b"garbage" * 9, lambda raw: raw[:-30]],
    ids=["cut", "flipped", "empty", "garbage", "shortened"],
)
def test_damaged_files_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "stats.npz"
    shard(0).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StatisticsError, match=r"stats\.npz: damaged"):
        Statistics.load(path)


def test_no_single_flipped_byte_changes_a_range(tmp_path: Path) -> None:
    """Refused, or without effect (dates and the like in the archive)."""
    path = tmp_path / "stats.npz"
    before = shard(0)
    before.save(path)
    raw, refused = path.read_bytes(), 0
    want = ranges(before)
    for at in np.random.default_rng(0).integers(0, len(raw), 120):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
        try:
            after = Statistics.load(path)
        except OnnxQuantError:
            refused += 1
        else:
            assert ranges(after) == want
    assert refused > 60


def arrays(**extra: str) -> dict[str, NDArray[np.uint8]]:
    return {name: np.frombuffer(text.encode(), np.uint8) for name, text in extra.items()}


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    with pytest.raises(StatisticsError, match="no such file"):
        Statistics.load(path)
    with pytest.raises(StatisticsError, match="no such file"):
        Statistics.load(tmp_path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(StatisticsError, match="has no header"):
        Statistics.load(path)
    np.savez(path, **arrays(header="[1]"))
    with pytest.raises(StatisticsError, match="has no header"):
        Statistics.load(path)
    np.savez(path, x=np.array([object()]), allow_pickle=True)
    with pytest.raises(StatisticsError, match="damaged, or no statistics"):
        Statistics.load(path)
    archive.write(path, {"kind": KIND, "version": 99}, {})
    with pytest.raises(StatisticsError, match="has version 99 of the file format, expected 1"):
        Statistics.load(path)
    archive.write(path, {"kind": KIND, "version": 1}, {})
    with pytest.raises(StatisticsError, match="damaged: KeyError"):
        Statistics.load(path)


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_does_not_change_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "stats.npz"
    shard(0).save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, full)
    with pytest.raises(OutputError, match="No space left"):
        shard(1).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["stats.npz"]
