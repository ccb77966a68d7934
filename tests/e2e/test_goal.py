"""The best file by itself: ways that can suit a model are tried as whole files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from commands import run
from graphs import node

import onnxquant
from onnxquant.convert import best
from onnxquant.convert.ways import DYNAMIC, FLOAT16, INT4, INT8, MIXED, STATIC, STATIC_SPARING, ways
from onnxquant.errors import RecipeError
from onnxquant.graph.io import load
from onnxquant.recipe.values import Goal


def products() -> onnx.ModelProto:
    """Two products with a Relu between them."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="first"),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "v"], ["y"], name="second"),
    ]
    constants = {"w": graphs.weight(64, 96), "v": graphs.weight(96, 32, seed=2)}
    return graphs.model(nodes, {"x": ("float32", ["n", 64])}, {"y": "float32"}, constants)


def convolution() -> onnx.ModelProto:
    """One convolution."""
    nodes = [node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])]
    return graphs.model(
        nodes, {"x": ("float32", ["n", 16, 8, 8])}, {"y": "float32"}, {"w": graphs.weight(16, 16, 3, 3)}
    )


def samples(count: int = 12) -> list[dict[str, Any]]:
    return [{"x": graphs.rng(i).standard_normal((2, 64)).astype(np.float32)} for i in range(count)]


@pytest.mark.parametrize(
    ("model", "goal", "expected"),
    [
        (products, Goal.FAST, [DYNAMIC, STATIC, INT8, INT4, STATIC_SPARING, FLOAT16]),
        (products, Goal.SMALL, [INT8, INT4, DYNAMIC, STATIC, MIXED, FLOAT16]),
        (convolution, Goal.FAST, [STATIC, INT8, STATIC_SPARING, FLOAT16]),
        (convolution, Goal.SMALL, [INT8, STATIC, FLOAT16]),
        (convolution, Goal.BALANCED, [STATIC, INT8, STATIC_SPARING, FLOAT16]),
    ],
)
def test_ways_follow_from_what_reads_the_weights(model: Any, goal: Goal, expected: list[Any]) -> None:
    assert [way.name for way in ways(load(model()), goal)] == [way.name for way in expected]


@pytest.mark.parametrize("external", ["always", "never"])
def test_the_smallest_file_that_keeps_a_bound_is_written_and_its_recipe_makes_it_again(
    tmp_path: Path, external: str
) -> None:
    source, output, recipe = graphs.save(products(), tmp_path / "m.onnx"), tmp_path / "best.onnx", tmp_path / "r.yaml"
    options: dict[str, Any] = {"goal": "small", "min_sqnr": 30.0, "external_data": external}
    report = onnxquant.quantize(source, output, data=samples(), save_recipe=str(recipe), **options)
    choice = report.choice
    assert choice and choice.keeps_bound and report.passed
    sizes = {a.way: a.nbytes for a in choice.attempts if a.nbytes and a.verdict and not a.verdict.state.is_failure}
    files = [path for path in (output, tmp_path / "best.onnx.data") if path.exists()]
    assert sum(path.stat().st_size for path in files) == sizes[choice.chosen]
    assert sizes[choice.chosen] <= 1.03 * min(sizes.values())  # among equals the fastest is taken
    lost = {a.way: a.objection for a in choice.attempts}
    assert lost["int4 weights"] == "loses too much" and lost[choice.chosen] == ""
    again = tmp_path / "again.onnx"
    onnxquant.quantize(source, again, recipe=recipe, data=samples(), samples=16)
    first, second = onnx.load(output), onnx.load(again)
    for tensor in (*first.graph.initializer, *second.graph.initializer):
        tensor.data_location = onnx.TensorProto.DEFAULT
    assert [t.SerializeToString() for t in first.graph.initializer] == [
        t.SerializeToString() for t in second.graph.initializer
    ]
    assert onnxquant.verify(output)


def test_where_no_integers_keep_the_bound_float16_does(tmp_path: Path) -> None:
    report = onnxquant.quantize(products(), tmp_path / "best.onnx", data=samples(), goal="fast", min_sqnr=60.0)
    assert report.choice and report.choice.chosen == "float16 weights" and report.choice.keeps_bound


def test_where_nothing_keeps_the_bound_the_best_outputs_are_written_and_it_fails(tmp_path: Path) -> None:
    report = onnxquant.quantize(products(), tmp_path / "best.onnx", data=samples(), goal="fast", min_sqnr=300.0)
    assert report.choice and not report.choice.keeps_bound and report.choice.chosen == "float16 weights"
    assert not report.passed


def test_a_recipe_holds_the_goal_and_options_of_some_ways_leave_the_others(tmp_path: Path) -> None:
    recipe = {"options": {"goal": "small", "effort": "low"}}
    report = onnxquant.quantize(
        convolution(), tmp_path / "out.onnx", recipe=recipe, calibration_method="minmax",
        data=[{"x": graphs.rng(i).standard_normal((2, 16, 8, 8)).astype(np.float32)} for i in range(12)],
    )  # fmt: skip
    assert report.choice and report.choice.chosen == "int8 weights"
    assert all(attempt.verdict for attempt in report.choice.attempts)


def test_ctrl_c_keeps_the_best_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = best.quantize_one_way

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if options.get("format") == "int4":
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(best, "quantize_one_way", interrupted)
    report = onnxquant.quantize(products(), tmp_path / "best.onnx", data=samples(), goal="small")
    assert report.choice and report.choice.chosen == "int8 weights"
    assert report.choice.skipped == ("int4 weights", "dynamic int8", "static int8")


def test_a_report_with_a_choice_is_read_back(tmp_path: Path) -> None:
    source = graphs.save(convolution(), tmp_path / "m.onnx")
    data = tmp_path / "x.npz"
    np.savez(data, x=graphs.rng(3).standard_normal((12, 2, 16, 8, 8)).astype(np.float32))
    result = run("quantize", source, "--data", data, "--goal", "fast", "--report", ".json", "--report", ".html")
    assert result.exit_code == 0, result.output
    assert "Ways tried for goal fast" in result.output and "chosen" in result.output
    report = onnxquant.Report.load(tmp_path / "m.fast.json")
    assert report.choice and {a.way for a in report.choice.attempts} >= {"static int8", "int8 weights"}
    assert "Ways tried" in (tmp_path / "m.fast.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goal": "fast"}, "give them with --data"),
        ({"goal": "fast", "data": samples(), "format": "int8"}, "format: goal chooses that itself"),
        ({"goal": "small", "data": samples(), "activations": "static"}, "activations: goal chooses that itself"),
        ({"goal": "small", "data": samples(), "proof": False}, "compared by their proofs"),
        ({"goal": "best", "data": samples()}, "goal"),
    ],
)
def test_what_a_goal_does_not_go_with_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        onnxquant.quantize(products(), tmp_path / "out.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_samples_choose_where_nothing_names_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best, "ways", lambda model, goal: [INT8])
    source = graphs.save(products(), tmp_path / "m.onnx")
    report = onnxquant.quantize(source, data=samples(), effort="low", recipe={"rules": [{"include": "v", "keep": True}]})
    assert report.output == str(tmp_path / "m.fast.onnx") and report.choice and report.choice.goal == "fast"
    assert [s.decision.name for s in report.encoded] == ["w"]


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ({"format": "int8"}, None),
        ({"block_size": 32}, None),
        ({"symmetric": False}, None),
        ({"target": "onnx"}, None),
        ({"activations": "none"}, None),
        ({"dry_run": True}, None),
        ({"proof": False}, None),
        ({}, {"bits": 8}),
        ({}, {"options": {"activations": "dynamic"}}),
        ({}, {"rules": [{"include": "w", "format": "int8"}]}),
    ],
)
def test_what_names_the_way_is_all_that_is_tried(tmp_path: Path, options: dict[str, Any], recipe: Any) -> None:
    report = onnxquant.quantize(products(), tmp_path / "out.onnx", data=samples(2), recipe=recipe, **options)
    assert report.choice is None
    if "dry_run" not in options and "proof" not in options:
        with pytest.raises(RecipeError, match="goal chooses that itself"):
            onnxquant.quantize(products(), tmp_path / "no.onnx", data=samples(2), recipe=recipe, goal="fast", **options)


@pytest.mark.usefixtures("batches_in_this_process")
def test_a_batch_chooses_and_keeps_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best, "ways", lambda model, goal: [INT8])
    graphs.save(products(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.stack([sample["x"] for sample in samples()]))
    again: dict[str, Any] = {"data": tmp_path / "x.npz", "effort": "low", "skip_existing": True}
    first, second, other = (
        onnxquant.batch([tmp_path / "m.onnx"], tmp_path / "out", **again, **more).rows[0]
        for more in ({}, {}, {"goal": "small"})
    )
    assert first.output == str(tmp_path / "out" / "m.fast.onnx") and first.done and not first.reused
    assert second.reused and second.size_ratio == first.size_ratio
    assert other.output == str(tmp_path / "out" / "m.small.onnx") and not other.reused
    changed = onnxquant.batch([tmp_path / "m.onnx"], tmp_path / "out", **again, min_sqnr=1.0).rows[0]
    assert not changed.done and "was made with other options" in changed.reason
