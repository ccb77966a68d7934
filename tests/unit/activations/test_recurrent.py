"""LSTMs beside dynamic activations: when their weights are codes, and that the layer computes the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import Array, node
from onnxruntime.quantization import quantize_dynamic
from rounded import sqnr_db

import onnxquant
from onnxquant.activations import recurrent
from onnxquant.activations.candidates import CandidateRunner
from onnxquant.convert.ways import ways
from onnxquant.convert.work import PreparedModel, work_of
from onnxquant.graph.io import load
from onnxquant.numerics.score import Score
from onnxquant.recipe.values import Goal
from onnxquant.validation.latency import Interval

HIDDEN, INPUT, STEPS = 40, 24, 12
BY_RULE = {"rules": [{"role": "recurrent", "dynamic_activations": True}]}
X = graphs.rng(5).standard_normal((16, STEPS, 1, INPUT)).astype(np.float32)


def uniform(*shape: int, seed: int) -> Array:
    return graphs.rng(seed).uniform(-0.15, 0.15, shape).astype(np.float32)


def layer(op: str = "LSTM", directions: int = 2, **attributes: Any) -> onnx.ModelProto:
    """A recurrent layer that gives its last state alone."""
    gates = {"LSTM": 4, "GRU": 3}[op] * HIDDEN
    constants = {
        "w": uniform(directions, gates, INPUT, seed=1),
        "r": uniform(directions, gates, HIDDEN, seed=2),
        "b": uniform(directions, 2 * gates, seed=3),
    }
    attributes = {"hidden_size": HIDDEN, **({"direction": "bidirectional"} if directions == 2 else {}), **attributes}
    nodes = [node(op, ["x", "w", "r", "b"], ["", "y"], **attributes)]
    return graphs.model(nodes, {"x": ("float32", [STEPS, 1, INPUT])}, {"y": "float32"}, constants)


def quantized(proto: onnx.ModelProto, folder: Path, **options: Any) -> Path:
    graphs.save(proto, folder / "model.onnx")
    options = {"activations": "dynamic", "proof": False, **options}
    onnxquant.quantize(folder / "model.onnx", folder / "out.onnx", **options)
    return folder / "out.onnx"


def run(path: Path) -> Array:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, {"x": x})[0] for x in X])


def ops(path: Path) -> Counter[str]:
    return Counter(n.op_type for n in onnx.load(path).graph.node)


def loss(folder: Path) -> float:
    return sqnr_db(run(folder / "model.onnx"), run(folder / "out.onnx"))


@pytest.mark.parametrize("directions", [1, 2])
def test_no_sum_of_two_products_is_cut_off_in_a_layer_on_integers(directions: int, tmp_path: Path) -> None:
    path = quantized(layer(directions=directions), tmp_path, recipe=BY_RULE)
    assert ops(path) == Counter(["DynamicQuantizeLSTM"])
    assert loss(tmp_path) > 30, "20 dB where sums are cut off on a CPU without VNNI"
    codes = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name in ("w/codes", "r/codes"):
        pairs = codes[name].astype(int).reshape(directions, -1, 2, 4 * HIDDEN)
        assert max(np.maximum(sign * pairs, 0).sum(2).max() for sign in (1, -1)) * 255 < 1 << 15


def test_such_a_layer_becomes_a_float_one_again(tmp_path: Path) -> None:
    path = quantized(layer(layout=0), tmp_path, recipe=BY_RULE)
    assert onnxquant.dequantize(path, tmp_path / "float.onnx") == 2
    only = onnx.load(tmp_path / "float.onnx").graph.node[0]
    assert (only.domain, only.op_type, list(only.input[1:4])) == ("", "LSTM", ["w", "r", "b"])
    assert sqnr_db(run(tmp_path / "model.onnx"), run(tmp_path / "float.onnx")) > 35


def test_the_report_counts_a_layer_as_one_kernel_and_tells_of_both_weights(tmp_path: Path) -> None:
    path = quantized(layer(), tmp_path, recipe=BY_RULE)
    described = onnxquant.info(path)
    assert described.activations is not None and described.activations.integer_kernels == 1
    assert described.targets == ["dynamic_lstm"] and {t.name for t in described.tensors} == {"w", "r"}
    assert onnxquant.validate(tmp_path / "model.onnx", path).passed


@pytest.mark.parametrize(
    ("gain", "scores", "is_taken"),
    [(1.2, (40.0, 50.0), True), (1.0, (40.0, 50.0), False), (1.2, (20.0, 50.0), False), (1.2, (20.0, 20.5), True)],
)
def test_a_layer_is_taken_where_it_is_faster_and_loses_little(
    gain: float, scores: tuple[float, float], is_taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of the outputs with the layer on integers, and in float."""

    def score(self: CandidateRunner, plan: Any, *_: object) -> Score:
        value = scores[not plan.sites.multiplied]
        return Score(value, value)

    monkeypatch.setattr(recurrent, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(CandidateRunner, "speedup", lambda *_: Interval(gain, gain))
    monkeypatch.setattr(CandidateRunner, "score", score)
    path = quantized(layer(), tmp_path, data={"x": X})
    assert ops(path)["DynamicQuantizeLSTM"] == is_taken
    assert ops(path)["LSTM"] == (not is_taken)


def test_a_layer_that_another_tool_quantized_is_described_with_both_weights(tmp_path: Path) -> None:
    quantize_dynamic(graphs.save(layer(), tmp_path / "model.onnx"), tmp_path / "out.onnx", per_channel=True)
    described = onnxquant.info(tmp_path / "out.onnx")
    assert sorted(t.shape for t in described.tensors) == [[2, INPUT, 4 * HIDDEN], [2, HIDDEN, 4 * HIDDEN]]


def test_dynamic_activations_are_among_the_ways_of_a_layer_with_an_operator_on_integers() -> None:
    models = {op: PreparedModel.of(load(layer(op))) for op in ("LSTM", "GRU")}
    names = {op: [way.name for way in ways(model, work_of(model), Goal.FAST)] for op, model in models.items()}
    assert "dynamic int8" in names["LSTM"] and "dynamic int8" not in names["GRU"]


REFUSED: dict[str, tuple[onnx.ModelProto, dict[str, Any]]] = {
    "a GRU": (layer("GRU"), {}),
    "one weight in float": (layer(), {"recipe": {"rules": [{"include": ["^r$"], "keep": True}, *BY_RULE["rules"]]}}),
    "a rule for one weight": (layer(), {"recipe": {"rules": [{**BY_RULE["rules"][0], "include": ["^w$"]}]}}),
    "a client without the operator": (layer(), {"clients": ("openvino",)}),
    "a scale for the whole tensor": (layer(), {"recipe": {"rules": [{**BY_RULE["rules"][0], "per_channel": False}]}}),
    "no samples and no rule": (layer(), {"recipe": None}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_layers_are_decoded_when_a_session_is_created(case: str, tmp_path: Path) -> None:
    proto, options = REFUSED[case]
    path = quantized(proto, tmp_path, **{"recipe": BY_RULE, **options})
    assert "DynamicQuantizeLSTM" not in ops(path)
    assert loss(tmp_path) > 30


def test_the_recipe_of_such_a_file_makes_it_again_without_measuring(tmp_path: Path) -> None:
    path = quantized(layer(), tmp_path, recipe=BY_RULE, save_recipe=str(tmp_path / "recipe.toml"))
    onnxquant.quantize(tmp_path / "model.onnx", tmp_path / "again.onnx", recipe=tmp_path / "recipe.toml", proof=False)
    planes = [{t.name: t.raw_data for t in onnx.load(p).graph.initializer} for p in (path, tmp_path / "again.onnx")]
    assert planes[0] == planes[1] and ops(tmp_path / "again.onnx") == ops(path)
