"""Every solver x every format of the registries: the laws that solvers state. A new one is tested by being registered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import graphs
import numpy as np
import pytest
import supported
from every import every
from numpy.typing import NDArray
from variants import CASES, fits, label

from onnxquant.errors import RecipeError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded
from onnxquant.numerics.rows import RowSplit
from onnxquant.solvers import Inputs, Solver, losses, registry, solver_named, solvers

Array = NDArray[Any]
PAIRS = [
    pytest.param(solver, name, parameters, id=f"{solver.name}-{label(name, parameters)}")
    for solver in solvers()
    for name, parameters in (case.values for case in CASES)
    if not parameters.get("permuted") and solver.refusal(format_named(name, **parameters)) is None
]
# Parameters do not meet where a law is about rows and columns alone.
FEW = [pair for pair in PAIRS if len(pair.values[2]) < 2]
# With default parameters, and of those with another one every third.
PLAIN = [pair for pair in FEW if not pair.values[2]] + [pair for pair in FEW if pair.values[2]][::3]
# Of those with several parameters every third.
SPREAD = FEW + [pair for pair in PAIRS if len(pair.values[2]) >= 2][::3]
# Weights of other rows, or of rows in other places, change what a stochastic or a nested format stores.
ROWS_APART = [p for p in FEW if not p.values[2].get("stochastic") and not p.values[2].get("double_quant")]
SHAPES = [(1, 1), (1, 33), (5, 1), (3, 257), (6, 64), (0, 64), (3, 0)]
# Every shape with default parameters, with others those of a short block and of whole blocks.
SHAPED = [
    pytest.param(*pair.values, shape, id=f"{pair.id}-{shape[0]}x{shape[1]}")
    for pair in FEW
    for shape in (SHAPES if not pair.values[2] else [(1, 33), (6, 64)])
    if fits(*pair.values[1:], shape[1])
]


def width(name: str, parameters: dict[str, Any]) -> int:
    """Columns of a small weight that are whole blocks of a format."""
    return 64 if fits(name, parameters, 64) else 128


def inputs_of(cols: int, groups: int = 1, samples: int = 0, seed: int = 0) -> Inputs:
    """Of correlated inputs."""
    mix = graphs.rng(seed).standard_normal((groups, cols, cols)) * np.geomspace(1, 0.05, cols)
    x = graphs.rng(seed + 1).standard_normal((groups, samples or 4 * cols, cols)) @ mix
    return Inputs(np.swapaxes(x, 1, 2) @ x, samples or None)


def objective(solver: Solver, weight: Array, encoded: Encoded, inputs: Inputs) -> Array:
    """What a solver says it makes small, per row, in float64; of one that is not known here what every solver states."""
    error = weight.astype(float) - encoded.format.decode(encoded)
    energy = np.repeat(inputs.energy, len(weight) // len(inputs.gram), axis=0)
    weighed = error**2 * energy
    known = {"rtn": error**2, "mse": weighed, "awq": weighed, "hqq": np.abs(error) ** 0.7}
    return known[solver.name].sum(1) if solver.name in known else losses(weight, weight - error, inputs)


def assert_same(a: Encoded, b: Encoded) -> None:
    assert a.format == b.format and a.planes.keys() == b.planes.keys()
    for name, plane in a.planes.items():
        np.testing.assert_array_equal(plane, b.planes[name], err_msg=name)


@every(("solver", "name", "parameters"), SPREAD, by="name")
def test_never_worse_than_nearest_on_its_own_objective(solver: Solver, name: str, parameters: dict[str, Any]) -> None:
    form, cols = format_named(name, **parameters), width(name, parameters)
    w, inputs = graphs.weight(12, cols), inputs_of(cols)
    w[3], w[4], w[5] = 0, 0.3, np.where(np.arange(cols) == 40, 5, w[5])
    found = solver.solve(form, w, inputs)
    declared = found.format.planes(12, cols)
    assert {n: (p.shape, p.dtype) for n, p in found.planes.items()} == {
        n: (p.shape, p.dtype) for n, p in declared.items()
    }
    assert np.isfinite(form.decode(found)).all()
    old, new = (objective(solver, w, e, inputs) for e in (form.encode(w), found))
    if parameters.get("per_channel") is False or name == "i2_s":
        old, new = old.sum(), new.sum()
    assert (new <= old * (1 + 1e-9)).all()


@every(("solver", "name", "parameters"), ROWS_APART, by="name")
def test_solving_one_row_ignores_other_rows(solver: Solver, name: str, parameters: dict[str, Any]) -> None:
    form = format_named(name, **parameters)
    cols = width(name, parameters)
    w, inputs = graphs.weight(9, cols), inputs_of(cols)
    order = graphs.rng(5).permutation(9)
    plain, moved = (form.decode(solver.solve(form, v, inputs)) for v in (w, w[order]))
    # One scale for the tensor may be a sum over all rows.
    np.testing.assert_allclose(moved, plain[order], rtol=1e-3 if parameters.get("per_channel") is False else 0)


@every(("solver", "name", "parameters"), PLAIN, by="name")
def test_parts_and_threads_do_not_change_the_result(solver: Solver, name: str, parameters: dict[str, Any]) -> None:
    form = format_named(name, **parameters)
    cols = width(name, parameters)
    w, inputs = graphs.weight(11, cols), inputs_of(cols)
    whole = solver.solve(form, w, inputs)
    for rows, threads in ((4, 1), (5, 3)):
        assert_same(replace(solver, split=RowSplit(4 * cols * rows, threads)).solve(form, w, inputs), whole)


@every(("solver", "name", "parameters", "shape"), SHAPED, by="name")
def test_every_shape_is_solved(solver: Solver, name: str, parameters: dict[str, Any], shape: tuple[int, int]) -> None:
    form = format_named(name, **parameters)
    w = graphs.weight(*shape)
    found = solver.solve(form, w, inputs_of(shape[1]))
    assert (found.rows, found.cols) == form.decode(found).shape == shape
    assert np.abs(form.decode(found) - w).sum() <= np.abs(w).sum() * 2


DEGENERATE: dict[str, Any] = {
    "one sample": lambda n: inputs_of(n, samples=1),
    "zeros": lambda n: Inputs(np.zeros((1, n, n))),
    "not a number": lambda n: Inputs(np.full((1, n, n), np.nan)),
    "infinite": lambda n: Inputs(np.full((1, n, n), np.inf)),
    "one is infinite": lambda n: Inputs(np.where(np.arange(n * n).reshape(1, n, n) == 5, np.inf, np.eye(n))),
    "equal": lambda n: Inputs(np.ones((1, n, n)), 3),
    "indefinite": lambda n: Inputs(inputs_of(n).gram - 0.1 * np.trace(inputs_of(n).gram[0]) * np.eye(n)),
    "dead channels": lambda n: Inputs(inputs_of(n).gram * np.outer(np.arange(n) > 5, np.arange(n) > 5)),
    "dead group": lambda n: Inputs(inputs_of(n).gram * np.outer(np.arange(n) > 31, np.arange(n) > 31)),
    "tiny": lambda n: Inputs(inputs_of(n).gram * 1e-290),
    "huge": lambda n: Inputs(inputs_of(n).gram * 1e290),
}


# A format of every kind: steps, steps from a minimum, blocks of blocks, a table, and one without blocks.
SOME = [
    pytest.param(s, name, id=f"{s.name}-{name}")
    for s in solvers()
    for name in ("int4", "q4_1", "q4_k", "nf4", "int8")
    if s.refusal(format_named(name)) is None
]


@every(("solver", "name"), SOME, by="solver")
@every("case", DEGENERATE)
def test_degenerate_inputs_keep_the_result_near_the_weight(solver: Solver, name: str, case: str) -> None:
    w, form = graphs.weight(8, 64), format_named(name)
    decoded = form.decode(solver.solve(form, w, DEGENERATE[case](64)))
    nearest = np.square(form.decode(form.encode(w)) - w).sum()
    # Errors that correlated inputs cancel may be large: twelve times as much as nearest values leave is still the weight.
    assert np.square(decoded - w).sum() < (1.05 if case in ("zeros", "not a number", "infinite") else 12) * nearest


@every(("solver", "name"), SOME, by="solver")
@every("exponent", [-960, 960])
def test_the_unit_of_inputs_does_not_matter(solver: Solver, name: str, exponent: int) -> None:
    w, form, inputs = graphs.weight(8, 64), format_named(name), inputs_of(64)
    assert_same(solver.solve(form, w, Inputs(inputs.gram * 2.0**exponent)), solver.solve(form, w, inputs))


@pytest.mark.parametrize("solver", solvers(), ids=[s.name for s in solvers()])
def test_formats_that_a_solver_takes_are_those_of_the_table(solver: Solver) -> None:
    assert supported.solved_by(solver) == supported.table()["solvers"][solver.name]


@pytest.mark.parametrize("solver", solvers(), ids=[s.name for s in solvers()])
def test_refusals_say_why(solver: Solver) -> None:
    forms = [format_named(name, **parameters) for name, parameters in (case.values for case in CASES)]
    reasons = {form: reason for form in forms if (reason := solver.refusal(form)) is not None}
    assert bool(reasons) == (solver.name != "rtn")
    for form, reason in reasons.items():
        assert len(reason) > 20
        with pytest.raises(RecipeError, match=f"solver {solver.name}, format {form.name}: "):
            solver.solve(form, graphs.weight(2, 128), inputs_of(128))


@every(("solver", "name", "parameters"), SPREAD, by="name")
def test_scales_of_a_start_stay(solver: Solver, name: str, parameters: dict[str, Any]) -> None:
    form, cols = format_named(name, **parameters), width(name, parameters)
    w, inputs = graphs.weight(7, cols), inputs_of(cols)
    start = form.encode(w * np.float32(1.1))
    found = solver.solve(form, w, inputs, start)
    for plane in start.planes.keys() - {"codes"}:
        np.testing.assert_array_equal(found.planes[plane], start.planes[plane])
    old, new = (objective(solver, w, e, inputs) for e in (start, found))
    assert (new <= old * (1 + 1e-9)).all()


@pytest.mark.parametrize("solver", solvers(), ids=[s.name for s in solvers()])
def test_groups_of_inputs_are_each_solved_alone(solver: Solver) -> None:
    w, inputs = graphs.weight(3 * 5, 72), inputs_of(72, groups=3)
    for name, parameters in (("int4", {"symmetric": False}), ("q4_1", {}), ("q5_k", {})):
        form = format_named(name, **parameters)
        together = form.decode(solver.solve(form, w, inputs))
        for g in range(3):
            part = slice(5 * g, 5 * g + 5)
            alone = form.decode(solver.solve(form, w[part], Inputs(inputs.gram[g : g + 1])))
            np.testing.assert_array_equal(together[part], alone)


@pytest.mark.parametrize("solver", solvers(), ids=[s.name for s in solvers()])
@every("dtype", ["float16", "float64", "bfloat16"])
def test_other_float_types_and_strides_do_not_matter(solver: Solver, dtype: str) -> None:
    form = format_named("q4_1")
    w, inputs = graphs.weight(6, 64).astype(np.dtype(dtype)), inputs_of(64)
    plain = solver.solve(form, w.astype(np.float32), inputs)
    assert_same(solver.solve(form, w, inputs), plain)
    assert_same(solver.solve(form, np.ascontiguousarray(w.T).T, inputs), plain)


@pytest.mark.parametrize("solver", solvers(), ids=[s.name for s in solvers()])
def test_solvers_say_what_they_are_and_columns_come_as_stored(solver: Solver) -> None:
    assert solver_named(solver.name) is solver
    assert 10 < len(solver.summary) < 130 and "\n" not in solver.summary
    with pytest.raises(RecipeError, match="expected columns in their stored order"):
        solver.solve(format_named("q4_1", permuted=True), graphs.weight(2, 64), inputs_of(64))


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown solver 'gtpq'; did you mean 'gptq'"):
        solver_named("gtpq")
    assert {"rtn", "mse", "hqq", "gptq"} <= registry().keys()


def test_losses_are_those_of_every_row() -> None:
    w, decoded = graphs.weight(6, 20), graphs.weight(6, 20, seed=3)
    inputs = inputs_of(20, groups=2)
    error = w.astype(float) - decoded
    by_hand = [error[r] @ inputs.gram[r // 3] @ error[r] for r in range(6)]
    np.testing.assert_allclose(losses(w, decoded, inputs), by_hand, rtol=1e-12)
    np.testing.assert_allclose(losses(w, decoded), (error**2).sum(1), rtol=1e-12)
    assert losses(w[:0], decoded[:0]).shape == losses(w[:0], decoded[:0], inputs).shape == (0,)
