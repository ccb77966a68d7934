"""The comparison's own arithmetic: intervals, verdicts, answers, what counts as quantized."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from conftest import ROOT
from onnx import TensorProto, helper


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from peer_bench import measure, preprocess, report

    return SimpleNamespace(measure=measure, preprocess=preprocess, report=report)


def binomial_tail(hits, count, share):
    """P(at least ``hits`` of ``count``)."""
    return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(hits, count + 1))


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (450, 512), (512, 512), (1, 3)])
def test_wilson_is_where_the_score_test_turns(bench, hits, count):
    low, high = bench.measure.wilson(hits, count)
    assert 0 <= low <= hits / count <= high + 1e-12 <= 1 + 1e-12
    for bound in (low, high):
        if 1e-9 < bound < 1 - 1e-9:  # |share - bound| is 1.96 standard deviations of the bound itself
            z = abs(hits / count - bound) / math.sqrt(bound * (1 - bound) / count)
            assert z == pytest.approx(1.959964, rel=1e-6)
    if hits == 450:  # and near the exact test
        assert binomial_tail(hits, count, low) == pytest.approx(0.025, abs=0.01)


def made(bench, tool, db, same, ms, ours=False):
    return bench.report.Row("m", tool, ours=ours, sqnr_db=db, samples=100, same=same, rounds={1: [ms, ms * 2, ms]})


def test_verdicts_name_the_best_and_the_fastest(bench):
    rows = [made(bench, "float", math.inf, None, 9.0), made(bench, "ours", 20.0, 95, 4.0, True)]
    rows += [made(bench, "a", 18.0, 96, 8.0), made(bench, "b", 12.0, 80, 3.0), bench.report.Row("m", "c", error="no")]
    table = bench.report.Table("here", ("m",), rows, {"m": "made"})
    found = {v["what"]: v for v in bench.report.verdicts(table)}
    assert found["SQNR >= best peer's"]["holds"] and "a 18.0" in found["SQNR >= best peer's"]["figures"]
    assert not found["3 dB better (depthwise)"]["holds"]
    assert not found["same answers >= best peer's"]["holds"]
    assert found["same answers not below its interval"]["holds"]
    assert (
        not found["as fast as any peer, threads: 1"]["holds"]
        and "b" in found["as fast as any peer, threads: 1"]["figures"]
    )
    assert found["faster than float, threads: 1"]["figures"] == "2.25x"
    again = bench.report.from_json(bench.report.as_json(table), "here", ("m",))
    assert bench.report.verdicts(again) == bench.report.verdicts(table)
    assert "NaN" not in json.dumps(json.loads(bench.report.as_json(table)))
    assert "| m | c | *no* |" in bench.report.markdown(table)
    with pytest.raises(ValueError, match="measured on 'here'"):
        bench.report.from_json(bench.report.as_json(table), "there", ())


def test_a_recogniser_reads_repeats_once_and_blanks_not(bench):
    scores = np.eye(4)[[0, 1, 1, 0, 1, 3, 3, 0]][None]
    assert bench.measure.read_text({"y": scores}) == (1, 1, 3)


def test_only_files_with_codes_count_as_quantized(bench, tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])

    def saved(nodes, name):
        inner = helper.make_graph(nodes, "inner", [], [out])
        choice = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
        result = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])
        condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
        graph = helper.make_graph([choice], "g", [value, condition], [result])
        onnx.save(helper.make_model(graph), tmp_path / name)
        return tmp_path / name

    assert not bench.measure.integers(saved([helper.make_node("Relu", ["x"], ["y"])], "float.onnx"))
    assert bench.measure.integers(saved([helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "", ""])], "int.onnx"))


def test_preparing_for_other_tools_leaves_nothing_in_the_current_folder(bench, tmp_path, monkeypatch):
    """onnxruntime writes what it knows of the shapes to the current folder where it does not know them all."""
    nodes = [helper.make_node("Unknown", ["x"], ["y"], domain="elsewhere"), helper.make_node("Relu", ["y"], ["z"])]
    x, z = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 4]), ("z", None))
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [z]), opset_imports=opsets, ir_version=8)
    current, files = tmp_path / "current", tmp_path / "files"
    current.mkdir(), files.mkdir()
    onnx.save(model, files / "model.onnx")
    monkeypatch.chdir(current)
    with pytest.raises(Exception, match="symbolic shape inference"):  # another one without sympy
        bench.preprocess.preprocess(files / "model.onnx", files / "prepared.onnx")
    assert not list(current.iterdir())
