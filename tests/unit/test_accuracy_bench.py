"""The accuracy benchmark's own arithmetic, against values made by hand or by the definition written out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import graphs
import numpy as np
import onnx
import pytest
from conftest import ROOT


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from accuracy_bench import metrics, report, size, variants

    return SimpleNamespace(metrics=metrics, report=report, size=size, variants=variants)


def test_log_likelihoods_are_of_the_softmax(bench):
    logits = np.log(np.array([[1, 2, 5], [4, 4, 2]], np.float32)) + np.array([[90], [-300]], np.float32)
    found = bench.metrics.log_likelihoods(logits, np.array([2, 0]))
    np.testing.assert_allclose(found, np.log([5 / 8, 4 / 10]), atol=1e-5)
    assert bench.metrics.perplexity(np.log([1 / 2, 1 / 8])) == pytest.approx(4)


def test_equal_values_share_the_mean_of_their_ranks(bench):
    assert bench.metrics.ranks(np.array([3.0, 1.0, 3.0, 9.0, 3.0])).tolist() == [3, 1, 3, 5, 3]


def test_spearman_by_hand(bench):
    # Without ties 1 - 6 sum d^2 / (n (n^2 - 1)), with d = 0, 1, -1, 1, -1: 1 - 24 / 120.
    assert bench.metrics.spearman(np.array([1, 2, 3, 4, 5.0]), np.array([2, 9, 4, 80, 12.0])) == pytest.approx(0.8)
    # Ranks 1.5 1.5 3 4 and 1 2 3 4: covariance 4.5, variances 4.5 and 5.
    tied = bench.metrics.spearman(np.array([0, 0, 1, 2.0]), np.array([1, 2, 3, 4.0]))
    assert tied == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert bench.metrics.spearman(np.array([1, 2, 3.0]), np.array([-1, -8, -27.0])) == pytest.approx(-1)


def test_cosines_are_of_rows(bench):
    first, second = np.array([[3, 4], [1, 0]], np.float32), np.array([[4, 3], [0, 2]], np.float32)
    np.testing.assert_allclose(bench.metrics.cosines(first, second), [24 / 25, 0])


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("same", "same", 0)],
)
def test_edit_distance(bench, first, second, distance):
    assert bench.metrics.edit_distance(first, second) == bench.metrics.edit_distance(second, first) == distance


@pytest.mark.parametrize(
    ("steps", "text"),
    [([0, 1, 1, 0, 1, 2], "aab"), ([0, 0], ""), ([2, 2, 2], "b"), ([1, 2, 1, 3, 0, 3], "aba  ")],
)
def test_ctc_merges_repeats_before_it_drops_blanks(bench, steps, text):
    probabilities = np.full((len(steps), 4), 0.1)
    probabilities[np.arange(len(steps)), steps] = 0.7
    assert bench.metrics.greedy_text(probabilities, ["a", "b", " "]) == text


def test_every_constant_counts_in_bits_per_weight(bench, tmp_path):
    weights = {"w": graphs.weight(64, 32), "bias": graphs.weight(32)}
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), onnx.helper.make_node("Add", ["y", "bias"], ["z"])]
    model = graphs.model(nodes, {"x": (np.float32, ["n", 64])}, {"z": np.float32}, weights)
    original, converted = tmp_path / "float.onnx", tmp_path / "int4.onnx"
    onnx.save(model, original)
    assert bench.size.bits_per_weight(original, original) == 32
    codes = onnx.helper.make_tensor("codes", onnx.TensorProto.INT4, (64, 32), bytes(64 * 32 // 2), raw=True)
    scales = onnx.numpy_helper.from_array(np.ones(32, np.float16), "scales")
    decode = onnx.helper.make_node("DequantizeLinear", ["codes", "scales"], ["half"], axis=1)
    nodes = [decode, onnx.helper.make_node("Cast", ["half"], ["w"], to=onnx.TensorProto.FLOAT), *nodes]
    made = graphs.model(nodes, {"x": (np.float32, ["n", 64])}, {"z": np.float32}, {"bias": weights["bias"]}, opset=21)
    made.graph.initializer.extend([codes, scales])
    onnx.save(made, converted)
    # Half a byte per code, 32 scales of two bytes, 32 biases of four.
    expected = 8 * (64 * 32 / 2 + 32 * 2 + 32 * 4) / (64 * 32 + 32)
    assert bench.size.bits_per_weight(original, converted) == pytest.approx(expected)
    model.metadata_props.add(key=bench.size.SAVED, value=str(3 * 64 * 32))
    onnx.save(model, converted)
    assert bench.size.bits_per_weight(original, converted) == pytest.approx((8 * 64 * 32 + 32 * 32) / (64 * 32 + 32))


def test_formats_of_the_command_line(bench):
    found = list(bench.variants.ours(["int4,block_size=32,symmetric=false", "int8"], ["rtn", "gptq"]))
    assert [v.name for v in found] == [
        *("int4 block_size=32 symmetric=false rtn", "int4 block_size=32 symmetric=false gptq"),
        *("int8 rtn", "int8 gptq"),
    ]
    options = {"format": "int4", "block_size": 32, "symmetric": False, "solver": "gptq", "proof": False}
    assert found[1].options == options and found[1].ours


def test_tables_name_what_decides_and_survive_json(bench):
    made = bench.report.Row(
        "m", "ours", ours=True, bits_per_weight=4.5, seconds=2.0, scores={"a": 0.5, "main": math.inf}
    )
    worse = bench.report.Row("m", "other", bits_per_weight=8.5, scores={"a": 0.25, "main": 3.0})
    refused = bench.report.Row("m", "odd", error="RecipeError: solver gptq needs more")
    table = bench.report.Table("here", [refused, made, worse], {"m": "about"}, {"m": ("main", False)})
    again = bench.report.from_json(bench.report.as_json(table), "here")
    assert bench.report.markdown(again) == bench.report.markdown(table)
    assert again.rows[1] == made and again.has("m", "odd") and not again.has("n", "odd")
    lines = bench.report.markdown(table).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| tool"))
    assert lines[head].startswith("| tool | bits per weight | main ↓ | a |")
    assert [line.split("|")[1].strip() for line in lines[head + 2 :]] == ["other", "ours", "odd"]
    assert lines[-1].endswith("| *refused* |") and lines[-1].count("|") == lines[head].count("|")
    with pytest.raises(ValueError, match="measured on"):
        bench.report.from_json(bench.report.as_json(table), "there")
