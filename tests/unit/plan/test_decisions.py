"""Decisions about weights: to encode them or to keep them in float, and the solvers of those that are encoded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from graphs import matmul, model, node, weight

from onnxquant.errors import RecipeError
from onnxquant.formats import format_named
from onnxquant.graph.io import load
from onnxquant.graph.sites import Site, find_sites
from onnxquant.plan.decision import EncodeDecision, KeepDecision, decision_from_dict
from onnxquant.plan.planner import IntegerSites, decide, first_matching_rule, make_plan
from onnxquant.plan.solver_choice import assign_solvers, with_solver
from onnxquant.recipe.rules import Recipe, Rule
from onnxquant.targets import Activations

DOCUMENT = load(matmul(k=256, n=512))


def site() -> Site:
    return find_sites(DOCUMENT)[0][0]


def encoded(form: str = "int4", solver: str = "auto", target: str = "ort") -> EncodeDecision:
    decision = decide(site(), format_named(form), Rule(target=target, solver=solver), DOCUMENT.opset)
    assert isinstance(decision, EncodeDecision)
    return decision


def test_decisions_come_back_from_their_plain_data() -> None:
    decision = encoded(solver="gptq")
    kept = decision.kept_in_float("too sensitive")
    assert decision_from_dict(decision.to_dict()) == decision
    assert decision_from_dict(kept.to_dict()) == kept
    assert kept.to_dict()["format"] is None and kept.to_dict()["reason"] == "too sensitive"


def test_a_weight_kept_in_float_has_its_own_size() -> None:
    decision = encoded()
    assert decision.nbytes < decision.float_bytes == site().nbytes
    assert decision.kept_in_float("").nbytes == site().nbytes
    assert decision.kept_in_float("").bits_per_weight == 32


def patches(channels: int) -> list[Site]:
    """Patches of an image into a product: a small convolution beside a MatMul, as vision transformers have them."""
    nodes = [
        node("Conv", ["x", "patch"], ["c"]), node("Flatten", ["c"], ["f"], axis=2), node("MatMul", ["f", "w"], ["y"]),
    ]  # fmt: skip
    constants = {"patch": weight(channels, 3, 4, 4), "w": weight(169, 1024)}
    return find_sites(load(model(nodes, {"x": ("float32", [1, 3, 16, 16])}, {"y": "float32"}, constants)))[0]


@pytest.mark.parametrize(
    ("rule", "channels", "formats"),
    [
        (Rule(bits=4), 64, ["int8", "int4"]),
        (Rule(bits=2), 64, ["int8", "int2"]),
        (Rule(bits=4), 1024, ["int4", "int4"]),
        (Rule(format="int4"), 64, ["int4", "int4"]),
        (Rule(bits=4, op=("Conv", "MatMul")), 64, ["int4", "int4"]),
    ],
)
def test_small_weights_outside_of_products_have_eight_bits(rule: Rule, channels: int, formats: list[str]) -> None:
    """By ``bits`` alone, and while they add at most 5 % to the file."""
    plan = make_plan(patches(channels), [], Recipe((rule,)), 21)
    assert [d.format.name for d in plan.encoded] == formats
    assert all(d.reason.startswith("8 bits: ") == (d.format.name == "int8") for d in plan.encoded)


def test_refusals_stay_with_a_weight_that_no_target_takes() -> None:
    decision = decide(site(), format_named("nf4"), Rule(target="onnx"), DOCUMENT.opset)
    assert isinstance(decision, KeepDecision)
    assert len(decision.refusals) == 1 and decision.refusals[0].startswith("onnx: ")
    assert decision.reason == decision.refusals[0]


@pytest.mark.parametrize(
    ("form", "solver", "observable", "expected"),
    [
        ("int4", "auto", True, "gptq"),
        ("int4", "auto", False, "rtn"),
        ("int8", "auto", True, "rtn"),
        ("int4", "mse", False, "mse"),
        ("int4", "gptq", True, "gptq"),
        ("int4", "gptq", False, "rtn"),
    ],
)
def test_the_solver_follows_from_the_rule_and_the_samples(
    form: str, solver: str, observable: bool, expected: str
) -> None:
    decision = with_solver(encoded(form, solver), inputs_observable=observable, has_samples=True)
    assert decision.solver == expected
    assert ("cannot be observed" in decision.reason) == ((solver, observable) == ("gptq", False))


def test_a_solver_that_needs_samples_is_refused_without_them() -> None:
    with pytest.raises(RecipeError, match="solver gptq needs samples"):
        with_solver(encoded(solver="gptq"), inputs_observable=False, has_samples=False)


def test_samples_show_the_inputs_of_a_product() -> None:
    plan = make_plan(*find_sites(DOCUMENT), Recipe((Rule(format="int4", target="ort"),)), DOCUMENT.opset)
    assert [d.solver for d in assign_solvers(plan, DOCUMENT, has_samples=True).encoded] == ["gptq"]
    assert [d.solver for d in assign_solvers(plan, DOCUMENT, has_samples=False).encoded] == ["rtn"]


def test_integer_activations_take_the_weights_that_they_name() -> None:
    recipe, sites = Recipe((Rule(format="int8"),)), find_sites(DOCUMENT)
    name = sites[0][0].name
    multiplied = IntegerSites(Activations.STATIC, multiplied=frozenset([name]))
    assert [d.target for d in make_plan(*sites, recipe, 21, multiplied).decisions] == ["qdq"]
    dynamic = replace(multiplied, kind=Activations.DYNAMIC)
    assert [d.target for d in make_plan(*sites, recipe, 21, dynamic).decisions] == ["dynamic"]
    in_float = IntegerSites(Activations.STATIC, in_float=frozenset([name]))
    (decision,) = make_plan(*sites, recipe, 21, in_float).decisions
    assert isinstance(decision, KeepDecision) and decision.reason == "left in float for accuracy"


def test_a_rule_may_ask_for_smaller_weights() -> None:
    document = load(matmul(16, 8))
    recipe = Recipe.from_dict({"format": "int8", "rules": [{"include": "w", "min_elements": 1, "format": "int8"}]})
    assert recipe.least_elements == 1 and not find_sites(document)[0]
    document.least_elements = recipe.least_elements
    (site,) = find_sites(document.copy())[0]
    assert first_matching_rule(site, recipe) is not None
    assert first_matching_rule(site, Recipe.from_dict({"format": "int8"})) is None


def test_options_that_leave_a_weight_in_float_are_named() -> None:
    sites, skipped = find_sites(load(matmul(64, 64)))
    for entries, reason in (
        ({"exclude": ["^w$"]}, "--exclude '^w$' leaves it in float"),
        ({"include": ["other"]}, "--include does not name it"),
    ):
        plan = make_plan(sites, skipped, Recipe.from_dict({"format": "int8", **entries}), 21)
        assert [d.reason for d in plan.decisions] == [reason]
