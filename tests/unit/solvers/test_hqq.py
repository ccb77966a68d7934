"""hqq against the authors' iteration in plain float64, and its own objective."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import pytest
from numpy.typing import NDArray

from onnxquant.errors import RecipeError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded
from onnxquant.numerics.rows import RowSplit
from onnxquant.solvers import Inputs
from onnxquant.solvers.hqq import Hqq

Array = NDArray[Any]
FORMS = {
    "int4 float": format_named("int4", symmetric=False, zero_point="float"),
    "int3 float 64": format_named("int3", symmetric=False, zero_point="float", block_size=64),
    "int2 float": format_named("int2", symmetric=False, zero_point="float"),
    "q4_1": format_named("q4_1"),
    "q5_1": format_named("q5_1"),
}


def powers(weight: Array, encoded: Encoded) -> Array:
    return (np.abs(weight.astype(float) - encoded.format.decode(encoded)) ** 0.7).sum(1)


def published(group: Array, step: float, shift: float, top: int) -> tuple[float, Array]:
    """The iteration of the authors' optimize_weights_proximal for one block: its best shift, and errors on the way.

    Their names: W_q = round(W * scale + zero), scale = 1 / step, zero = -shift / step.
    """
    w, scale, zero = group.astype(float), 1 / step, -shift / step
    beta, best, found, errors = 10.0, np.inf, zero, []
    for _ in range(20):
        w_q = np.clip(np.rint(w * scale + zero), 0, top)
        w_r = (w_q - zero) / scale
        difference = np.abs(w - w_r)
        error = (difference**0.7).sum()
        errors.append(error)
        if error >= best:
            break
        best, found = error, zero
        with np.errstate(divide="ignore", invalid="ignore"):
            w_e = np.sign(w - w_r) * np.maximum(difference - np.where(difference > 0, difference**-0.3, 0) / beta, 0)
        zero = (w_q - (w - w_e) * scale).mean()
        beta *= 1.01
    return -found * step, np.array(errors)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("size", [1.0, 40.0])
def test_shifts_are_those_of_the_published_iteration(name: str, size: float) -> None:
    """Weights of both sizes: at one the penalty lets no error stand, at the other it lets outliers."""
    form = FORMS[name]
    w = graphs.weight(40, 192) * np.float32(size)
    before, after = form.encode(w), Hqq().solve(form, w)
    first, last = form.grid(before), form.grid(after)
    expected = np.empty(first.shift.shape)
    steps = 0
    for r, g in np.ndindex(expected.shape):
        group = w[r, g * first.group : (g + 1) * first.group]
        expected[r, g], errors = published(
            group, float(first.step[r, g]), float(first.shift[r, g]), len(first.levels) - 1
        )
        steps = max(steps, len(errors))
    assert steps > 4
    np.testing.assert_array_equal(last.step, first.step)
    moved = (last.shift != first.shift).any()
    assert moved
    # float16 minima and zero points: rounded once; an error that equals another's ends an iteration early or late.
    near = np.abs(last.shift - expected) <= 2**-9 * np.abs(expected) + 1e-3 * first.step
    reverted = (last.shift == first.shift) & ~near
    assert (near | reverted).mean() > 0.98 and near.mean() > 0.9
    assert powers(w, after).sum() < 0.99 * powers(w, before).sum()


@pytest.mark.parametrize("name", ["int4 float", "q4_1"])
def test_a_short_last_block_does_not_count_what_fills_it(name: str) -> None:
    form = FORMS[name]
    w = graphs.weight(20, 45)
    grid, last = form.grid(form.encode(w)), form.grid(Hqq().solve(form, w))
    sides = zip(w[:, 32:], grid.step[:, 1], grid.shift[:, 1], strict=True)
    expected = np.array([published(row, float(step), float(shift), 15)[0] for row, step, shift in sides])
    near = np.abs(last.shift[:, 1] - expected) <= 2**-9 * np.abs(expected) + 1e-3 * grid.step[:, 1]
    assert near.mean() >= 0.9
    assert (last.shift[:, 1] != grid.shift[:, 1]).mean() > 0.2


@pytest.mark.parametrize("name", [*FORMS, "q2_k", "q4_k", "q5_k", "int4 int", "int4 row", "int4 tensor"])
@pytest.mark.parametrize("cols", [1, 45, 256])
def test_never_worse_than_nearest(name: str, cols: int) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "int4 int": {},
        "int4 row": {"per_channel": True},
        "int4 tensor": {"per_channel": False},
    }
    form = FORMS.get(name) or (
        format_named("int4", symmetric=False, **kinds[name]) if name in kinds else format_named(name)
    )
    for seed, size in ((0, 1.0), (1, 1e-3), (2, 1e3)):
        w = graphs.weight(12, cols, seed=seed) * np.float32(size)
        w[3], w[4], w[5, ::2] = 0, 0.7 * size, 0
        old, new = powers(w, form.encode(w)), powers(w, Hqq().solve(form, w))
        assert (new <= old).all() if name != "int4 tensor" else new.sum() <= old.sum()


def test_inputs_are_not_looked_at() -> None:
    w, form = graphs.weight(6, 64), FORMS["q4_1"]
    gram = np.diag(graphs.rng().uniform(0, 9, 64))[None]
    np.testing.assert_array_equal(form.decode(Hqq().solve(form, w, Inputs(gram))), form.decode(Hqq().solve(form, w)))


def test_rows_in_parts_give_the_same() -> None:
    w, form = graphs.weight(21, 96), FORMS["q4_1"]
    whole = Hqq().solve(form, w)
    for name, plane in Hqq(split=RowSplit(4 * 96 * 4)).solve(form, w).planes.items():
        np.testing.assert_array_equal(plane, whole.planes[name])


def test_scales_of_a_start_stay() -> None:
    w, form = graphs.weight(6, 64), FORMS["q4_1"]
    start = form.encode(w * np.float32(1.2))
    after = Hqq().solve(form, w, start=start)
    for name in ("scales", "minima"):
        np.testing.assert_array_equal(after.planes[name], start.planes[name])
    assert (powers(w, after) < powers(w, start)).all()


@pytest.mark.parametrize("name", ["int4", "q4_0", "nf4", "q6_k"])
def test_grids_without_a_shift_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=f"solver hqq, format {name}: it has no minimum or zero point"):
        Hqq().solve(format_named(name), graphs.weight(2, 64))
