"""What scripts/bench_clients.py says of networks beside their twins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import graphs
import numpy as np
import pytest
from conftest import ROOT
from graphs import node

from onnxquant.clients import Support


@pytest.fixture(name="matrix")
def the_scripts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from client_matrix import files, networks, runner

    return SimpleNamespace(files=files, networks=networks, runner=runner)


def ran(speed: float = 1.0, load: float = 1.0, difference: float = 0.0) -> dict[str, Any]:
    return {"speed": [speed, speed - 0.01, speed + 0.01], "load": load, "difference": difference}


@pytest.mark.parametrize(
    ("result", "said", "cell", "fault"),
    [
        (ran(), Support.YES, "1.00, 1.00", ""),
        (ran(0.965, 1.09, 1e-6), Support.YES, "0.96, 1.09", ""),
        (ran(0.95), Support.SLOW, "**0.95**, 1.00", "0.950 of the twin's speed"),
        (ran(load=1.2), Support.YES, "1.00, **1.20**", "loads in 1.20 of the twin's time"),
        (ran(difference=0.5), Support.YES, "1.00, 1.00, **differs by 0.5**", "outputs differ by 0.5"),
        ({"error": "no op"}, Support.NO, "no", ""),
        ({"error": "no op"}, Support.YES, "no", "info says yes"),
        (ran(), Support.NO, "1.00, 1.00", "info says no"),
    ],
)
def test_networks_beside_their_twins(
    matrix: SimpleNamespace, result: dict[str, Any], said: Support, cell: str, fault: str
) -> None:
    file = matrix.files.File("net", "our operators", "net.onnx", (), "twin.onnx", is_twin=True)
    answers = {"client": {"version": "1", "results": {file.key: result}}}
    table, faults = matrix.networks.network_table([file], answers, {file.key: {"client": said}})
    assert table.splitlines() == ["| network | client |", "|---|---|", f"| net | {cell} |"]
    assert len(faults) == bool(fault) and fault in "".join(faults)


def test_outputs_of_twins_are_compared(matrix: SimpleNamespace, tmp_path: Any) -> None:
    paths = []
    for name, factor in (("a", 2.0), ("b", 2.5)):
        made = graphs.model(
            [node("Mul", ["x", "f"], ["y"])], {"x": ("float32", [3])}, {"y": "float32"}, {"f": np.float32(factor)}
        )
        paths.append(str(graphs.save(made, tmp_path / f"{name}.onnx")))
    feed = {"x": np.array([1, -4, 2], np.float32)}
    _, load = matrix.runner.with_onnxruntime("CPUExecutionProvider")
    assert matrix.runner.difference(load, *paths, feed) == 2.0
    assert matrix.runner.difference(load, paths[0], paths[0], feed) == 0.0
