"""Rules by operator and size, options in recipes, and plans written as recipes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from commands import refused, run
from conftest import DEFAULT_MODEL, ROOT
from graphs import node, weight

import onnxquant
from onnxquant.convert.recipe_of_plan import to_toml
from onnxquant.recipe.files import read_recipe
from onnxquant.recipe.options import Options


def network() -> Any:
    """An embedding, a product, a convolution, an LSTM."""
    made = [
        node("Gather", ["table", "i"], ["e"], name="lookup"),
        node("MatMul", ["e", "w"], ["h"], name="product"),
        node("LSTM", ["h", "lw", "lr"], ["l"], name="lstm", hidden_size=24),
        node("Squeeze", ["l"], ["s"]),
        node("Conv", ["x", "k"], ["c"], name="conv"),
    ]
    constants = {
        "table": weight(100, 64), "w": weight(64, 64), "lw": weight(1, 96, 64),
        "lr": weight(1, 96, 24), "k": weight(16, 8, 3, 3),
    }  # fmt: skip
    inputs = {"i": ("int64", [5, 1]), "x": ("float32", [1, 8, 9, 9])}
    return graphs.model(made, inputs, {"s": "float32", "c": "float32"}, constants, opset=11)


def formats(recipe: Any, **options: Any) -> dict[str, str]:
    report = onnxquant.quantize(network(), "out.onnx", recipe=recipe, dry_run=True, **options)
    return {s.decision.name: s.decision.format.name for s in report.encoded if s.decision.format}


def test_rules_by_operator_and_size() -> None:
    both = {"op": ["LSTM"], "max_elements": 96 * 24, "format": "q4_0"}
    found = formats(
        {"rules": [both, {"op": "Conv", "format": "int4"}, {"min_elements": 6400, "format": "int6"}, {"keep": True}]}
    )
    # 100 x 64 and 96 x 64 and 64 x 64 elements: only the first has as many as 6400.
    assert found == {"lr": "q4_0", "k": "int4", "table": "int6"}
    with pytest.raises(onnxquant.RecipeError, match="min_elements is '9', expected int"):
        formats({"rules": [{"min_elements": "9"}]})


def test_a_rule_that_no_operator_matches_is_reported() -> None:
    report = onnxquant.quantize(network(), "out.onnx", recipe={"rules": [{"op": "Cnov", "keep": True}]}, dry_run=True)
    assert report.unused_rules == [1]


def test_the_command_line_wins_over_a_recipes_options(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('format = "int8"\n[options]\ntarget = "custom"\nactivations = "dynamic"\nwork = "solved"\n')
    options, rules = Options.of_recipe(read_recipe(path), {"activations": "none", "bits": 4})
    assert (options.target, options.activations, options.bits) == ("custom", "none", 4)
    assert options.work == str(tmp_path / "solved")
    assert rules.rules[-1].to_dict() == {"target": "custom", "bits": 4}
    model = graphs.save(graphs.matmul(256, 288), tmp_path / "m.onnx")
    for more, target in (
        ((), "dynamic"),
        (("--activations", "none"), "custom"),
        (("--activations", "none", "--target", "ort"), "ort"),
    ):
        plan = run("quantize", model, "--recipe", path, "--dry-run", *more)
        assert re.search(rf"256x288 +int8 +{target}", plan.output), plan.output
    for text, words in (("bts = 1", "did you mean 'bits'"), ("samples = '4'", "samples is '4', expected int")):
        path.write_text(f"[options]\n{text}\n")
        refused(run("quantize", model, "--recipe", path), words)
    path.write_text("options = 4\n")
    refused(run("quantize", model, "--recipe", path), "options")


def decisions(report: Any) -> list[tuple[Any, ...]]:
    out = []
    for site in report.sites:
        d = site.decision
        settings = d.format.settings() if d.format else None
        out.append((d.name, settings and (d.format.name, settings, d.target, d.solver, d.folded), d.nbytes))
    return out


FEEDS = {"image": np.load(ROOT / "models" / "default_test.npz")["image"][:64, None].astype(np.float32) / 255}
PLANS: dict[str, dict[str, Any]] = {
    "format": {"format": "q4_0", "exclude": "head|stem"},
    "parameters": {"bits": 4, "symmetric": False, "block_size": 64, "target": "custom", "solver": "mse"},
    "dynamic": {"activations": "dynamic", "exclude": "head.logits"},
    "compute": {"bits": 4, "compute": "float"},
    "permuted": {"bits": 4, "permutation": "norm"},
    "gptq": {"bits": 4, "data": FEEDS, "calibration_samples": 16},
}


@pytest.mark.parametrize("kind", PLANS)
def test_a_saved_plan_is_made_again(kind: str, tmp_path: Path) -> None:
    path, given = tmp_path / "plan.toml", dict(PLANS[kind])
    data = {"data": given["data"], "calibration_samples": 16} if "data" in given else {}
    plan = onnxquant.quantize(DEFAULT_MODEL, tmp_path / "o.onnx", dry_run=True, save_recipe=str(path), **given)
    again = onnxquant.quantize(DEFAULT_MODEL, tmp_path / "o.onnx", dry_run=True, recipe=path, **data)
    assert decisions(again) == decisions(plan) and again.activations == plan.activations
    assert {made is None for _, made, _ in decisions(plan)} == {True, False}
    assert [p.name for p in tmp_path.iterdir()] == ["plan.toml"]


def test_a_search_is_saved_as_what_it_chose(tmp_path: Path) -> None:
    model, path, feeds = DEFAULT_MODEL, tmp_path / "plan.toml", tmp_path / "feeds.npz"
    np.savez(feeds, **FEEDS)
    given = {"data": str(feeds), "calibration_samples": 16, "dry_run": True}
    plan = onnxquant.quantize(model, tmp_path / "o.onnx", budget_bpw=5.0, save_recipe=str(path), **given)
    again = onnxquant.quantize(model, tmp_path / "o.onnx", recipe=path, **given)
    assert decisions(again) == decisions(plan) and plan.search and not again.search
    assert "budget_bpw" not in path.read_text()
    assert len({line for line in path.read_text().splitlines() if line.startswith("format")}) > 2
    refused(run("quantize", model, "--save-recipe", path, "--dry-run"), "exists already; pass --force")


def test_a_weight_that_is_called_like_a_node_of_another(tmp_path: Path) -> None:
    made = [node("MatMul", ["x", "a"], ["h"], name="p"), node("MatMul", ["h", "b"], ["y"], name="a")]
    proto = graphs.model(
        made, {"x": ("float32", [1, 64])}, {"y": "float32"}, {"a": weight(64, 64), "b": weight(64, 64, seed=2)}
    )
    onnxquant.quantize(proto, tmp_path / "o.onnx", dry_run=True, save_recipe=str(tmp_path / "one.toml"))
    rules = {"rules": [{"include": "^b$", "format": "q4_0"}]}
    with pytest.raises(onnxquant.RecipeError, match="weight 'b': its plan is no recipe"):
        onnxquant.quantize(
            proto, tmp_path / "o.onnx", recipe=rules, dry_run=True, save_recipe=str(tmp_path / "two.toml")
        )


def test_toml_holds_any_name(tmp_path: Path) -> None:
    names = ["it's", 'a "b"', "tab\tnew\nline", "\\w+", "ü\x7f\x01", "日本"]
    entries = {"format": "int8", "keep": True, "options": {"seed": 3}, "rules": [{"include": names, "block_size": 32}]}
    path = tmp_path / "r.toml"
    path.write_text(to_toml(entries, ["w: why\nnot"]), encoding="utf-8")
    assert read_recipe(path) == entries


def test_shipped_recipes_for_kinds_of_models(tmp_path: Path) -> None:
    made = {}
    with_samples = ("cnn-int8", "llm-int4", "llm-iq4", "llm-int5")
    for name in (*with_samples, "transformer-int8", "edge-small"):
        more = {"data": FEEDS, "calibration_samples": 16} if name in with_samples else {}
        report = onnxquant.quantize(DEFAULT_MODEL, tmp_path / f"{name}.onnx", recipe=name, proof=False, **more)
        made[name] = {
            s.decision.role: (s.decision.format.bits, s.decision.target, s.decision.solver) for s in report.encoded
        }
    assert made["cnn-int8"]["conv"][:2] == made["cnn-int8"]["matmul"][:2] == (8, "qdq")
    assert made["transformer-int8"]["matmul"][:2] == (8, "dynamic")
    assert made["llm-int4"]["matmul"][::2] == (4, "gptq") and made["llm-int4"]["gather"][0] == 8
    assert made["llm-iq4"]["matmul"][::2] == (4, "gptq") and made["llm-iq4"]["gather"][::2] == (5, "rtn")
    assert made["llm-int5"]["matmul"][::2] == (5, "gptq") and made["llm-int5"]["gather"][::2] == (6, "rtn")
    assert made["edge-small"]["matmul"][::2] == (4, "mse") and made["edge-small"]["conv"][0] == 8
    with pytest.raises(onnxquant.RecipeError, match="give --data"):
        onnxquant.quantize(DEFAULT_MODEL, tmp_path / "x.onnx", recipe="llm-int4")


WEIGHTS = {
    "output.weight": True, "/output/MatMul": True, "lm_head.weight": True, "model.lm_head.weight": True,
    "model/lm_head/MatMul": True, "onnx_lm_head": True, "model.output.weight": True,
    "blk.0.attn_output.weight": False, "bert.encoder.layer.0.attention.output.dense.weight": False,
    "/encoder/layer.0/output/dense/MatMul": False, "layers.3.mlp.output": False, "outputs.w": False,
}  # fmt: skip


@pytest.mark.parametrize("name", ["int4-mixed", "llm-int4", "llm-int5", "llm-iq4", "q4-mixed", "q5-mixed"])
def test_the_rule_of_the_head_means_the_head_alone(name: str) -> None:
    (pattern,) = [rule["include"] for rule in read_recipe(name)["rules"] if "include" in rule]
    assert {weight: bool(re.search(pattern, weight)) for weight in WEIGHTS} == WEIGHTS


def test_rules_that_may_match_nothing_are_not_told(tmp_path: Path) -> None:
    model = graphs.save(graphs.matmul(256, 288), tmp_path / "m.onnx")
    rules = [{"include": "nothing"}, {"include": "neither", "optional": True}]
    report = onnxquant.quantize(model, tmp_path / "o.onnx", recipe={"rules": rules}, proof=False)
    assert report.unused_rules == [1]
    for name in ("edge-small", "int4-mixed", "q4-mixed", "q5-mixed"):
        shipped = onnxquant.quantize(model, tmp_path / f"{name}.onnx", recipe=name, proof=False)
        assert not shipped.unused_rules, name


def test_a_file_records_the_rules_and_options_it_was_made_with(tmp_path: Path) -> None:
    from onnxquant.artifact.records import Origin
    from onnxquant.graph import identity
    from onnxquant.graph.io import load

    model = graphs.save(graphs.matmul(256, 288), tmp_path / "m.onnx")
    for given, rule in (
        ({"format": "q4_0", "include": "w"}, {"format": "q4_0", "include": ["w"]}),
        ({"format": "f16", "whole_graph": True}, {"format": "f16"}),
    ):
        onnxquant.quantize(model, tmp_path / "o.onnx", proof=False, force=True, threads=1, **given)
        origin = Origin.read(load(tmp_path / "o.onnx").proto)
        assert origin and origin.sha256 == identity.digest(load(model)) and origin.rules == (rule,)
        assert origin.options == ({"whole_graph": True} if "whole_graph" in given else {})
    onnxquant.quantize(model, tmp_path / "q.onnx", proof=False)
    onnxquant.dequantize(tmp_path / "q.onnx", tmp_path / "f.onnx")
    assert Origin.read(load(tmp_path / "f.onnx").proto) is None


def test_a_recipe_is_never_written_over_a_model_or_a_report(tmp_path: Path) -> None:
    model, other = graphs.save(graphs.matmul(), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    before = model.read_bytes()
    given = ("quantize", model, "-o", other, "--force", "--no-proof", "--save-recipe")
    refused(run(*given, tmp_path / "m.onnx"), "m.onnx: is an input")
    refused(run(*given, other), "o.onnx: is the model's own file")
    refused(run(*given, tmp_path / "r.json", "--report", tmp_path / "r.json"), "r.json: is a report, too")
    refused(run(*given, tmp_path / "none" / "r.toml"), "none does not exist")
    assert model.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_what_yaml_would_lose_or_choke_on_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for text, word in (("bits: 4\nbits: 8\n", "key 'bits' is given twice"), ("[" * 5000, "recursion")):
        path.write_text(text)
        refused(run("quantize", DEFAULT_MODEL, "--recipe", path, "--dry-run"), str(path), word)
    path.write_text("format: int4\nrules:\n- &a {bits: 8, include: x}\n- {<<: *a, include: y}\n")
    assert read_recipe(path)["rules"][1] == {"bits": 8, "include": "y"}
