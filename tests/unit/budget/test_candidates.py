"""Formats to choose among, and what each costs."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import matmul

from onnxquant.budget.candidates import candidates, parse, spec_of
from onnxquant.budget.loss_table import probe_places
from onnxquant.errors import RecipeError
from onnxquant.formats import format_named
from onnxquant.graph.io import load
from onnxquant.graph.sites import find_sites
from onnxquant.recipe.rules import Rule


@pytest.mark.parametrize(
    "spec", ["int8", "q4_0", "int4:block_size=64", "int4:block_size=64,symmetric=false", "nf4:double_quant=true"]
)
def test_spec_of_a_format_parses_to_the_same_format(spec: str) -> None:
    assert [spec_of(form) for form in parse([spec])] == [spec]


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        (["int9"], "unknown format 'int9'"),
        (["int4:block=64"], "no parameter 'block'"),
        (["int4:block_size"], "expected NAME:parameter=value"),
        (["int4", "int4"], "one is named twice"),
        (["int4:block_size=7"], "block_size 7"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_reason(specs: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(specs)


def test_loss_of_a_candidate_is_the_error_of_its_products() -> None:
    document = load(matmul(k=96, n=64))
    site = find_sites(document)[0][0]
    weight = site.view.matrix(document.array(site.tensor)).astype(np.float64)
    x = np.random.default_rng(1).standard_normal((500, 96)) * np.geomspace(0.01, 10, 96)
    forms = parse(["int8", "int4", "int2"])
    found = candidates(document, site, forms, Rule(target="custom"), (x.T @ x)[None])
    assert [c.label for c in found] == ["float32", "int8", "int4", "int2"]
    assert found[0].loss == 0 and found[0].decision.nbytes == site.nbytes
    for candidate, form in zip(found[1:], forms, strict=True):
        decoded = form.decode(form.encode(weight.astype(np.float32)))
        error, signal = x @ (decoded - weight).T, x @ weight.T
        assert candidate.loss == pytest.approx((error**2).sum() / (signal**2).sum(), rel=1e-3)
    plain = candidates(document, site, forms, Rule(target="custom"), None)[2].loss
    decoded = forms[1].decode(forms[1].encode(weight.astype(np.float32)))
    assert plain == pytest.approx(((decoded - weight) ** 2).sum() / (weight**2).sum(), rel=1e-4)


def test_a_format_that_no_target_takes_is_no_candidate() -> None:
    document = load(matmul(k=40, n=48))
    site = find_sites(document)[0][0]
    found = candidates(document, site, [format_named("int8"), format_named("nf4")], Rule(target="custom"), None)
    assert [c.label for c in found] == ["float32", "int8"]


@pytest.mark.parametrize(("count", "chosen"), [(1, 1), (5, 9), (30, 9), (30, 2), (200, 60)])
def test_measured_weights_include_the_first_and_the_last(count: int, chosen: int) -> None:
    places = probe_places(count, chosen)
    assert places[0] == 0 and places[-1] == count - 1
    assert places == sorted(set(places)) and min(chosen, count) * 0.8 <= len(places) <= min(chosen, count)
    gaps = np.diff(places)
    assert not len(gaps) or (gaps[0] <= gaps[len(gaps) // 2] and gaps[-1] <= gaps[len(gaps) // 2] + 1)
