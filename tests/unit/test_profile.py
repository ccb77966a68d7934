"""Profiles: the time by operator and by node, and what did not become integer."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import refused, run
from decoders import Weights, save_genai, shared_cache
from graphs import node, weight

import onnxquant
from onnxquant import language
from onnxquant.cli.profiles import show_profiles
from onnxquant.errors import RecipeError
from onnxquant.inspect import profile as rounds
from onnxquant.inspect.not_integer import FloatWork
from onnxquant.inspect.operator_times import ModelProfile, TimedRuns, operator_times
from onnxquant.runtime.trace import Call, Run, events_of, runs_of

WORDS = "größe 名"


def network() -> onnx.ModelProto:
    """Three convolutions, of which one has another activation than onnxruntime rounds in codes, and a product."""
    made, name = [], "x"
    for place in range(3):
        convolution = node("Conv", [name, f"w{place}"], [f"c{place}"], name=f"{WORDS} {place}", pads=[1, 1, 1, 1])
        made += [convolution, node("Erf", [f"c{place}"], [f"r{place}"], name=f"erf{place}")]
        name = f"r{place}"
    made += [node("GlobalAveragePool", [name], ["pooled"]), node("Flatten", ["pooled"], ["flat"])]
    made += [node("MatMul", ["flat", "m"], ["y"])]
    constants = {f"w{place}": weight(32, 32 if place else 3, 3, 3, seed=place) * 4 for place in range(3)}
    constants["m"] = weight(32, 16, seed=7)
    return graphs.model(made, {"x": ("float32", ["batch", 3, 16, 16])}, {"y": "float32"}, constants, opset=17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model, files of it with static and dynamic activations and with 4-bit weights, and samples."""
    root = tmp_path_factory.mktemp("profile")
    source = graphs.save(network(), root / "model.onnx")
    data = {"x": graphs.rng().standard_normal((8, 1, 3, 16, 16)).astype(np.float32)}
    np.savez(root / "feeds.npz", x=data["x"])
    options: dict[str, Any] = {"smooth": False, "equalize": False, "rebase": False, "calibration_method": "minmax"}
    options |= {"solver": "rtn", "bias_correction": False, "data": data, "samples": 4, "proof": False}
    for name, more in (("static", {"exclude": ["^w1$"]}), ("stock", {"target": "onnx"})):
        onnxquant.quantize(source, root / f"{name}.onnx", activations="static", **options, **more)
    onnxquant.quantize(source, root / "dynamic.onnx", activations="dynamic", proof=False)
    onnxquant.quantize(source, root / "int4.onnx", bits=4, proof=False)
    return root


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_MOST", 5)


@cache
def profile(path: Path) -> ModelProfile:
    (one,) = onnxquant.profile(path)
    return one


def counts(path: Path) -> Counter[str]:
    """Nodes by operator of the graph that onnxruntime says it runs."""
    with tempfile.TemporaryDirectory() as place:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = f"{place}/optimized.onnx"
        options.register_custom_ops_library(str(onnxquant.library_path()))
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
        names = [f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes]
        return Counter(re.sub(r"(DynamicProducts)\d+", r"\1", name) for name in names)


@pytest.mark.parametrize("name", ["model", "static", "stock", "dynamic", "int4"])
def test_calls_are_the_nodes_that_onnxruntime_runs(folder: Path, name: str) -> None:
    one = profile(folder / f"{name}.onnx")
    assert {time.operator: time.calls for time in one.operators} == counts(folder / f"{name}.onnx")
    assert sum(time.nodes for time in one.operators) == len(one.nodes)
    assert sum(time.seconds for time in one.operators) == pytest.approx(one.operator_seconds)
    assert sum(entry.share for entry in one.nodes) == pytest.approx(1)
    assert [entry.seconds for entry in one.nodes] == sorted((entry.seconds for entry in one.nodes), reverse=True)


def test_nodes_have_the_names_of_the_file_and_shapes(folder: Path) -> None:
    convolutions = [entry for entry in profile(folder / "model.onnx").nodes if entry.operator.endswith("Conv")]
    assert {entry.origin for entry in convolutions} == {f"{WORDS} {place}" for place in range(3)}
    assert {entry.inputs[0] for entry in convolutions} == {"float [1, 3, 16, 16]", "float [1, 32, 16, 16]"}


def test_a_float_file_and_one_of_weights_alone_say_nothing_of_integers(folder: Path) -> None:
    assert profile(folder / "model.onnx").not_integer is None
    assert profile(folder / "int4.onnx").not_integer is None
    assert "not integer" not in run("benchmark", folder / "model.onnx", "--per-op").stdout


def test_kernels_in_float_are_told_with_the_reason_that_the_file_records(folder: Path) -> None:
    floats = profile(folder / "static.onnx").not_integer
    assert floats is not None
    products = [part for part in floats.parts if part.work is FloatWork.PRODUCT]
    # onnxruntime names a convolution in its own layout after the tensor that it gives.
    assert [(part.operator.split(".")[-1], part.nodes) for part in products] == [("Conv", (f"{WORDS} 1",))] or [
        part.nodes for part in products
    ] == [("c1_nchwc",)]
    assert sum(floats.reasons.values()) >= 1
    assert floats.share == pytest.approx(sum(part.share for part in floats.parts))


def test_operators_between_codes_are_told_with_what_would_help(folder: Path) -> None:
    floats = profile(folder / "stock.onnx").not_integer
    assert floats is not None
    nodes = {name for part in floats.parts for name in part.nodes if part.work is FloatWork.BETWEEN}
    assert {"erf0", "erf1"} <= nodes
    assert any("MapCodes" in remedy for remedy in floats.remedies)
    assert not any(part.work is FloatWork.PRODUCT for part in floats.parts)
    assert {part.operator for part in floats.parts if part.work is FloatWork.ROUNDING} == {
        "QuantizeLinear", "DequantizeLinear",
    }  # fmt: skip


def test_ranges_that_are_taken_on_every_call_are_told_with_what_would_help(folder: Path) -> None:
    floats = profile(folder / "dynamic.onnx").not_integer
    assert floats is not None
    assert any("--activations static" in remedy for remedy in floats.remedies)


def test_weights_that_are_decoded_on_every_call_are_told(tmp_path: Path) -> None:
    nodes = [node("DequantizeLinear", ["codes", "scale"], ["w"], name="decode"), node("Conv", ["x", "w"], ["y"])]
    constants = {"codes": graphs.rng().integers(-127, 127, (32, 32, 3, 3)).astype(np.int8), "scale": np.float32(0.1)}
    path = graphs.save(
        graphs.model(nodes, {"x": ("float32", [1, 32, 8, 8])}, {"y": "float32"}, constants), tmp_path / "m.onnx"
    )
    floats = profile(path).not_integer
    assert floats is not None
    assert [(part.work, part.nodes) for part in floats.parts] == [(FloatWork.DECODING, ("decode",))]
    assert any("decodes weights" in remedy for remedy in floats.remedies)


def nested() -> onnx.ModelProto:
    """A Loop of three iterations, an If, and nodes of one name in the graphs inside."""
    info = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            node("Identity", ["condition"], ["go"]),
            node("Sin", ["state"], ["turned"], name="twin"),
            node("Mul", ["turned", "turned"], ["next"]),
        ],
        "body",
        [
            info("count", onnx.TensorProto.INT64, []),
            info("condition", onnx.TensorProto.BOOL, []),
            info("state", 1, None),
        ],
        [info("go", onnx.TensorProto.BOOL, []), info("next", 1, None)],
    )
    branches = [
        onnx.helper.make_graph([node(op, ["looped"], [op], name="twin")], op, [], [info(op, 1, None)])
        for op in ("Cos", "Sin")
    ]
    main = [
        node("Loop", ["trips", "", "x"], ["looped"], body=body),
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["is_large"]),
        node("If", ["is_large"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    constants = {"trips": np.array(3), "zero": np.float32(1e9)}
    return graphs.model(main, {"x": ("float32", [8, 8])}, {"y": "float32"}, constants)


def test_nodes_of_nested_graphs_are_counted_where_they_ran(tmp_path: Path) -> None:
    one = profile(graphs.save(nested(), tmp_path / "m.onnx"))
    calls = {time.operator: time.calls for time in one.operators}
    assert (calls["Sin"], calls["Mul"], calls["Loop"], calls["If"]) == (4, 3, 1, 1)
    assert "Cos" not in calls, "the other branch did not run"
    twins = sorted(entry.calls for entry in one.nodes if entry.name == "twin")
    assert twins == [1, 3], "nodes of one name are not one node"


def event(name: str, op: str, begin: int, microseconds: int) -> dict[str, Any]:
    arguments = {"op_name": op, "input_type_shape": [{"float": [2]}], "output_type_shape": [{"float": [2]}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": begin, "dur": microseconds, "args": arguments}


def test_the_time_of_nodes_inside_is_not_that_of_the_node_around_them() -> None:
    model = nested()
    graph = model.graph
    whole = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 1000, "args": {}}
    inside = [event("Identity_0", "Identity", 10 + 100 * i, 5) for i in range(3)]
    inside += [event("twin", "Sin", 20 + 100 * i, 50) for i in range(3)]
    inside += [event("Mul_2", "Mul", 80 + 100 * i, 10) for i in range(3)]
    outer = [event("Loop_0", "Loop", 5, 400), event("ReduceSum_1", "ReduceSum", 500, 7)]
    outer += [event("Greater_2", "Greater", 600, 8), event("If_3", "If", 700, 100)]
    (one,) = runs_of([whole, *outer, event("twin", "Sin", 710, 60), *inside], graph)
    seconds = {(call.name, call.op): 1e6 * call.seconds for call in one.calls if call.op != "Sin"}
    assert seconds["Loop_0", "Loop"] == pytest.approx(400 - 3 * 65)
    assert seconds["If_3", "If"] == pytest.approx(40)
    assert 1e6 * sum(call.seconds for call in one.calls) == pytest.approx(400 + 7 + 8 + 100)
    assert all(call.node is not None and call.node.op_type == call.op for call in one.calls)
    times = operator_times(model, model, TimedRuns([6e-4] * 3, [1e-3] * 3, [one] * 3), 1)
    assert {time.operator: round(1e6 * time.seconds) for time in times.operators} == {
        "Sin": 210, "Loop": 205, "If": 40, "Mul": 30, "Identity": 15, "Greater": 8, "ReduceSum": 7,
    }  # fmt: skip
    assert times.outside_seconds == pytest.approx(6e-4 - 5.15e-4)
    assert times.operator_seconds == pytest.approx(5.15e-4)


def several_networks() -> onnx.ModelProto:
    """A model with two bodies of our operator, of which one has two calls."""
    names = ("IntegerNetwork1", "IntegerNetwork2", "IntegerNetwork1")
    made = [node(name, [f"x{i}"], [f"x{i + 1}"], name=f"part{i}", domain="onnxquant") for i, name in enumerate(names)]
    return graphs.model(made, {"x0": ("float32", [1])}, {"x3": "float32"}, {})


def profile_of_networks(plain: float) -> ModelProfile:
    """A profile of three calls of 100 us, of a model whose run takes some seconds without the profiler."""
    model = several_networks()
    calls = [Call(n.name, n.op_type, 1e-4, (), (), model.graph, n) for n in model.graph.node]
    runs = TimedRuns([plain] * 5, [5e-4] * 5, [Run(5e-4, tuple(calls))] * 5)
    return operator_times(model, model, runs, 1)


def test_bodies_of_our_operator_are_one_operator() -> None:
    (one,) = profile_of_networks(4e-4).operators
    assert (one.operator, one.nodes, one.calls) == ("onnxquant.IntegerNetwork", 3, 3)
    assert onnxquant.runtime.histogram(several_networks()) == {"onnxquant.IntegerNetwork": 3}


def test_what_the_profiler_adds_is_told_where_it_is_large(capsys: pytest.CaptureFixture[str]) -> None:
    show_profiles([profile_of_networks(2e-4)], ["model.onnx"], verbose=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "profiler: operators take 1.50 times as long as a run without it, some 33.3 us too much in each of 3 calls" in told
    show_profiles([profile_of_networks(2.6e-4)], ["model.onnx"], verbose=False)
    assert "profiler: " not in capsys.readouterr().out


def test_runs_that_others_disturbed_do_not_count() -> None:
    def one(seconds: float) -> Run:
        return Run(seconds, (Call("a", "Add", seconds, (), ()),))

    def times(disturbed: int, steady: int, threads: int) -> ModelProfile:
        runs = [one(9e-3)] * disturbed + [one(place * 1e-3) for place in range(1, steady + 1)]
        watched = [1e-3] * disturbed + [place * 1e-3 for place in range(1, steady + 1)]
        return operator_times(nested(), nested(), TimedRuns(watched, watched, runs), threads)

    quiet = times(20, 5, 1)
    assert (quiet.runs, quiet.steady_runs, quiet.is_disturbed, quiet.operators[0].seconds) == (25, 5, False, 3e-3)
    assert times(20, 5, 2).operators[0].seconds == 9e-3, "with threads the processor works longer than a run takes"
    busy = times(9, 4, 1)
    assert (busy.steady_runs, busy.is_disturbed, busy.operators[0].seconds) == (4, True, 4e-3)


def test_names_are_read_as_older_releases_write_them() -> None:
    name = 'a"b\\c\n ' + WORDS
    event = '{"cat" : "Node","dur" :7,"ts" :3,"ph" : "X","name" :"NAME_kernel_time","args" : {"op_name" : "Relu"}}'
    (read,) = events_of(f"[\n{event.replace('NAME', name)}\n]\n")
    assert read["name"] == f"{name}_kernel_time" and read["args"] == {"op_name": "Relu"}


def test_two_files_stand_side_by_side_in_80_columns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    files = (folder / "model.onnx", folder / "static.onnx")
    result = run("benchmark", *files, "--per-op", "--data", folder / "feeds.npz")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "Time by operator: A model.onnx, B static.onnx"
    assert lines[1].split() == ["operator", "calls", "A", "ms", "A", "%", "B", "ms", "B", "%", "B", "-", "A"]
    assert any(line.startswith("one run without the profiler") for line in lines)
    assert any(line.startswith("microsoft.QLinearConv") and "-/" in line for line in lines)
    assert any(line.startswith("B not integer: ") for line in lines) and "A not integer" not in result.stdout
    assert list(tmp_path.iterdir()) == [], "a trace stays behind"


def test_machines_get_the_same(folder: Path) -> None:
    result = run("benchmark", folder / "static.onnx", "--per-op", "--json")
    (data,) = json.loads(result.stdout)
    assert {time["operator"]: time["calls"] for time in data["operators"]} == counts(folder / "static.onnx")
    assert data["not_integer"]["parts"][0].keys() == {"work", "operator", "nodes", "seconds", "share"}
    assert data["threads"] == 1 and data["runs"] >= data["steady_runs"] >= 0


def test_options_without_effect_are_refused(folder: Path) -> None:
    model = folder / "model.onnx"
    refused(run("benchmark", model, model, model, "--per-op"), "--per-op takes one model, or two", "found 3")
    refused(run("benchmark", model, "-v"), "-v has no effect without --per-op")
    refused(run("benchmark", model, "--per-op", "--rounds", 3), "--rounds has no effect on files")
    with pytest.raises(RecipeError, match="profile takes at least one model"):
        onnxquant.profile()
    with pytest.raises(RecipeError, match="profile takes at least one decoder folder"):
        language.profile()


def test_decoders_have_a_profile_of_the_prompt_and_of_a_token(tmp_path: Path) -> None:
    decoder = save_genai(tmp_path / "decoder", shared_cache(Weights.draw()))
    (one,) = language.profile(decoder, prompt=8, generate=4, rounds=3)
    assert (one.prompt.runs, one.token.runs) == (3, 9)
    expected = counts(decoder / "model.onnx")
    for part in (one.prompt, one.token):
        assert {time.operator: time.calls for time in part.operators} == expected
    shapes = [
        next(entry for entry in part.nodes if entry.operator == "com.microsoft.GroupQueryAttention").inputs[0]
        for part in (one.prompt, one.token)
    ]
    assert shapes == ["float [1, 8, 64]", "float [1, 1, 64]"]
    options = ("--per-op", "--prompt", 8, "--generate", 3, "--rounds", 2)
    shown = run("benchmark", decoder, decoder, *options).stdout
    assert "Time of a prompt of 8 tokens by operator" in shown and "Time of one token after 8" in shown
    (read,) = json.loads(run("benchmark", decoder, *options, "--json").stdout)
    assert read["token"]["runs"] == 4
    refused(run("benchmark", decoder, "--per-op", "--generate", 1), "generate is 1, expected at least 2")
    refused(run("benchmark", decoder, "--per-op", "--seed", 1), "--seed has no effect on decoder folders")
