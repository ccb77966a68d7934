"""GatherND that takes rows of a weight, as torch exports an indexed tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import model, weight
from onnx import helper

import onnxquant
from onnxquant.passes.prepare.rows import GatherRows


def table(
    indices: list[Any], shape: tuple[int, ...] = (64, 48), *, numbers: int = 1, opset: int = 17, **attributes: int
) -> onnx.ModelProto:
    nodes = [helper.make_node("GatherND", ["w", "i"], ["y"], name="rows", **attributes)]
    inputs: dict[str, Any] = {"i": ("int64", [*indices, numbers])}
    return model(nodes, inputs, {"y": "float32"}, {"w": weight(*shape)}, opset=opset)


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("shape", [(64, 48), (8, 24, 32)])
@pytest.mark.parametrize("indices", [["n"], ["b", "s"], []])
def test_rows_are_gathered(indices: list[Any], shape: tuple[int, ...], opset: int) -> None:
    feed = np.random.default_rng(2).integers(-shape[0], shape[0], (*range(2, 2 + len(indices)), 1))
    document, note = agreement.check(table(indices, shape, opset=opset), GatherRows(), {"i": feed}, within=0)
    assert note == "1 GatherND take rows by Gather" and agreement.ops(document) == {"Squeeze": 1, "Gather": 1}


def test_other_lookups_stay() -> None:
    entries = table(["n"], numbers=2), np.array([[5, 7], [63, 0]])
    by_batch = table([64], batch_dims=1), np.arange(64)[:, None] % 48
    for proto, indices in (entries, by_batch):
        _, note = agreement.check(proto, GatherRows(), {"i": indices}, within=0)
        assert note is None


def test_a_table_that_is_indexed_is_stored_in_blocks(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "axis"], ["i"]),
        helper.make_node("GatherND", ["w", "i"], ["y"], name="rows"),
    ]
    constants: dict[str, Any] = {"w": weight(512, 64), "axis": np.array([-1])}
    proto = model(nodes, {"ids": ("int64", ["b", "s"])}, {"y": "float32"}, constants)
    data = [{"ids": np.random.default_rng(i).integers(0, 512, (2, 7))} for i in range(4)]
    report = onnxquant.quantize(proto, tmp_path / "q.onnx", bits=4, data=data)
    assert report.passed and [site.decision.name for site in report.encoded] == ["w"]
    assert (tmp_path / "q.onnx").stat().st_size < 512 * 64 * 4 / 6
    assert "GatherND" not in {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
