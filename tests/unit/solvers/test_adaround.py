"""AdaRound against every rounding there is, against GPTQ on unseen inputs, and where there is nothing to learn."""

from __future__ import annotations

from itertools import product
from typing import Any

import graphs
import numpy as np
import pytest
from numpy.typing import NDArray

from onnxquant.errors import RecipeError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded, Format
from onnxquant.solvers import adaround, solver_named
from onnxquant.solvers.base import Inputs

Array = NDArray[Any]
SOLVER = solver_named("adaround")
FORMATS = [
    format_named("int4", per_channel=True),
    format_named("int3", block_size=32, symmetric=False),
    format_named("int2", per_channel=False),
    format_named("nf4"),
    format_named("q4_0"),
    format_named("q4_k"),
]


def rows_of(cols: int, count: int, *, rank: int, noise: float, seed: int = 0) -> Array:
    """Inputs of which a few directions hold most."""
    mix = graphs.rng(5).standard_normal((rank, cols))
    x = graphs.rng(seed + 6).standard_normal((count, rank)) @ mix
    return np.asarray(x + noise * rank**0.5 * graphs.rng(seed + 7).standard_normal((count, cols)))


def losses(weight: Array, encoded: Encoded, gram: Array) -> Array:
    error = weight.astype(np.float64) - encoded.format.decode(encoded).astype(np.float64)
    return np.array([e @ gram @ e for e in error])


def sides_of(weight: Array, start: Encoded, column: int) -> list[Array]:
    """Per row the values that a weight of this column can be rounded down and up to, in float64."""
    grid = start.format.grid(start)
    found = []
    for r in range(len(weight)):
        at = (0, 0) if grid.step.shape == (1, 1) else (r, column // grid.group)
        lattice = np.sort(grid.levels.astype(np.float64) * grid.step[at] + grid.shift[at])
        above = np.clip(np.searchsorted(lattice, weight[r, column]), 1, len(lattice) - 1)
        found.append(lattice[[above - 1, above]])
    return found


def least(weight: Array, start: Encoded, gram: Array, live: Array) -> Array:
    """The smallest loss of each row over all ways to round each weight that is used up or down, in float64."""
    sides = [sides_of(weight, start, c) for c in live]
    found = []
    for r, row in enumerate(weight[:, live]):
        errors = row - np.array(list(product(*(side[r] for side in sides))))
        found.append(np.einsum("ti,ij,tj->t", errors, gram[np.ix_(live, live)], errors).min())
    return np.array(found)


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize(("noise", "most"), [(0.3, 1.05), (1.0, 1.01)])
def test_near_the_best_of_all_roundings(form: Format, noise: float, most: float) -> None:
    cols, live = 256, np.arange(9) * 27 + 3  # the others are never used
    weight = graphs.weight(60, cols)
    x = np.zeros((100, cols))
    x[:, live] = rows_of(9, 100, rank=9, noise=noise)
    start, gram = form.encode(weight), x.T @ x
    found = SOLVER.solve(form, weight, Inputs(gram[None]), start)
    assert all(np.array_equal(found.planes[n], p) for n, p in start.planes.items() if n != "codes")
    got, plain, best = losses(weight, found, gram), losses(weight, start, gram), least(weight, start, gram, live)
    assert (got <= plain * (1 + 1e-9)).all()
    assert got.sum() < most * best.sum() < plain.sum()
    assert (got > best * (1 - 1e-5)).all()  # nothing is better than the best


@pytest.mark.parametrize(("noise", "count", "most"), [(0.15, 2000, 0.2), (0.5, 2000, 0.45), (0.5, 100, 0.6)])
def test_unseen_inputs_lose_less_than_with_gptq(noise: float, count: int, most: float) -> None:
    weight, cols = graphs.weight(40, 128), 128
    form = format_named("int4", per_channel=True)
    seen, unseen = (rows_of(cols, n, rank=32, noise=noise, seed=s) for n, s in ((count, 1), (5000, 50)))
    start, inputs = form.encode(weight), Inputs((seen.T @ seen)[None], count)
    ways = (start, solver_named("gptq").solve(form, weight, inputs, start), SOLVER.solve(form, weight, inputs, start))
    nearest, gptq, found = (losses(weight, e, unseen.T @ unseen).sum() for e in ways)
    assert found < gptq and found < most * nearest


def test_few_inputs_count_as_much_as_they_say() -> None:
    weight, form = graphs.weight(80, 64), format_named("int4", per_channel=True)
    x = graphs.rng(4).standard_normal((64, 64))
    start = form.encode(weight)
    nearest, blind, found = (
        np.square(form.decode(e) - weight).sum()  # the loss where inputs are white
        for e in (start, *(SOLVER.solve(form, weight, Inputs((x.T @ x)[None], n), start) for n in (None, 64)))
    )
    assert blind > 1.2 * nearest  # there was something to lose
    assert found < 1.01 * nearest


def test_steps_are_chosen_too_and_never_for_the_worse() -> None:
    weight, form = graphs.weight(40, 64), format_named("int3", block_size=32)
    x = rows_of(64, 500, rank=16, noise=0.5)
    gram = x.T @ x
    found = SOLVER.solve(form, weight, Inputs(gram[None]))
    own = losses(weight, found, gram)
    assert not np.array_equal(found.planes["scales"], form.encode(weight).planes["scales"])
    for other in (form.encode(weight), solver_named("mse").solve(form, weight, Inputs(gram[None]))):
        assert (own <= losses(weight, other, gram) * (1 + 1e-9)).all()


def test_a_start_that_is_better_is_kept() -> None:
    """No rounding up or down reaches what may go further: the best of two steps to either side."""
    form = format_named("int4", per_channel=True)
    weight = graphs.weight(50, 5)
    x = rows_of(5, 50, rank=1, noise=0.02)
    gram = x.T @ x
    start = form.encode(weight)
    tried = np.array(list(product(range(-2, 3), repeat=5)))
    codes = np.clip(start.planes["codes"].astype(int)[:, None] + tried, 0, 15)
    errors = weight[:, None] - (codes - 8.0) * start.planes["scales"].astype(np.float64)[:, None]
    best = np.einsum("rti,ij,rtj->rt", errors, gram, errors).argmin(axis=1)
    start.planes["codes"] = codes[np.arange(50), best].astype(np.uint8)
    found = SOLVER.solve(form, weight, Inputs(gram[None]), start)
    np.testing.assert_array_equal(found.planes["codes"], start.planes["codes"])


def test_solving_one_row_ignores_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    form = format_named("int4", block_size=32)
    weight, x = graphs.weight(50, 33), rows_of(33, 200, rank=8, noise=0.3)
    start, inputs, order = form.encode(weight), Inputs((x.T @ x)[None]), graphs.rng(5).permutation(50)
    plain = SOLVER.solve(form, weight, inputs, start).planes["codes"]
    assert not np.array_equal(plain, start.planes["codes"])
    moved = SOLVER.solve(form, weight[order], inputs, form.encode(weight[order])).planes["codes"]
    np.testing.assert_array_equal(moved, plain[order])
    monkeypatch.setattr(adaround, "_TOGETHER", 7 * 33)
    np.testing.assert_array_equal(SOLVER.solve(form, weight, inputs, start).planes["codes"], plain)


def test_groups_are_each_solved_alone() -> None:
    form = format_named("int4", per_channel=True)
    weight = graphs.weight(4 * 6, 20)
    grams = np.array([x.T @ x for x in (rows_of(20, 80, rank=5, noise=0.4, seed=s) for s in range(4))])
    grams[2] = 0  # its input was always zero
    grams[3] = np.nan
    start = form.encode(weight)
    together = SOLVER.solve(form, weight, Inputs(grams, 80), start).planes["codes"]
    for g in range(2):
        part = slice(6 * g, 6 * g + 6)
        alone = SOLVER.solve(form, weight[part], Inputs(grams[g : g + 1], 80), form.encode(weight[part]))
        np.testing.assert_array_equal(together[part], alone.planes["codes"])
        assert not np.array_equal(together[part], start.planes["codes"][part])
    np.testing.assert_array_equal(together[12:], start.planes["codes"][12:])


@pytest.mark.parametrize(
    "case", ["one sample", "one column", "one row", "equal columns", "tiny", "huge", "constant rows"]
)
def test_degenerate_cases_are_never_worse_than_nearest(case: str) -> None:
    cols = 1 if case == "one column" else 16
    weight = graphs.weight(1 if case == "one row" else 30, cols)
    x = rows_of(cols, 1 if case == "one sample" else 40, rank=4, noise=0.3)
    if case == "equal columns":
        x[:] = 1
    if case == "constant rows":
        weight[3], weight[4] = 0, 0.25
    form = format_named("int4", block_size=16, symmetric=False)
    gram = x.T @ x
    size = {"tiny": 1e-290, "huge": 1e290}.get(case, 1.0)
    start = form.encode(weight)
    found = SOLVER.solve(form, weight, Inputs(gram[None] * size, 40), start)
    got, plain = losses(weight, found, gram), losses(weight, start, gram)
    assert (got <= plain * (1 + 1e-9) + 1e-30).all()
    assert case == "one column" or got.sum() < 0.95 * plain.sum()


def test_work_bounds_the_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    task = adaround._Choice(graphs.weight(8, 16), graphs.weight(8, 16, seed=3))
    asked = []
    monkeypatch.setattr(adaround._Choice, "_learn", lambda self, gram, n: asked.append(n) or np.zeros((8, 16), bool))
    for work in (1 << 40, 50 * 8 * 16 * 16, 1):
        monkeypatch.setattr(adaround, "_WORK", work)
        task.solve(np.eye(16, dtype=np.float32), 8)
    assert asked == [64, 50, 16]


def test_inputs_are_needed() -> None:
    form = format_named("int4")
    with pytest.raises(RecipeError, match="adaround needs to know what weights are multiplied with"):
        SOLVER.solve(form, graphs.weight(3, 32))
