"""The best file by itself: ways that can suit a model are tried as whole files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from commands import run
from graphs import node
from onnxruntime.quantization import quantize_dynamic

import onnxquant
from onnxquant import runtime
from onnxquant.activations import candidate_builder
from onnxquant.convert import best, race
from onnxquant.convert.bound import is_near_bound
from onnxquant.convert.candidate import NO_BETTER, Candidate, first_of, objection
from onnxquant.convert.forecast import Forecast
from onnxquant.convert.ways import (
    DYNAMIC,
    FLOAT16,
    INT4,
    INT4_SOLVED,
    INT4_WHOLE,
    INT4_WHOLE_SOLVED,
    INT8,
    MIXED,
    STATIC,
    STATIC_DYNAMIC_PRODUCTS,
    STATIC_FLOAT_PRODUCTS,
    STATIC_HEAD,
    STATIC_INT4_PRODUCTS,
    STATIC_LONG_HEAD,
    STATIC_MULS,
    STATIC_SPARING,
    heads,
    ways,
)
from onnxquant.convert.work import Kind, PreparedModel, Work, work_of
from onnxquant.errors import FeedError, ModelError, OutputError, RecipeError
from onnxquant.graph.io import load
from onnxquant.graph.sites import find_sites
from onnxquant.inspect.node_labels import NodeLabels
from onnxquant.plan.activations import StaticRecord
from onnxquant.recipe.options import Options
from onnxquant.recipe.values import Goal
from onnxquant.report import advice
from onnxquant.report.state import State
from onnxquant.report.ways import shortened
from onnxquant.validation import trial
from onnxquant.validation.latency import Interval, Latency


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


def detector() -> onnx.ModelProto:
    """Six convolutions in a row, and one for each of two outputs."""
    names = [f"w{i}" for i in range(6)]
    inputs = ["x", *(f"h{i}" for i in range(6))]
    nodes = [node("Conv", [inputs[i], w], [inputs[i + 1]], pads=[1, 1, 1, 1]) for i, w in enumerate(names)]
    nodes += [node("Conv", ["h5", "boxes"], ["b"]), node("Relu", ["b"], ["y"]), node("Conv", ["h5", "scores"], ["z"])]
    constants = {w: graphs.weight(16, 16, 3, 3, seed=i) for i, w in enumerate(names)}
    constants |= {"boxes": graphs.weight(16, 16, 1, 1, seed=8), "scores": graphs.weight(16, 16, 1, 1, seed=9)}
    return graphs.model(nodes, {"x": ("float32", ["n", 16, 8, 8])}, {"y": "float32", "z": "float32"}, constants)


def both() -> onnx.ModelProto:
    """A convolution before a product."""
    nodes = [node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]), node("MatMul", ["a", "v"], ["y"])]
    constants = {"w": graphs.weight(16, 16, 3, 3), "v": graphs.weight(8, 256, seed=2)}
    return graphs.model(nodes, {"x": ("float32", ["n", 16, 8, 8])}, {"y": "float32"}, constants)


def samples(count: int = 12) -> list[dict[str, Any]]:
    return [{"x": graphs.rng(i).standard_normal((2, 64)).astype(np.float32)} for i in range(count)]


def images(count: int = 12) -> list[dict[str, Any]]:
    return [{"x": graphs.rng(i).standard_normal((2, 16, 8, 8)).astype(np.float32)} for i in range(count)]


@pytest.mark.parametrize(
    ("graph", "goal", "expected"),
    [
        (products, Goal.FAST, [INT8, DYNAMIC, STATIC, INT4, STATIC_MULS, STATIC_SPARING, INT4_SOLVED, FLOAT16]),
        (
            products, Goal.SMALL,
            [INT8, INT4, DYNAMIC, STATIC, STATIC_MULS, STATIC_SPARING, INT4_SOLVED, MIXED, FLOAT16],
        ),
        (convolution, Goal.FAST, [INT8, STATIC, STATIC_SPARING, FLOAT16]),
        (convolution, Goal.SMALL, [INT8, INT4_WHOLE, STATIC, STATIC_SPARING, INT4_WHOLE_SOLVED, MIXED, FLOAT16]),
        (detector, Goal.FAST, [INT8, STATIC, STATIC_HEAD, STATIC_LONG_HEAD, STATIC_SPARING, FLOAT16]),
        (
            both,
            Goal.BALANCED,
            [INT8, STATIC, DYNAMIC, STATIC_INT4_PRODUCTS, INT4, INT4_WHOLE, STATIC_MULS, STATIC_DYNAMIC_PRODUCTS,
             STATIC_FLOAT_PRODUCTS, STATIC_SPARING, INT4_SOLVED, INT4_WHOLE_SOLVED, MIXED, FLOAT16],
        ),
    ],
)
def test_ways_follow_from_what_reads_the_weights(graph: Any, goal: Goal, expected: list[Any]) -> None:
    model = PreparedModel.of(load(graph()))
    assert [way.name for way in ways(model, work_of(model), goal)] == [way.name for way in expected]


def test_ways_have_no_rules_for_roles_without_weights() -> None:
    for graph in (products(), convolution(), both()):
        model = PreparedModel.of(load(graph))
        roles = {role for site in model.sites for role in site.role.split("+")}
        candidates = ways(model, work_of(model), Goal.SMALL)
        assert {rule["role"] for way in candidates for rule in way.rules if "role" in rule} <= roles
    rest = next(way for way in candidates if way.name == "int4 products, int8 rest")  # of a model of both
    assert [rule["role"] for rule in rest.rules] == ["conv"]


def test_the_last_kernels_before_the_outputs_are_the_head() -> None:
    document = load(detector())
    sites = find_sites(document)[0]
    near = heads(document, sites)
    assert near == ["boxes", "scores"]
    assert heads(document, sites, beyond=near) == ["w5"]


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
    assert sum(path.stat().st_size for path in files) == pytest.approx(sizes[choice.chosen], rel=0.02)  # other metadata
    assert sizes[choice.chosen] <= 1.03 * min(sizes.values())  # among equals the fastest is taken
    lost = {a.way: a.objection for a in choice.attempts}
    assert lost[INT4.name] == "below 30 dB" and lost[choice.chosen] == ""
    again = tmp_path / "again" / "best.onnx"  # references to external data hold the name
    again.parent.mkdir()
    onnxquant.quantize(source, again, recipe=recipe, data=samples())
    for path in files:
        assert path.read_bytes() == again.with_name(path.name).read_bytes()
    assert onnxquant.verify(output)
    way, option = choice.alternative.split(" would be ")[0], re.search(r": --min-sqnr (\d+) takes it$", choice.alternative)
    assert option and lost[way] == "below 30 dB"
    taken = onnxquant.quantize(source, tmp_path / "t.onnx", data=samples(), **{**options, "min_sqnr": float(option[1])})
    assert taken.passed and taken.choice and not taken.choice.alternative
    assert taken.output_bytes and report.output_bytes and taken.output_bytes < report.output_bytes / 1.1


def test_static_ways_with_something_in_float_go_on_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Any] = []
    whole = candidate_builder.collect_folds

    def counted(*arguments: Any, **options: Any) -> Any:
        passes.append(arguments)
        return whole(*arguments, **options)

    monkeypatch.setattr(candidate_builder, "collect_folds", counted)
    head = replace(STATIC_HEAD, rules=({"include": "scores", "keep": True},))
    monkeypatch.setattr(best, "ways", lambda *arguments: [STATIC, head])
    options: dict[str, Any] = {"smooth": False, "equalize": False, "rebase": False, "min_sqnr": 90.0}
    report = onnxquant.quantize(detector(), tmp_path / "best.onnx", data=images(), effort="low", **options)
    kernels = [attempt.integer_kernels for attempt in report.choice.attempts] if report.choice else []
    assert kernels == [8, 7] and len(passes) == 1


@pytest.mark.parametrize("is_needed", [False, True])
def test_products_are_smoothed_by_muls_only_where_the_bound_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_needed: bool
) -> None:
    """Channels of very unequal size, which no operator makes: what smooths them is a Mul, which costs time."""
    functions: list[Any] = []
    whole = candidate_builder.collect_folds

    def counted(document: Any, *arguments: Any, **options: Any) -> Any:
        functions.append([n.op_type for n in document.proto.graph.node])
        return whole(document, *arguments, **options)

    monkeypatch.setattr(candidate_builder, "collect_folds", counted)
    monkeypatch.setattr(best, "ways", lambda *arguments: [STATIC, STATIC_MULS])
    sizes = np.geomspace(0.1, 8, 64).astype(np.float32)
    constants = {"w": (graphs.weight(64, 96) / sizes[:, None]).astype(np.float32)}
    proto = graphs.model([node("MatMul", ["x", "w"], ["y"])], {"x": ("float32", ["n", 64])}, {"y": "float32"}, constants)
    data = [{"x": sample["x"] * sizes} for sample in samples()]
    options: dict[str, Any] = {"min_sqnr": 21.0 if is_needed else 12.0, "effort": "low"}
    report = onnxquant.quantize(proto, tmp_path / "best.onnx", data=data, **options)
    assert report.choice and report.passed and report.choice.chosen == (STATIC_MULS if is_needed else STATIC).name
    made = [n.op_type for n in onnx.load(tmp_path / "best.onnx").graph.node]
    assert made.count("Mul") == is_needed
    # The second search goes on from the first: the model itself is not run again.
    assert [nodes.count("Mul") for nodes in functions] == ([0, 1, 1] if is_needed else [0])


def test_a_static_file_may_have_dynamic_products_and_its_recipe_makes_it_again(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    output, again, recipe = tmp_path / "m.onnx", tmp_path / "again" / "m.onnx", tmp_path / "r.toml"
    data: dict[str, Any] = {"data": images(), "effort": "low", "proof": False}
    rules = {"rules": [dict(rule) for rule in STATIC_DYNAMIC_PRODUCTS.rules]}
    static: dict[str, Any] = {"activations": "static", "calibration_method": "minmax", "solver": "rtn", "smooth": False}
    static |= {"equalize": False, "rebase": False}
    report = onnxquant.quantize(both(), output, recipe=rules, save_recipe=str(recipe), **data, **static)
    record = report.activations
    assert isinstance(record, StaticRecord) and record.integer_kernels == 2 and not record.left_in_float
    graph = onnx.load(output).graph
    assert [n.op_type for n in graph.node].count("DynamicProducts1") == 1
    assert onnxquant.verify(output)
    onnxquant.quantize(both(), again, recipe=recipe, **data)
    nodes, same = graph.node, onnx.load(again).graph
    assert list(nodes) == list(same.node) and list(graph.initializer) == list(same.initializer)


@pytest.mark.parametrize(
    ("ratio", "bound", "is_near"), [(20.1, None, True), (20.4, None, False), (24.1, 24.0, True), (24.4, 24.0, False)]
)
def test_a_figure_that_other_samples_may_not_keep_is_near_the_bound(
    ratio: float, bound: float | None, is_near: bool
) -> None:
    unseen = SimpleNamespace(kept_db=ratio - 0.3)
    report: Any = SimpleNamespace(verdict=SimpleNamespace(unseen=unseen, worst_sqnr_db=ratio))
    assert is_near_bound(report, Options(min_sqnr=bound)) is is_near


def test_a_way_is_expected_to_take_what_those_like_it_took_beyond_their_calls() -> None:
    forecast = Forecast(0.1, 16, 20, 60.0)  # 2.2 s for each way, 8.2 s with static activations, and 8 s for the proof
    assert forecast.expected(STATIC, []) == pytest.approx(16.2)
    assert forecast.expected(STATIC, [(INT8, 12.2)]) == pytest.approx(26.2)
    assert forecast.expected(STATIC_HEAD, [(INT8, 12.2), (STATIC, 58.2)]) == pytest.approx(66.2)
    assert forecast.expected(INT4, [(INT8, 12.2), (STATIC, 58.2)]) == pytest.approx(20.2)


def test_a_way_that_would_end_too_late_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best, "_seconds_of_a_call", lambda *arguments: 1.0)
    monkeypatch.setattr(best, "ways", lambda *arguments: [INT8, STATIC, DYNAMIC])
    report = onnxquant.quantize(products(), tmp_path / "best.onnx", data=samples(), time="17s")
    assert report.choice and report.choice.skipped == (STATIC.name,)
    assert [attempt.way for attempt in report.choice.attempts] == [INT8.name, DYNAMIC.name]


def test_a_slow_model_says_how_long_the_choice_takes_and_what_is_left_out() -> None:
    plan = [INT8, replace(DYNAMIC, objection="slow there"), STATIC, INT4, STATIC_SPARING, FLOAT16]
    slow, fast = Forecast(2.0, 16, 20, 60.0), Forecast(0.002, 16, 20, 60.0)
    assert slow.first_line() == (
        "a call takes 2 s: about 44 s for the outputs of the original, then as long for each way, and about 3 min for each "
        "with static activations"
    )
    late = f"no way begins after 60 s, so that there will be no time for {INT4.name}: --time 5min tries them"
    assert slow.left_out(plan) == late
    assert slow.left_out(plan[:3]) == fast.left_out(plan) == fast.first_line() == ""


def test_ways_without_time_are_named_with_what_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best, "_seconds_of_a_call", lambda *arguments: 60.0)
    source = graphs.save(products(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.concatenate([s["x"] for s in samples()]))
    result = run("quantize", source, "-o", tmp_path / "o.onnx", "--data", tmp_path / "x.npz", "--time", "0.001s")
    assert result.exit_code in (0, 1), result.output
    said = " ".join(result.stdout.split())
    skipped = "; ".join([DYNAMIC.name, STATIC.name, INT4.name])
    assert f"untried {skipped}: no time; --effort high or a longer --time tries them" in said
    lines = result.stderr.splitlines()
    assert "a call takes 60 s: about" in lines[0] and "--time 108min tries them" in lines[1]


@pytest.mark.parametrize("fastest", ["0", "1"])
def test_the_last_comparison_decides_which_file_is_the_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fastest: str
) -> None:
    def measured(models: Any, *arguments: Any, **options: Any) -> Latency:
        ratio = {name: 9.0 if model.path.parent.name == fastest else 1.0 for name, model in models.items()}
        return Latency(dict.fromkeys(models, 0.001), ratio, 20, 1, {n: Interval(r, r) for n, r in ratio.items()})

    def alone(models: Any, *arguments: Any, **options: Any) -> Latency:
        even = dict.fromkeys(models, 1.0)
        return Latency(dict.fromkeys(models, 0.001), even, 20, 1, dict.fromkeys(models, Interval(1.0, 1.0)))

    monkeypatch.setattr(trial, "latencies", alone)
    monkeypatch.setattr(race, "latencies", measured)
    monkeypatch.setattr(best, "ways", lambda *arguments: [INT8, replace(FLOAT16, rescues=None)])
    report = onnxquant.quantize(products(), tmp_path / "best.onnx", data=samples(), effort="low")
    choice = report.choice
    assert choice and choice.chosen == (INT8, FLOAT16)[int(fastest)].name
    assert f"measured on a busy machine: {choice.chosen} 1.00x alone and 9.00x beside the others" in choice.reason
    shown = {attempt.way: attempt.verdict for attempt in choice.attempts}
    assert shown.pop(choice.chosen) == report.verdict
    assert [verdict.faster for verdict in shown.values() if verdict] == [1.0]


def test_where_no_integers_keep_the_bound_float16_does(tmp_path: Path) -> None:
    report = onnxquant.quantize(products(), tmp_path / "best.onnx", data=samples(), goal="fast", min_sqnr=60.0)
    assert report.choice and report.choice.chosen == "float16 weights" and report.choice.keeps_bound


def test_float16_weights_are_tried_at_any_time(tmp_path: Path) -> None:
    report = onnxquant.quantize(products(), tmp_path / "best.onnx", data=samples(), min_sqnr=60.0, time="0.001s")
    assert report.choice and report.choice.chosen == FLOAT16.name and FLOAT16.name not in report.choice.skipped


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
    assert report.choice and report.choice.chosen in ("int8 weights", "int8 and int4 weights")
    assert all(attempt.verdict for attempt in report.choice.attempts)


def test_ctrl_c_keeps_the_best_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = race.quantize

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if options.get("format") == "int4":
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(race, "quantize", interrupted)
    monkeypatch.setattr(best, "compare", None)  # whoever ends the search does not wait for a whole proof
    recipe = tmp_path / "r.toml"
    report = onnxquant.quantize(
        products(), tmp_path / "best.onnx", data=samples(), goal="small", save_recipe=str(recipe)
    )
    assert report.choice and report.choice.chosen == "int8 weights"
    assert report.choice.interrupted and report.choice.skipped == (INT4.name, DYNAMIC.name, STATIC.name)
    assert report.passed and report.verdict.next.startswith("The search was interrupted: this is the best of the 1 files")
    said = advice.faster(report, report.proof)
    assert said.startswith(f"The faster ways were not tried ({INT4.name}, {DYNAMIC.name}, {STATIC.name}): where speed")
    assert [line[-2] for line in shortened(report.choice)] == ["chosen", *["not tried"] * 3]
    assert report.proof and report.proof.latency and report.proof.structure.weights_encoded == 2
    assert report.proof.weights.keys() == {"w", "v"} and all(w.error.sqnr_db > 30 for w in report.proof.weights.values())
    again = onnxquant.validate(products(), tmp_path / "best.onnx", samples())
    shown = [verdict.worst_sqnr_db for verdict in (again.verdict, report.verdict)]
    assert shown[0] == pytest.approx(shown[1], abs=3) and recipe.exists()


def test_ctrl_c_in_the_proof_ends_with_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(best, "compare", interrupted)
    monkeypatch.setattr(best, "ways", lambda *arguments: [INT8])
    report = onnxquant.quantize(products(), tmp_path / "best.onnx", data=samples(), effort="low")
    assert report.passed and report.choice and not report.choice.interrupted
    assert report.proof and report.proof.weights.keys() == {"w", "v"} and report.proof.kernels.stock is None
    assert any("`onnxquant validate` proves the rest" in note for note in report.proof.notes)


def test_ctrl_c_in_the_last_comparison_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(race, "latencies", interrupted)
    monkeypatch.setattr(best, "ways", lambda *arguments: [INT8, replace(FLOAT16, rescues=None)])
    report = onnxquant.quantize(products(), tmp_path / "best.onnx", data=samples(), effort="low")
    assert report.choice and report.choice.interrupted and not report.choice.skipped and report.passed
    assert onnxquant.verify(tmp_path / "best.onnx")


@pytest.mark.parametrize(
    ("stops", "made", "says"),
    [
        (race, "quantize", "nothing was written"),
        (best, "prove_rest_quickly", "best.onnx is whole, but not proven"),
        (best, "_publish", "nothing was written"),
        (race, "look", "nothing was written"),
    ],
)
def test_ctrl_c_says_whether_anything_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: Any, made: str, says: str
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(best, "ways", lambda *arguments: [INT8])
    monkeypatch.setattr(best, "compare", interrupted)
    monkeypatch.setattr(stops, made, interrupted)
    source, output = graphs.save(products(), tmp_path / "m.onnx"), tmp_path / "best.onnx"
    with pytest.raises(KeyboardInterrupt, match=f"{says}$"):
        onnxquant.quantize(source, output, data=samples())
    assert output.exists() == ("whole" in says)


def test_ctrl_c_says_that_no_file_keeps_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = race.quantize

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if options.get("format") != "int8":
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(race, "quantize", interrupted)
    np.savez(tmp_path / "x.npz", x=np.concatenate([s["x"] for s in samples()]))
    graphs.save(products(), tmp_path / "m.onnx")
    arguments = ["quantize", tmp_path / "m.onnx", "-o", tmp_path / "best.onnx", "--data", tmp_path / "x.npz"]
    result = run(*arguments, "--goal", "small", "--min-sqnr", 90)
    says = "interrupted; nothing was written: none of the files that were made (1) keeps the bound"
    assert result.exit_code == 130 and result.stderr.splitlines()[-1] == f"onnxquant: {says}"


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
    monkeypatch.setattr(best, "ways", lambda *arguments: [INT8])
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
    monkeypatch.setattr(best, "ways", lambda *arguments: [INT8])
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


@pytest.mark.parametrize(
    ("name", "op", "label"),
    [
        ("mine", "Conv", "Conv mine"), ("fused mine", "FusedConv", "FusedConv mine"),
        ("mine/MatMulAddFusion", "Gemm", "Gemm mine"), ("c_nchwc", "Conv", "Conv that gives a"),
        ("MatMul_3", "MatMul", "MatMul that gives y"), ("MatMul_2", "MatMul", "MatMul"),
        ("ReorderInput", "ReorderInput", "ReorderInput"), ("", "Conv", "Conv"), ("minefield", "Conv", "Conv"),
    ],
)  # fmt: skip
def test_nodes_are_called_as_in_the_model(name: str, op: str, label: str) -> None:
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("Clip", ["b"], ["c"])]
    nodes += [node("MatMul", ["c", "v"], ["y"]), node("Conv", ["y", "w"], ["z"], name="mine")]
    constants = {"w": graphs.weight(16, 16, 3, 3), "v": graphs.weight(8, 8)}
    model = graphs.model(nodes, {"x": ("float32", ["n", 16, 8, 8])}, {"z": "float32"}, constants)
    assert NodeLabels(model).label(runtime.NodeTime(name, op, 1.0)) == label


def test_without_samples_a_line_says_what_they_would_bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles, whole = list[Any](), runtime.profile

    def profile(*arguments: Any) -> Any:
        profiles.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(runtime, "profile", profile)
    report = onnxquant.quantize(convolution(), tmp_path / "out.onnx", samples=1)
    assert report.choice is None and "its time" in report.prospect and "--data" in report.prospect
    assert len(profiles) == 2  # both models once, for the proof
    named = onnxquant.quantize(convolution(), tmp_path / "named.onnx", samples=1, format="int8")
    assert named.prospect == ""


@pytest.mark.parametrize(
    ("seconds", "vnni", "factor"),
    [({Kind.CONVOLUTION: 3.0}, True, 2.5), ({Kind.CONVOLUTION: 3.0}, False, 1.5), ({Kind.OTHER: 1.0}, True, 1.0)],
)
def test_the_gain_that_is_promised_is_that_of_the_slowest_part(
    seconds: dict[Kind, float], vnni: bool, factor: float
) -> None:
    assert Work({}, seconds).speedup(vnni=vnni) == pytest.approx(factor)


def test_small_ops_are_promised_no_gain() -> None:
    """Each of three products takes 5 microseconds, of which rounding its activations takes back what integers save."""
    small = Work({}, {Kind.PRODUCT: 15e-6, Kind.OTHER: 4e-6}, ops={Kind.PRODUCT: 3})
    assert small.speedup(vnni=True) == pytest.approx(1.0)
    large = Work({}, {Kind.PRODUCT: 15e-3, Kind.OTHER: 4e-3}, ops={Kind.PRODUCT: 3})
    assert large.speedup(vnni=True) == pytest.approx(1.65, abs=0.01)


def test_the_smallest_file_of_recurrent_layers_has_four_bits(tmp_path: Path) -> None:
    model = graphs.model(
        [node("GRU", ["x", "w", "r"], ["y"], hidden_size=48)], {"x": ("float32", ["t", 1, 64])}, {"y": "float32"},
        {"w": graphs.weight(1, 144, 64), "r": graphs.weight(1, 144, 48)},
    )  # fmt: skip
    source = graphs.save(model, tmp_path / "m.onnx")
    feeds = [{"x": np.random.default_rng(i).normal(0, 1, (5, 1, 64)).astype(np.float32)} for i in range(12)]
    stages: list[str] = []
    report = onnxquant.quantize(
        source, tmp_path / "s.onnx", data=feeds, goal="small", min_sqnr=10.0, progress=lambda stage, _: stages.append(stage)
    )
    assert report.choice
    turns = dict.fromkeys(turn for stage in stages for turn in re.findall(r"\((\d+) of (\d+)\)", stage))
    numbers = [(int(turn), int(count)) for turn, count in turns]
    tried = sum(attempt.nbytes is not None for attempt in report.choice.attempts)
    assert [turn for turn, _ in numbers] == list(range(1, tried + 1)) and numbers[-1] == (tried, tried)
    assert report.choice.chosen == INT4_WHOLE.name
    assert report.output_bytes and report.original_bytes > 4 * report.output_bytes


def report_of(speed: float, nbytes: int, db: float = 20.0) -> Any:
    """The figures of a report by which files are compared."""
    verdict = SimpleNamespace(faster=speed, worst_sqnr_db=db, state=State.PASSED)
    return SimpleNamespace(verdict=verdict, final_bytes=nbytes)


@pytest.mark.parametrize(
    ("speeds", "sizes", "expected"),
    [
        ((1.0, 1.01), (100, 200), ["", "as fast, but larger"]),
        ((1.5, 1.0), (200, 100), ["", "slower"]),
        ((1.0, 1.0), (100, 100), ["", NO_BETTER]),
        ((2.0, 1.99), (100, 101), ["", NO_BETTER]),
    ],
)
def test_reasons_are_true(speeds: tuple[float, ...], sizes: tuple[int, ...], expected: list[str], tmp_path: Path) -> None:
    """Of two files that keep the bound."""
    made = [
        Candidate(way, report_of(speed, size), tmp_path, 1.0, keeps=True)
        for way, speed, size in zip((INT8, STATIC), speeds, sizes, strict=True)
    ]
    contest = object.__new__(race.Race)
    contest.goal, contest._candidates = Goal.FAST, made
    winner = first_of(made, Goal.FAST)
    assert ["" if c is winner else objection(c, winner, Goal.FAST) for c in made] == expected
    contest._refused, contest._skipped, contest._moved, contest.is_interrupted = [], [], [], False
    assert contest._reason(winner, made).startswith("the fastest of the 2 files")
    assert contest._reason(winner, [winner]) == "the only one of 2 files that keeps the bound"
    contest._candidates = [winner]
    assert contest._reason(winner, [winner]) == "the only file that was made"
    contest._skipped = ["static int8"]
    assert contest._reason(winner, []) == (
        "the only file that was made, which does not keep the bound; there was no time for others"
    )


SOME = (2.0, 100, 20.0)
WORSE = "smaller, but its outputs are worse"


@pytest.mark.parametrize(
    ("goal", "figures", "expected"),
    [
        # Equal speeds: the smaller; equal sizes too: the better outputs; equal outputs: the first.
        (Goal.FAST, [SOME, (1.95, 80, 15.0)], ["as fast, but larger", ""]),
        (Goal.FAST, [SOME, (1.95, 101, 25.0)], [NO_BETTER, ""]),
        (Goal.FAST, [SOME, SOME], ["", NO_BETTER]),
        # A file that is slower than the fastest by 4%, than the smaller one that equals that by 2%.
        (Goal.FAST, [SOME, (1.95, 90, 20.0), (1.92, 50, 21.0)], ["hardly faster, but larger", "as fast, but larger", ""]),
        (Goal.FAST, [SOME, (1.95, 90, 20.0), (1.92, 50, 19.0)], ["as fast, but larger", "", WORSE]),
        (Goal.FAST, [SOME, (1.90, 50, 21.0)], ["", "slower"]),
        # What decides second has to be worse by more than measurements scatter.
        (Goal.SMALL, [(2.0, 100, 20.0), (1.97, 99, 19.0)], ["", NO_BETTER]),
        (Goal.SMALL, [(2.0, 100, 20.0), (1.90, 99, 25.0)], ["", "as small, but slower"]),
        (Goal.BALANCED, [(2.0, 100, 20.0), (1.97, 99, 19.0)], ["", NO_BETTER]),
        (Goal.BALANCED, [(2.0, 100, 20.0), (1.50, 75, 25.0)], ["", "gains as much, but is slower"]),
    ],
)
def test_what_measurements_scatter_by_decides_nothing(
    goal: Goal, figures: list[tuple[float, int, float]], expected: list[str], tmp_path: Path
) -> None:
    made = [
        Candidate(way, report_of(*numbers), tmp_path, 1.0, keeps=True)
        for way, numbers in zip((INT8, STATIC, INT4_WHOLE), figures, strict=False)
    ]
    winner = first_of(made, goal)
    assert ["" if c is winner else objection(c, winner, goal) for c in made] == expected


def test_the_time_of_a_choice_is_bounded(tmp_path: Path) -> None:
    report = onnxquant.quantize(convolution(), tmp_path / "out.onnx", data=images(), time="0.001s")
    assert report.choice and report.choice.chosen == INT8.name and STATIC.name in report.choice.skipped
    with pytest.raises(RecipeError, match="expected a duration such as 90s"):
        onnxquant.quantize(convolution(), tmp_path / "no.onnx", data=images(), time="soon")


def test_a_plan_says_what_a_model_is_made_of(tmp_path: Path) -> None:
    source = graphs.save(convolution(), tmp_path / "m.onnx")
    shown = run("plan", source)
    assert shown.exit_code == 0, shown.output
    assert "convolutions 100%" in shown.output and f"onnxquant quantize {source} --data SAMPLES\n" in shown.output
    data = json.loads(run("plan", source, "--json").stdout)
    assert data["weights"] == 1 and "Conv" in [part["name"] for part in data["operators"]] and data["is_synthetic"]
    assert data["ways"] == [INT8.name, STATIC.name] and not (tmp_path / "m.int8.onnx").exists()


def test_a_model_of_integers_is_refused_before_it_is_run(tmp_path: Path) -> None:
    path = tmp_path / "integers.onnx"
    quantize_dynamic(graphs.save(graphs.matmul(k=64, n=512), tmp_path / "float.onnx"), path)
    plan = json.loads(run("plan", path, "--json").stdout)
    assert plan["ways"] == [] and "is quantized already" in plan["prospect"]
    with pytest.raises(ModelError, match="is quantized already"):
        onnxquant.quantize(path, tmp_path / "out.onnx", data={"x": graphs.rng(1).standard_normal((8, 3, 64)).astype("f4")})


def test_a_folder_of_samples_that_is_not_there_is_called_missing(default_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="no such file or folder"):
        onnxquant.quantize(default_model, tmp_path / "out.onnx", data=str(tmp_path / "nothere"))


def test_an_output_that_cannot_be_written_is_refused_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = graphs.save(graphs.matmul(64, 64), tmp_path / "model.onnx")
    before = model.read_bytes()
    data = {"x": np.random.default_rng(0).standard_normal((8, 1, 3, 64)).astype(np.float32)[:, 0]}

    def searched(*_: object) -> None:
        raise AssertionError("the search began")

    monkeypatch.setattr(best, "_chosen", searched)
    (tmp_path / "there.onnx").touch()
    for output, message in (
        (model, "exists already|is an input"),
        (tmp_path / "none" / "out.onnx", "does not exist; make it first"),
        (tmp_path, "is a folder"),
        (tmp_path / "there.onnx", "exists already"),
    ):
        with pytest.raises(OutputError, match=message):
            onnxquant.quantize(model, output, data=data)
    with pytest.raises(OutputError, match="is an input; inputs are never overwritten"):
        onnxquant.quantize(model, model, data=data, force=True)
    assert model.read_bytes() == before


@pytest.mark.parametrize("count", [40, 500])
def test_validate_runs_on_the_samples_that_judged_the_search(tmp_path: Path, count: int) -> None:
    """Of small samples a hundred judge, where there are as many: a part of a hundred of their answers shows only there."""
    source = graphs.save(products(), tmp_path / "m.onnx")
    feeds = {"x": np.stack([sample["x"][0] for sample in samples(count)])}
    report = onnxquant.quantize(source, tmp_path / "s.onnx", data=feeds, goal="small", min_sqnr=30.0, time="1s")
    again = onnxquant.validate(source, tmp_path / "s.onnx", feeds)
    assert report.proof and report.proof.feeds and again.proof and again.proof.feeds
    assert report.proof.feeds.samples == again.proof.feeds.samples == (16 if count == 40 else 100)
    assert again.verdict.worst_sqnr_db == pytest.approx(report.verdict.worst_sqnr_db, abs=0.01)
    np.savez(tmp_path / "f.npz", **feeds)
    told = json.loads(run("validate", source, tmp_path / "s.onnx", "--data", tmp_path / "f.npz", "--json").stdout)
    told = told["proof"]["feeds"]
    assert (told["samples"], told["apart"]) == (report.proof.feeds.samples, True)
    few = onnxquant.validate(source, tmp_path / "s.onnx", feeds, samples=3)
    assert few.proof and few.proof.feeds and few.proof.feeds.samples == 3
