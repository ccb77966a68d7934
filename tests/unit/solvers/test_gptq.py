"""GPTQ against the published algorithm, exhaustive search, and its own objective in float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import graphs
import numpy as np
import pytest
from numpy.typing import NDArray

from onnxquant.errors import RecipeError, WeightError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded
from onnxquant.formats.integers import Int4, Int8
from onnxquant.solvers import Inputs, gptq, solver_named
from onnxquant.solvers.gptq import Gptq

Array = NDArray[Any]
INT8 = Int8(per_channel=True)


def gram_of(cols: int, samples: int = 0, seed: int = 0, groups: int = 1) -> Array:
    """Of correlated inputs."""
    random = graphs.rng(seed)
    found = []
    for _ in range(groups):
        mix = random.standard_normal((cols, cols)) * np.geomspace(1, 0.05, cols)
        x = random.standard_normal((samples or 4 * cols, cols)) @ mix
        found.append(x.T @ x)
    return np.array(found) if groups > 1 else found[0]


def losses(weight: Array, encoded: Encoded, gram: Array) -> Array:
    """(w - q) H (w - q)^T per row, from codes and scales."""
    q = (encoded.planes["codes"].astype(float) - encoded.format.offset) * encoded.planes["scales"].astype(float)
    error = weight.astype(float) - q
    grams = gram if gram.ndim == 3 else gram[None]
    step = len(weight) // len(grams)
    return np.array([e @ grams[i // step] @ e for i, e in enumerate(error)])


def solve(start: Encoded, weight: Array, gram: Array, count: int | None = None) -> Encoded:
    """Other codes with the scales of ``start``."""
    return Gptq().solve(start.format, weight, Inputs(gram if gram.ndim == 3 else gram[None], count), start)


def solved(weight: Array, gram: Array, form: Any = INT8) -> tuple[Encoded, Encoded]:
    before = form.encode(weight)
    kept = before.planes["codes"].copy()
    after = solve(before, weight, gram)
    assert np.array_equal(before.planes["codes"], kept)
    assert after.format == before.format and np.array_equal(after.planes["scales"], before.planes["scales"])
    assert after.planes["codes"].dtype == np.uint8
    return before, after


def published(weight: Array, scale: Array, gram: Array, damping: float = 0.01) -> Array:
    """Algorithm 1 of the paper, with its activation order and damping, one column at a time: int8 codes."""
    w, n = weight.astype(float).copy(), weight.shape[1]
    order = np.argsort(-np.diag(gram), kind="stable")
    h = gram[np.ix_(order, order)] + damping * np.diag(gram).mean() * np.eye(n)
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    w, codes = w[:, order], np.zeros(weight.shape)
    for j in range(n):
        codes[:, j] = np.clip(np.rint(w[:, j] / scale), -127, 127)
        error = (w[:, j] - codes[:, j] * scale) / u[j, j]
        w[:, j:] -= np.outer(error, u[j, j:])
    return codes[:, np.argsort(order)]


@pytest.mark.parametrize("cols", [17, 40, 300])
def test_codes_are_those_of_the_published_algorithm(cols: int) -> None:
    w, gram = graphs.weight(24, cols), gram_of(cols)
    before, after = solved(w, gram)
    scale = before.planes["scales"].astype(float)[:, 0]
    expected = published(w, scale, gram)
    old, new = losses(w, before, gram), losses(w, after, gram)
    better = new < old
    assert better.mean() > 0.7 and (new <= old).all()
    np.testing.assert_array_equal(after.planes["codes"][better].astype(int) - 128, expected[better])
    assert np.array_equal(after.planes["codes"][~better], before.planes["codes"][~better])
    assert new.sum() < 0.7 * old.sum()


@pytest.mark.parametrize(
    "form", [INT8, Int8(per_channel=False), Int4(per_channel=True), Int4(per_channel=False)], ids=str
)
def test_it_lies_between_nearest_and_the_best_neighbours(form: Any) -> None:
    w, gram = graphs.weight(60, 4), gram_of(4, seed=2)
    before, after = solved(w, gram, form)
    assert not np.array_equal(before.planes["codes"], after.planes["codes"])
    old, new = losses(w, before, gram), losses(w, after, gram)
    scale = np.broadcast_to(before.planes["scales"].astype(float), (60, 1))
    signed = before.planes["codes"].astype(float) - form.offset
    tried = [signed + np.array(step) for step in product((-1, 0, 1), repeat=4)]
    errors = [w - np.clip(t, form.bottom - form.offset, form.top - form.offset) * scale for t in tried]
    best = np.min([np.einsum("ri,ij,rj->r", e, gram, e) for e in errors], axis=0)
    assert (new <= old).all()
    assert (new.sum() - best.sum()) < 0.35 * (old.sum() - best.sum())
    assert after.planes["codes"].min() >= form.bottom and after.planes["codes"].max() <= form.top


def test_few_inputs_count_as_much_as_they_say() -> None:
    w = graphs.weight(30, 48)
    x = graphs.rng(3).standard_normal((20, 48)) * np.geomspace(1, 0.2, 48)
    gram = x.T @ x
    # Equation 23 of Chen et al., with matrices.
    s, n, p = gram / 20, 20, 48
    top = (1 - 2 / p) * np.trace(s @ s) + np.trace(s) ** 2
    share = top / ((n + 1 - 2 / p) * (np.trace(s @ s) - np.trace(s) ** 2 / p))
    assert 0.2 < share < 0.9
    before, _ = solved(w, gram)
    few = solve(before, w, gram, 20).planes["codes"]
    by_hand = published(w, before.planes["scales"].astype(float)[:, 0], gram, share / (1 - share))
    taken = (few != before.planes["codes"]).any(1)
    assert taken.mean() > 0.7
    np.testing.assert_array_equal(few[taken].astype(int) - 128, by_hand[taken])
    for white in (np.eye(48), gram * 0):
        assert np.array_equal(solve(before, w, white, 20).planes["codes"], before.planes["codes"])


@pytest.mark.parametrize(
    ("smallest", "inputs", "most"),
    [(1.0, 64, 1.001), (1.0, 5000, 1.01), (0.05, 12, 1.0), (0.05, 60, 0.75), (0.05, 2000, 0.3)],
)
def test_inputs_that_were_not_seen_lose_nothing(smallest: float, inputs: int, most: float) -> None:
    w, cols = graphs.weight(80, 64), 64
    mix = (
        graphs.rng(8).standard_normal((cols, cols)) * np.geomspace(1, smallest, cols) if smallest < 1 else np.eye(cols)
    )
    x = graphs.rng(inputs).standard_normal((inputs, cols)) @ mix
    before, blind = solved(w, x.T @ x)
    after = solve(before, w, x.T @ x, inputs)
    nearest, unshrunk, found = (losses(w, e, mix.T @ mix).sum() for e in (before, blind, after))
    assert found < most * nearest
    assert inputs > 64 or smallest < 1 or unshrunk > 2 * nearest  # there was something to lose


def test_solving_one_row_ignores_other_rows() -> None:
    w, gram = graphs.weight(50, 33), gram_of(33)
    order = graphs.rng(5).permutation(50)
    _, plain = solved(w, gram)
    _, moved = solved(w[order], gram)
    np.testing.assert_array_equal(moved.planes["codes"], plain.planes["codes"][order])


def test_groups_are_each_solved_alone() -> None:
    w, gram = graphs.weight(3 * 7, 20), gram_of(20, groups=7)
    gram[4] = 0  # its input was always the same
    _, together = solved(w, gram)
    for g in range(7):
        _, alone = solved(w[3 * g : 3 * g + 3], gram[g])
        np.testing.assert_array_equal(together.planes["codes"][3 * g : 3 * g + 3], alone.planes["codes"])


def test_a_tall_weight_is_solved_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    w, gram = graphs.weight(50, 20), gram_of(20)
    _, whole = solved(w, gram)
    monkeypatch.setattr(gptq, "_ROWS", 16)
    _, parts = solved(w, gram)
    np.testing.assert_array_equal(parts.planes["codes"], whole.planes["codes"])


def test_columns_that_are_never_used_are_rounded_to_nearest() -> None:
    w, gram = graphs.weight(30, 12), gram_of(12)
    dead = [2, 7]
    gram[dead] = 0
    gram[:, dead] = 0
    before, after = solved(w, gram)
    assert np.array_equal(after.planes["codes"][:, dead], before.planes["codes"][:, dead])
    assert not np.array_equal(after.planes["codes"], before.planes["codes"])


@pytest.mark.parametrize("gram", [np.zeros((9, 9)), np.full((9, 9), np.nan), np.diag([np.inf] * 9)], ids=str)
def test_gram_matrices_without_information_leave_codes_unchanged(gram: Array) -> None:
    before, after = solved(graphs.weight(6, 9), gram)
    assert np.array_equal(after.planes["codes"], before.planes["codes"])


@pytest.mark.parametrize(
    "case", ["one sample", "one column", "equal columns", "indefinite", "tiny", "huge", "zero rows"]
)
def test_degenerate_matrices_are_never_worse_than_nearest(case: str) -> None:
    cols = 1 if case == "one column" else 16
    w, gram = graphs.weight(40, cols), gram_of(cols, samples=int(case == "one sample"))
    if case == "equal columns":
        gram = np.ones((cols, cols))
    if case == "indefinite":
        gram = gram - 0.1 * np.trace(gram) * np.eye(cols)
    if case == "zero rows":
        w[3] = 0
    size = {"tiny": 1e-290, "huge": 1e290}.get(case, 1.0)
    before, after = solved(w, gram * size)
    assert (losses(w, after, gram) <= losses(w, before, gram)).all()
    assert np.array_equal(after.planes["codes"], before.planes["codes"]) == (case == "one column")
    if case in ("tiny", "huge"):
        assert np.array_equal(after.planes["codes"], solved(w, gram)[1].planes["codes"])


def test_a_group_without_a_factor_does_not_change_its_neighbours() -> None:
    w, gram = graphs.weight(4, 8), gram_of(8, groups=4)
    _, alone = solved(w[1:], gram[1:])
    gram[0] -= 0.1 * np.trace(gram[0]) * np.eye(8)
    _, together = solved(w, gram)
    np.testing.assert_array_equal(together.planes["codes"][1:], alone.planes["codes"])


def test_an_empty_weight_stays_empty() -> None:
    _, after = solved(np.zeros((0, 5), np.float32), np.eye(5))
    assert after.planes["codes"].shape == (0, 5)


@pytest.mark.parametrize("name", ["llm_int8", "f16"])
def test_formats_without_codes_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=f"solver gptq, format {name}: "):
        Gptq().solve(format_named(name), graphs.weight(4, 64), Inputs(np.eye(64)[None]))


@pytest.mark.parametrize("shape", [(5, 5), (3, 6, 6), (0, 6, 6), (6,), (1, 5, 5)], ids=str)
def test_matrices_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightError, match="does not fit a weight of shape"):
        Gptq().solve(INT8, graphs.weight(4, 6), Inputs(np.ones(shape)))


def test_a_start_of_something_else_is_refused() -> None:
    w, inputs = graphs.weight(4, 6), Inputs(np.eye(6)[None])
    for start in (INT8.encode(w[:2]), Int4(per_channel=True).encode(w), INT8.with_(symmetric=False).encode(w)):
        with pytest.raises(WeightError, match=r"start of format .* expected int8 .*\[4, 6\]"):
            Gptq().solve(INT8, w, inputs, start)


def test_weights_that_are_not_finite_are_refused_with_their_place() -> None:
    w, inputs = graphs.weight(4, 6), Inputs(np.eye(6)[None])
    start = INT8.encode(w)
    w[2, 3] = np.nan
    for begun in (None, start):
        with pytest.raises(WeightError, match="row 2, column 3"):
            Gptq().solve(INT8, w, inputs, begun)


def test_it_needs_inputs() -> None:
    with pytest.raises(RecipeError, match="solver gptq needs to know what weights are multiplied with"):
        Gptq().solve(INT8, graphs.weight(4, 6))


GRIDS: dict[str, dict[str, Any]] = {
    "int4": {}, "int3": {"symmetric": False}, "int2": {"symmetric": False, "zero_point": "float"}, "q4_0": {}, "q4_1": {},
    "q8_0": {}, "q2_k": {}, "q3_k": {}, "q4_k": {}, "q6_k": {}, "nf4": {"block_size": 32, "double_quant": True},
    "fp4": {"block_size": 32}, "f8_e4m3": {}, "tq2_0": {}, "i2_s": {},
}  # fmt: skip


def textbook(weight: Array, encoded: Encoded, gram: Array) -> Array:
    """Algorithm 1 of the paper on any grid, with its activation order, static groups and damping: decoded values.

    Rounded column by column, the rest of a row made to compensate by the explicitly inverted Hessian (OBQ's update).
    """
    grid = encoded.format.grid(encoded)
    rows, cols = weight.shape
    hessian = gram + 0.01 * np.diag(gram).mean() * np.eye(cols)
    out = np.empty((rows, cols))
    order = list(np.argsort(-np.diag(gram), kind="stable"))
    for r in range(rows):
        w = weight[r].astype(float)
        for i, k in enumerate(order):
            rest = order[i:]
            inverse = np.linalg.inv(hessian[np.ix_(rest, rest)])
            at = (0, 0) if grid.of_tensor else (r, k // grid.group)
            values = grid.levels.astype(float) * float(grid.step[at]) + float(grid.shift[at])
            out[r, k] = values[np.abs(values - w[k]).argmin()]
            w[rest] -= (w[k] - out[r, k]) / inverse[0, 0] * inverse[:, 0]
    return out


@pytest.mark.parametrize("name", GRIDS)
def test_on_every_kind_of_grid_it_is_the_textbook(name: str) -> None:
    form = format_named(name, **GRIDS[name])
    w, gram = graphs.weight(6, 64), gram_of(64)
    start = form.encode(w)
    after = solve(start, w, gram)
    for plane in start.planes.keys() - {"codes"}:
        np.testing.assert_array_equal(after.planes[plane], start.planes[plane])
    expected, found = textbook(w, start, gram), form.decode(after)
    error = w - expected
    better = np.einsum("rk,kl,rl->r", error, gram, error) < losses_of(w, form.decode(start), gram)
    assert better.mean() > 0.5
    np.testing.assert_allclose(found[better], expected[better], rtol=2e-6, atol=1e-7)
    np.testing.assert_array_equal(found[~better], form.decode(start)[~better])


def losses_of(weight: Array, decoded: Array, gram: Array) -> Array:
    error = weight.astype(float) - decoded
    return np.einsum("rk,kl,rl->r", error, gram, error)


@pytest.mark.parametrize("name", GRIDS)
def test_scales_it_chooses_are_never_worse_than_those_of_nearest_and_mse(name: str) -> None:
    form = format_named(name, **GRIDS[name])
    w, gram = graphs.weight(12, 128), gram_of(128)
    inputs = Inputs(gram[None])
    new = losses_of(w, form.decode(Gptq().solve(form, w, inputs)), gram)
    others = [form.encode(w)]
    if not solver_named("mse").refusal(form):
        others.append(solver_named("mse").solve(form, w, inputs))
    for other in others:
        old = losses_of(w, form.decode(other), gram)
        assert (new.sum() <= old.sum()) if name == "i2_s" else (new <= old * (1 + 1e-9)).all()
        assert new.sum() < 0.7 * old.sum()


def test_groups_of_columns_and_of_rows_are_split_at_once() -> None:
    """Each Gram matrix with its rows, each step with its columns, whichever the order of columns."""
    form = format_named("int4", symmetric=False)
    w, gram = graphs.weight(3 * 4, 80), gram_of(80, groups=3)
    start = form.encode(w)
    together = solve(start, w, gram)
    for g in range(3):
        part = slice(4 * g, 4 * g + 4)
        alone = solve(form.encode(w[part]), w[part], gram[g])
        np.testing.assert_array_equal(together.planes["codes"][part], alone.planes["codes"])
