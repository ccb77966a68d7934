"""What scripts/check_compatibility.py concludes from results, on some made by hand."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import graphs
import onnx
import pytest
from conftest import ROOT

import onnxquant
from onnxquant.runtime import optimized_graph


@pytest.fixture
def compatibility(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from compatibility import files, tables

    return SimpleNamespace(files=files, tables=tables)


def case(compatibility, model="product", library=False):
    about = {"name": "x", "type": "float32", "shape": [1]}
    return compatibility.files.Case(model, "q4_0 custom", Path("q"), Path("f"), Path("x"), about, library)


def ran(sqnr=20.0, ratio=0.5, kernels="MatMulNBits"):
    return {"sqnr": sqnr, "ratio": ratio, "kernels": kernels}


@pytest.mark.parametrize(
    ("old", "needs", "fault"),
    [
        (ran(), "1.23", None),
        (ran(sqnr=15.0), "1.23", None),
        (ran(sqnr=13.0), "1.23", "13.0 dB on 1.23.2, 20.0 dB on 1.31.1"),
        ({"error": "unknown op"}, "1.24", None),
        ({"error": "unknown op"}, "1.23", "on 1.23.2: info says >= 1.23; {'error': 'unknown op'}"),
        (ran(), "1.24", "on 1.23.2: info says >= 1.24; "),
    ],
)
def test_releases_that_contradict_info_or_the_newest(compatibility, old, needs, fault):
    one = case(compatibility)
    results = {"1.23.2": {one.key: old}, "1.31.1": {one.key: ran()}}
    found = compatibility.tables.faults([one], results, {one.key: needs})
    assert (found == []) if fault is None else (len(found) == 1 and fault in found[0])


def test_cases_name_targets_of_weights_alone(compatibility, tmp_path):
    first = [case.name for case in islice(compatibility.files.cases(tmp_path), 3)]
    assert first == ["bf16 auto", "bf16 custom", "bf16 onnx"]


def test_a_table_has_a_row_per_case_and_the_reasons_below(compatibility):
    both = [case(compatibility), case(compatibility, library=True)]
    where = "Load model from /tmp/x1/q.onnx failed:Node (w) Op (GatherInt2) [ShapeInferenceError] Inference error(s): "
    error = {"error": where + "(op_type:GatherBlockQuantized): [ShapeInferenceError] shapes do not match"}
    results = {"1.23.2": {c.key: error for c in both}, "1.31.1": {c.key: ran(ratio=0.126) for c in both}}
    text = compatibility.tables.tables(both, results, {c.key: "1.24" for c in both})
    assert text.splitlines()[2:] == [
        "| format, target | 1.23.2 | 1.31.1 | `info` says |",
        "|---|---|---|---|",
        "| q4_0 custom | no (1) | MatMulNBits, 0.13 | >= 1.24 |",
        "| q4_0 custom, our library | no (1) | MatMulNBits, 0.13 | >= 1.24 |",
        "",
        "(1) `shapes do not match`",
    ]


@pytest.mark.parametrize(
    ("model", "options", "library", "expected"),
    [
        (graphs.matmul(256, 128), {"format": "q4_0", "target": "custom"}, False, "MatMulNBits"),
        (graphs.matmul(256, 128), {"format": "q4_0", "target": "custom"}, True, "MatMulQ4_0"),
        (graphs.matmul(256, 128), {"format": "q5_0", "target": "custom"}, False, "float"),
        (graphs.gather(128, 256), {"format": "int4", "target": "onnx"}, False, "per call"),
    ],
)
def test_kernels_are_named_by_the_graph_that_ran(compatibility, model, options, library, expected, tmp_path):
    source = graphs.save(model, tmp_path / "float.onnx")
    onnxquant.quantize(source, tmp_path / "q.onnx", proof=False, **options)
    onnx.save(optimized_graph(tmp_path / "q.onnx", library=library), tmp_path / "ran.onnx")
    assert compatibility.tables.kernels(tmp_path / "ran.onnx", single=True) == expected
