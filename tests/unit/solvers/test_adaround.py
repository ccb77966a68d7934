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
from onnxquant.solvers import solver_named
from onnxquant.solvers.base import Inputs

Array = NDArray[Any]
SOLVER = solver_named("adaround")
FORMATS = [
    format_named("int4", per_channel=True),
    format_named("int3", block_size=32, symmetric=False),
    format_named("int2", per_channel=False),
    format_named("nf4"),
    format_named("q4_0"),
]


def rows_of(cols: int, count: int, *, rank: int, noise: float, seed: int = 0) -> Array:
    """Inputs of which a few directions hold most."""
    mix = graphs.rng(5).standard_normal((rank, cols))
    x = graphs.rng(seed + 6).standard_normal((count, rank)) @ mix
    return np.asarray(x + noise * rank**0.5 * graphs.rng(seed + 7).standard_normal((count, cols)))


def inputs_of(x: Array, *, counted: bool = False) -> Inputs:
    return Inputs((x.T @ x)[None], len(x) if counted else None)


def losses(weight: Array, encoded: Encoded, gram: Array) -> Array:
    error = weight.astype(np.float64) - encoded.format.decode(encoded).astype(np.float64)
    return np.array([e @ gram @ e for e in error])


def least(weight: Array, start: Encoded, gram: Array) -> Array:
    """The smallest loss of each row over all ways to round each weight up or down, in float64."""
    grid = start.format.grid(start)
    rows, cols = weight.shape
    step, shift = (np.broadcast_to(np.repeat(s, grid.group, 1)[:, :cols], (rows, cols)) for s in (grid.step, grid.shift))
    found = []
    for r in range(rows):
        lattice = np.sort(grid.levels[:, None].astype(np.float64) * step[r] + shift[r], axis=0)
        above = np.clip((lattice < weight[r]).sum(0), 1, len(lattice) - 1)
        sides = [lattice[[above[c] - 1, above[c]], c] for c in range(cols)]
        errors = weight[r] - np.array(list(product(*sides)))
        found.append(np.einsum("ti,ij,tj->t", errors, gram, errors).min())
    return np.array(found)


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize(("noise", "most"), [(0.3, 1.12), (1.0, 1.02)])
def test_near_the_best_of_all_roundings(form: Format, noise: float, most: float) -> None:
    weight = graphs.weight(60, 9)
    x = rows_of(9, 100, rank=9, noise=noise)
    start, inputs = form.encode(weight), inputs_of(x)
    found = SOLVER.solve(form, weight, inputs, start)
    assert all(np.array_equal(found.planes[n], p) for n, p in start.planes.items() if n != "codes")
    got, plain, best = losses(weight, found, inputs.gram[0]), losses(weight, start, inputs.gram[0]), least(weight, start, inputs.gram[0])
    print(form.name, noise, got.sum() / best.sum(), plain.sum() / best.sum(), np.mean(got < best * 1.0001))
    assert (got <= plain * (1 + 1e-9)).all()
    assert got.sum() < most * best.sum()
    assert (got > best * (1 - 1e-5)).all()  # nothing is better than the best
