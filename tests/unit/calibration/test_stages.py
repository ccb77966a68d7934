"""Models that run stage by stage: the tensors are those of the whole model, and a stopped run goes on where it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import rounded
from graphs import node, weight

import onnxquant
from onnxquant import runtime
from onnxquant.calibration import gram_matrices
from onnxquant.calibration.feeds import Input, open_feeds
from onnxquant.calibration.stages import StagedModel
from onnxquant.convert import solve_weights
from onnxquant.graph.io import load
from onnxquant.solvers import jobs

WIDTH, LAYERS = 64, 5
SAMPLES = [{"x": graphs.rng(s).standard_normal((1, 3 + s, WIDTH)).astype(np.float32)} for s in range(8)]


def residual() -> onnx.ModelProto:
    """Layers on a residual; one reads the size of the input, and one a flag and the residual within a branch."""
    made = [node("Shape", ["x"], ["size"]), node("ReduceMax", ["x"], ["most"], keepdims=0)]
    made.append(node("Greater", ["most", "zero"], ["is_positive"]))
    x = "x"
    for layer in range(LAYERS):
        made += [node("MatMul", [x, f"w{layer}"], [f"p{layer}"]), node("Relu", [f"p{layer}"], [f"a{layer}"])]
        if layer == 2:
            ends = [onnx.helper.make_tensor_value_info(f"branch{n}", onnx.TensorProto.FLOAT, None) for n in range(2)]
            inner = [node("Add", ["x2", "a2"], ["branch0"])], [node("Sub", ["x", "a2"], ["branch1"])]
            branches = [onnx.helper.make_graph(n, e.name, [], [e]) for n, e in zip(inner, ends, strict=True)]
            made.append(node("If", ["is_positive"], ["x3"], then_branch=branches[0], else_branch=branches[1]))
        elif layer == 3:
            made += [node("Reshape", ["a3", "size"], ["shaped"]), node("Add", [x, "shaped"], ["x4"])]
        else:
            made.append(node("Add", [x, f"a{layer}"], [f"x{layer + 1}"]))
        x = f"x{layer + 1}"
    made.append(node("Mul", [x, "unused"], ["y"]))
    constants: dict[str, Any] = {f"w{layer}": weight(WIDTH, WIDTH, seed=layer) for layer in range(LAYERS)}
    constants |= {"zero": np.zeros((), np.float32), "unused": np.ones(1, np.float32)}
    return graphs.model(made, {"x": ("float32", [1, "n", WIDTH])}, {"y": "float32"}, constants)


WANTED = [["x1"], ["x2", "x3"], ["x4", "a1"]]


def staged(folder: Path) -> StagedModel:
    feeds = open_feeds(SAMPLES, [Input("x", "tensor(float)", (1, "n", WIDTH))])
    return StagedModel(load(residual()), WANTED, feeds, count=len(SAMPLES), folder=folder, threads=1)


def shown(model: StagedModel, number: int) -> list[dict[str, Any]]:
    """The wanted tensors of a stage, of each sample."""
    seen: list[dict[str, Any]] = []
    model.run(number, lambda sample, values: seen.append({name: values[name] for name in WANTED[number]}))
    return seen


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The operators of each session that is opened."""
    opened: list[list[str]] = []
    original = runtime.session_of

    def session_of(model: Any, *arguments: Any, **options: Any) -> Any:
        opened.append([n.op_type for n in model.proto.graph.node])
        return original(model, *arguments, **options)

    monkeypatch.setattr(runtime, "session_of", session_of)
    return opened


def test_stages_show_what_the_whole_model_does(tmp_path: Path, started: list[list[str]]) -> None:
    model = staged(tmp_path / "stages")
    found = [shown(model, number) for number in range(3)]
    for number, names in enumerate(WANTED):
        for feed, values in zip(SAMPLES, found[number], strict=True):
            expected = rounded.values(residual(), names, feed)
            for name in names:
                np.testing.assert_array_equal(values[name], expected[name])
    # No node runs twice, and the last one never does.
    every = [op for ops in started for op in ops]
    assert len(every) == len(residual().graph.node) - 1 - 3 and "Mul" not in every
    assert (tmp_path / "stages").exists()
    model.remove()
    assert not (tmp_path / "stages").exists()


def test_a_stopped_run_goes_on_from_its_files(tmp_path: Path, started: list[list[str]]) -> None:
    expected = shown(staged(tmp_path / "whole"), 2)
    shown(staged(tmp_path / "stopped"), 1)
    started.clear()
    found = shown(staged(tmp_path / "stopped"), 2)
    assert len(started) == 1 and started[0].count("MatMul") == 1
    for values, others in zip(found, expected, strict=True):
        for name, array in values.items():
            np.testing.assert_array_equal(array, others[name])


def test_a_folder_without_the_end_of_a_stage_is_not_taken(tmp_path: Path, started: list[list[str]]) -> None:
    shown(staged(tmp_path), 1)
    (tmp_path / "stage-1" / "tensors.json").unlink()
    started.clear()
    shown(staged(tmp_path), 2)
    assert len(started) == 2


def test_texts_between_stages_are_computed_again(tmp_path: Path) -> None:
    made = [node("Cast", ["x"], ["text"], to=onnx.TensorProto.STRING), node("Relu", ["x"], ["a"])]
    made += [node("Cast", ["text"], ["number"], to=onnx.TensorProto.FLOAT), node("Add", ["number", "a"], ["b"])]
    made.append(node("Equal", ["text", "text"], ["y"]))
    proto = graphs.model(made, {"x": ("float32", ["n", 4])}, {"y": "bool"}, {})
    samples = [{"x": np.arange(-4, 4, dtype=np.float32).reshape(2, 4)}]
    feeds = open_feeds(samples, [Input("x", "tensor(float)", ("n", 4))])
    model = StagedModel(load(proto), [["text", "a"], ["b"]], feeds, count=1, folder=tmp_path)
    seen: list[Any] = []
    model.run(0, lambda sample, values: None)
    model.run(1, lambda sample, values: seen.append(values["b"]))
    np.testing.assert_array_equal(seen[0], samples[0]["x"] + np.maximum(samples[0]["x"], 0))


def test_gptq_in_stages_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is that of one stage, and of a run that was never stopped."""
    source = graphs.save(residual(), tmp_path / "model.onnx")
    data = [{"x": graphs.rng(s).standard_normal((1, 40, WIDTH)).astype(np.float32)} for s in range(8)]
    options = {"format": "int4", "data": data, "proof": False, "threads": 1, "solver": "gptq"}

    def quantize(name: str, **more: Any) -> bytes:
        onnxquant.quantize(source, tmp_path / name, **{**options, **more})
        return (tmp_path / name).read_bytes()

    whole = quantize("whole.onnx")
    # Defaults of a function are bound when it is defined.
    monkeypatch.setitem(gram_matrices.grams.__kwdefaults__, "memory", 8 * WIDTH * WIDTH)
    solve, names = jobs._solve, list[str]()

    def stopped(task: jobs.Task, *rest: Any) -> str:
        names.append(task.name)
        if len(names) == 4:
            raise KeyboardInterrupt
        return solve(task, *rest)

    monkeypatch.setattr(jobs, "_solve", stopped)
    with pytest.raises(KeyboardInterrupt):
        quantize("out.onnx", work=tmp_path / "work")
    seen: list[str] = []
    add = gram_matrices._GramSum.add
    monkeypatch.setattr(gram_matrices._GramSum, "add", lambda self, x: seen.append(self.weight) or add(self, x))
    assert quantize("out.onnx", work=tmp_path / "work") == whole
    assert names == ["w0", "w1", "w2", "w3", "w3", "w4"] and set(seen) == {"w3", "w4"}
    assert not list((tmp_path / "work").rglob("*.npy"))


def test_gptq_opens_no_session_on_the_whole_model(tmp_path: Path, started: list[list[str]], monkeypatch: Any) -> None:
    """Inputs of samples are known from the graph, and a session would hold every weight."""
    source = graphs.save(residual(), tmp_path / "model.onnx")
    monkeypatch.setitem(gram_matrices.grams.__kwdefaults__, "memory", 8 * WIDTH * WIDTH)
    onnxquant.quantize(source, tmp_path / "out.onnx", format="int4", data=SAMPLES, proof=False, threads=1, solver="gptq")
    assert len(started) > 1 and {operators.count("MatMul") for operators in started} <= {0, 1}


def test_wide_weights_are_solved_up_to_a_bound(tmp_path: Path, monkeypatch: Any) -> None:
    """Matrices of weights to solve may be larger than others."""
    source = graphs.save(residual(), tmp_path / "model.onnx")
    options: Any = {"format": "int4", "data": SAMPLES, "proof": False, "threads": 1}

    def codes(solver: str, largest: int) -> bytes:
        monkeypatch.setattr(solve_weights, "LARGEST", largest)
        onnxquant.quantize(source, tmp_path / "out.onnx", solver=solver, force=True, **options)
        return b"".join(t.raw_data for t in onnx.load(tmp_path / "out.onnx").graph.initializer)

    monkeypatch.setattr(gram_matrices, "LARGEST", 8 * WIDTH * WIDTH - 1)
    nearest = codes("rtn", 8 * WIDTH * WIDTH)
    assert codes("gptq", 8 * WIDTH * WIDTH - 1) == nearest
    assert codes("gptq", 8 * WIDTH * WIDTH) != nearest
