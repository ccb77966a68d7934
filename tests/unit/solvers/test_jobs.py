"""Solving many weights: alone, in processes, on a cluster that loses a worker, and again after an interruption."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
from graphs import rng, weight

from onnxquant.errors import WeightError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded
from onnxquant.solvers import jobs


def tasks(count: int = 6, cols: int = 96, rows: int = 64) -> list[jobs.Task]:
    found = []
    for i in range(count):
        x = rng(i).standard_normal((4 * cols, cols)) * np.geomspace(0.1, 3, cols)
        form = format_named(["int4", "q4_1", "nf4"][i % 3], **({"block_size": 32} if i % 3 == 2 else {}))
        found.append(jobs.Task(f"w{i}", form, "gptq", weight(rows, cols, seed=i), (x.T @ x)[None], 4 * cols))
    return found


def expected(wanted: list[jobs.Task]) -> dict[str, Encoded]:
    return {t.name: t.solve() for t in wanted}


def check(results: jobs.Results, wanted: dict[str, Encoded]) -> None:
    assert dict.fromkeys(results) == dict.fromkeys(wanted)
    for name, one in wanted.items():
        found = results[name]
        assert found.format == one.format and (found.rows, found.cols, found.shape) == (one.rows, one.cols, one.shape)
        assert found.planes.keys() == one.planes.keys()
        for plane, values in one.planes.items():
            assert found.planes[plane].dtype == values.dtype
            np.testing.assert_array_equal(found.planes[plane], values)


@pytest.mark.parametrize("count", [1, 2])
def test_one_after_the_other_and_in_processes(tmp_path: Path, count: int) -> None:
    wanted, told = tasks(), []
    results = jobs.Results(tmp_path)
    jobs.run(wanted, results, count, lambda task: told.append(task.name))
    check(results, expected(wanted))
    assert sorted(told) == [t.name for t in wanted]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".npz"] * len(wanted)


def test_weights_whose_results_are_on_disk_are_not_solved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tasks(3)
    jobs.run(wanted[:2], jobs.Results(tmp_path))
    solved, told = [], []
    solve = jobs.Task.solve
    monkeypatch.setattr(jobs.Task, "solve", lambda self: solved.append(self.name) or solve(self))
    results = jobs.Results(tmp_path)
    jobs.run(wanted, results, 1, lambda task: told.append(task.name))
    assert solved == ["w2"] and told == ["w0", "w1", "w2"]
    monkeypatch.undo()
    check(results, expected(wanted))


def test_a_result_is_of_all_that_it_depends_on() -> None:
    one = tasks(1)[0]
    x = np.eye(96)[None]
    others = [
        jobs.Task("v", one.format, "gptq", one.weight, one.gram, one.count),
        jobs.Task("w0", format_named("int4", block_size=64), "gptq", one.weight, one.gram, one.count),
        jobs.Task("w0", one.format, "mse", one.weight, one.gram, one.count),
        jobs.Task("w0", one.format, "gptq", one.weight + 1, one.gram, one.count),
        jobs.Task("w0", one.format, "gptq", one.weight, x, one.count),
        jobs.Task("w0", one.format, "gptq", one.weight, one.gram, 7),
        jobs.Task("w0", one.format, "gptq", one.weight, None),
    ]
    assert len({one.key, *(t.key for t in others)}) == 8
    assert one.key == tasks(1)[0].key


def test_columns_in_another_order(tmp_path: Path) -> None:
    order = rng(5).permutation(96).astype(np.int32)
    plain = tasks(1)[0]
    assert isinstance(plain.weight, np.ndarray) and isinstance(plain.gram, np.ndarray)
    gram = plain.gram[:, order][:, :, order]
    task = jobs.Task("w0", plain.format, "gptq", plain.weight[:, order], gram, plain.count, order)
    results = jobs.Results(tmp_path)
    jobs.run([task], results)
    encoded = results["w0"]
    assert encoded.format.permuted
    stored = jobs.Task("w0", plain.format, "gptq", plain.weight[:, order], gram, plain.count).solve()
    np.testing.assert_array_equal(encoded.format.decode(encoded)[:, order], stored.format.decode(stored))


@pytest.mark.parametrize("count", [1, 2])
def test_a_weight_that_cannot_be_encoded_is_named(tmp_path: Path, count: int) -> None:
    wanted = tasks(3)
    assert isinstance(wanted[1].weight, np.ndarray)
    wanted[1].weight[3, 4] = np.nan
    with pytest.raises(WeightError, match="weight 'w1' holds nan at row 3, column 4"):
        jobs.run(wanted, jobs.Results(tmp_path), count)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".npz"]


def test_values_beyond_the_range_of_a_format_have_no_result(tmp_path: Path) -> None:
    wanted, told = tasks(2), []
    assert isinstance(wanted[0].weight, np.ndarray)
    wanted[0].weight[0, 0] = 1e7
    results = jobs.Results(tmp_path)
    jobs.run(wanted, results, 1, lambda task: told.append(task.name))
    assert list(results) == ["w1"] and told == ["w0", "w1"] and "w0" not in results


def heavy() -> list[jobs.Task]:
    """Of about a tenth of a second each: long enough to be interrupted."""
    return tasks(8, cols=512, rows=256)


@pytest.fixture(scope="module", name="heavy_results")
def results_of_heavy_tasks() -> dict[str, Encoded]:
    return expected(heavy())


def killer(folder: Path, pids: Callable[[], list[int]], killed: list[int]) -> threading.Thread:
    """A thread that kills the first process once a result is there, and notes how many there were."""

    def kill() -> None:
        while not list(folder.glob("*.npz")):
            time.sleep(0.01)
        os.kill(pids()[0], signal.SIGKILL)
        killed.append(len(list(folder.glob("*.npz"))))

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.filterwarnings("ignore")
def test_a_process_that_dies_takes_only_its_own_weight_with_it(
    tmp_path: Path, heavy_results: dict[str, Encoded]
) -> None:
    wanted, results, killed = heavy(), jobs.Results(tmp_path), list[int]()
    thread = killer(tmp_path, processes, killed)
    jobs.run(wanted, results, 2)
    thread.join()
    assert killed and killed[0] < len(wanted)
    check(results, heavy_results)


def processes() -> list[int]:
    """Processes that joblib started: they are named so on their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            line = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == os.getpid() and "popen_loky" in line:
            found.append(int(folder.name))
    return found


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_of_two_workers_loses_one(tmp_path: Path, heavy_results: dict[str, Encoded]) -> None:
    distributed = pytest.importorskip("distributed")
    wanted, results, killed = heavy(), jobs.Results(tmp_path), list[int]()
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = list(client.run(os.getpid).values())
        assert len(pids) == 2 and os.getpid() not in pids
        thread = killer(tmp_path, lambda: pids, killed)
        with joblib.parallel_config(backend="dask"):
            jobs.run(wanted, results, 2)
        thread.join()
    assert killed and killed[0] < len(wanted)
    check(results, heavy_results)
