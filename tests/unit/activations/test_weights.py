"""Weights between integer activations: the kernels that they keep in float, and the sites that activations decide."""

from __future__ import annotations

from typing import Any

import graphs
import onnx
import pytest
from graphs import node, weight

from onnxquant.activations.placement import FOR_ACCURACY, Cause, FloatKernel
from onnxquant.activations.weights import dynamic_sites, excluded_kernels, static_format, static_sites
from onnxquant.formats.integers import Int8
from onnxquant.graph.io import Document, load
from onnxquant.graph.sites import find_sites
from onnxquant.recipe.rules import Recipe
from onnxquant.targets import Activations

NODES = [
    node("MatMul", ["x", "w"], ["a"], name="first"),
    node("MatMul", ["a", "v"], ["b"], name="second"),
]


def document(nodes: list[onnx.NodeProto], *outputs: str, **weights: Any) -> Document:
    constants = {"w": weight(64, 64), "v": weight(64, 64, seed=1), **weights}
    used = {k: v for k, v in constants.items() if any(k in n.input for n in nodes)}
    return load(graphs.model(nodes, {"x": ("float32", ["n", 64])}, dict.fromkeys(outputs, "float32"), used, opset=13))


def recipe(*rules: dict[str, Any]) -> Recipe:
    return Recipe.from_dict({"rules": [*rules, {"format": "int8"}]})


def test_no_kernel_is_excluded_where_every_weight_can_be_int8() -> None:
    assert excluded_kernels(document(NODES, "b"), recipe()) == {}


def test_a_rule_that_keeps_a_weight_excludes_its_kernel() -> None:
    excluded = excluded_kernels(document(NODES, "b"), recipe({"include": ["^v$"], "keep": True}))
    assert excluded == {"b": FloatKernel(Cause.WEIGHT, "a rule keeps its weight in float")}


def test_a_weight_shared_with_a_float_op_excludes_its_kernel() -> None:
    shared = [*NODES, node("Gemm", ["x", "w"], ["c"], name="float", alpha=0.5)]
    excluded = excluded_kernels(document(shared, "b", "c"), recipe())
    reason = "its weight is shared with an op that computes in float"
    assert excluded == dict.fromkeys(("a", "c"), FloatKernel(Cause.WEIGHT, reason))


def test_a_weight_without_a_site_excludes_its_kernel() -> None:
    tiny = [node("MatMul", ["x", "t"], ["y"])]
    excluded = excluded_kernels(document(tiny, "y", t=weight(64, 1)), recipe())
    assert set(excluded) == {"y"} and excluded["y"].cause is Cause.WEIGHT


def test_a_weight_that_a_nested_graph_multiplies_with_is_not_decoded_by_a_node_around_it() -> None:
    branch = onnx.helper.make_graph([node("MatMul", ["a", "v"], ["p"])], "branch", [], [onnx.ValueInfoProto(name="p")])
    nodes = [NODES[0], node("If", ["c"], ["b"], then_branch=branch, else_branch=branch)]
    proto = graphs.model(
        nodes,
        {"x": ("float32", ["n", 64]), "c": ("bool", [])},
        {"b": "float32"},
        {"w": weight(64, 64), "v": weight(64, 64, seed=1)},
    )
    assert static_sites(load(proto), {}).multiplied == {"w"}


@pytest.mark.parametrize("key", ["second", "b"])
def test_kernels_in_float_are_known_by_name_or_output(key: str) -> None:
    sites = static_sites(document(NODES, "b"), {key: FloatKernel(Cause.OPERATOR, "no kernel")})
    assert (sites.kind, sites.multiplied, sites.in_float) == (Activations.STATIC, {"w"}, set())


def test_weights_of_kernels_left_in_float_for_accuracy_stay_in_float() -> None:
    sites = static_sites(document(NODES, "b"), {"b": FOR_ACCURACY})
    assert (sites.multiplied, sites.in_float) == ({"w"}, {"v"})


def test_a_shared_weight_stays_in_float_where_one_of_its_kernels_does_for_accuracy() -> None:
    tied = [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["b"])]
    sites = static_sites(document(tied, "b"), {"b": FOR_ACCURACY})
    assert (sites.multiplied, sites.in_float) == (set(), {"w"})


def test_dynamic_activations_decide_every_product_with_an_int8_weight() -> None:
    sites = dynamic_sites(document(NODES, "b"), recipe({"include": ["^v$"], "keep": True}))
    assert (sites.kind, sites.multiplied) == (Activations.DYNAMIC, {"w"})


def test_weights_beside_static_activations_have_one_scale_per_row() -> None:
    site = find_sites(document(NODES, "b"))[0][0]
    form = static_format(site, recipe())
    assert isinstance(form, Int8) and form.bits == 8
