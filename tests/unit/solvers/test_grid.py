"""Grids of every format of the registry: they are what is decoded, codes and scales go there and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import graphs
import ml_dtypes
import numpy as np
import pytest
from every import every
from numpy.typing import NDArray
from variants import CASES, fits

from onnxquant.errors import WeightError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.grid import LevelGrid, nearest_indices, values
from onnxquant.formats.native_job import ZeroPoint
from onnxquant.numerics.rows import RowSplit

Array = NDArray[Any]


WITHOUT = ("f32", "f16", "bf16", "llm_int8")
GRIDS = [case for case in CASES if case.values[0] not in WITHOUT]
FITTED = [case for case in GRIDS if not format_named(case.values[0], **case.values[1]).why_scales_fixed]
FIXED = [case for case in GRIDS if format_named(case.values[0], **case.values[1]).why_scales_fixed]


def of(name: str, parameters: dict[str, Any], weight: Array) -> tuple[Encoded, Array]:
    """An encoded weight, and what it decodes to with columns as they are stored."""
    encoded = format_named(name, **parameters).encode(weight)
    assert bool(encoded.format.why_not_solvable) == ("stochastic" in parameters)
    return encoded, stored(encoded)


@pytest.mark.parametrize("name", WITHOUT)
def test_formats_without_a_grid_say_why(name: str) -> None:
    encoded = format_named(name).encode(graphs.weight(2, 64))
    reason = encoded.format.why_not_solvable
    assert len(reason) > 20
    with pytest.raises(WeightError, match=f"format {name}: {reason}"):
        encoded.format.grid(encoded)


def stored(encoded: Encoded) -> Array:
    decoded = encoded.format.decode(encoded)
    return decoded[:, encoded.planes["permutation"]] if encoded.format.permuted else decoded


def assert_equal(found: Array, expected: Array, form: Format) -> None:
    """Bit for bit, but for float16 zero points."""
    if getattr(form, "zero_type", None) is ZeroPoint.FLOAT16:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max(initial=0))
    else:
        np.testing.assert_array_equal(found, expected)


SHAPES = [(1, 1), (3, 31), (7, 129), (5, 512), (0, 64), (3, 0)]
SHAPED = [(*case.values, shape) for case in GRIDS for shape in SHAPES if fits(*case.values, shape[1])]


@every(("name", "parameters", "shape"), SHAPED, by="name")
def test_values_of_a_grid_are_the_decoded_weight(name: str, parameters: dict[str, Any], shape: tuple[int, int]) -> None:
    encoded, decoded = of(name, parameters, graphs.weight(*shape))
    form = encoded.format
    grid = form.grid(encoded)
    indices = nearest_indices(grid, decoded)
    assert indices.dtype == np.uint8 and indices.shape == shape
    assert_equal(values(grid, indices), decoded, form)
    placed = form.place(encoded, indices)
    assert {n: (p.dtype, p.shape) for n, p in placed.planes.items()} == {
        n: (p.dtype, p.shape) for n, p in encoded.planes.items()
    }
    np.testing.assert_array_equal(stored(placed), decoded)


@every(("name", "parameters"), GRIDS, by="name")
def test_grid_values_of_other_codes_are_what_these_decode_to(name: str, parameters: dict[str, Any]) -> None:
    encoded, _ = of(name, parameters, graphs.weight(6, 512))
    grid = encoded.format.grid(encoded)
    assert grid.step.dtype == grid.shift.dtype == grid.levels.dtype == np.float32
    assert grid.step.shape == grid.shift.shape == ((1, 1) if grid.of_tensor else (6, -(-512 // grid.group)))
    assert (np.diff(grid.levels) > 0).all() and 3 <= len(grid.levels) <= 256
    indices = graphs.rng().integers(0, len(grid.levels), (6, 512), dtype=np.uint8)
    assert_equal(values(grid, indices), stored(encoded.format.place(encoded, indices)), encoded.format)


@every(("name", "parameters"), GRIDS, by="name")
def test_nearest_is_the_nearest_of_all(name: str, parameters: dict[str, Any]) -> None:
    encoded, _ = of(name, parameters, graphs.weight(6, 128))
    grid = encoded.format.grid(encoded)
    w = graphs.weight(6, 128, seed=3) * 1.2
    if encoded.format.shifts:
        w += 0.01
    step, shift = (np.broadcast_to(np.repeat(s, grid.group, 1)[:, :128], w.shape) for s in (grid.step, grid.shift))
    every = grid.levels.astype(float) * step[..., None].astype(float) + shift[..., None]
    best = np.abs(every - w[..., None]).min(-1)
    found = np.abs(values(grid, nearest_indices(grid, w)).astype(float) - w)
    np.testing.assert_allclose(found, best, rtol=0, atol=1e-6 * np.abs(w).max())


@every(("name", "parameters"), FIXED, by="name")
def test_scales_that_are_fixed_refuse_a_fit(name: str, parameters: dict[str, Any]) -> None:
    encoded, _ = of(name, parameters, graphs.weight(6, 512))
    form, grid = encoded.format, encoded.format.grid(encoded)
    with pytest.raises(WeightError, match=f"format {name}: {form.why_scales_fixed}"):
        form.fit(encoded, grid.step, grid.shift)


@every(("name", "parameters"), FITTED, by="name")
@every("size", [1.0, 100.0])
def test_a_fit_of_its_own_grid_changes_nothing(name: str, parameters: dict[str, Any], size: float) -> None:
    """Of sizes whose float16 scales of scales are normal."""
    encoded, decoded = of(name, parameters, graphs.weight(6, 576 if fits(name, parameters, 576) else 512) * size)
    form, grid = encoded.format, encoded.format.grid(encoded)
    same = form.fit(encoded, grid.step, grid.shift)
    assert {n: (p.dtype, p.shape) for n, p in same.planes.items()} == {
        n: (p.dtype, p.shape) for n, p in encoded.planes.items()
    }
    np.testing.assert_array_equal(stored(same), decoded)


@every(("name", "parameters"), FITTED, by="name")
def test_a_fit_is_as_near_as_the_format_can_store(name: str, parameters: dict[str, Any]) -> None:
    """Within half a step of what scales are stored in, on both sides."""
    encoded, _ = of(name, parameters, graphs.weight(6, 512) + (0.1 if parameters.get("symmetric") is False else 0))
    form, grid = encoded.format, encoded.format.grid(encoded)
    # Powers of two are far apart.
    powers = encoded.planes["scales"].dtype == ml_dtypes.float8_e8m0fnu
    spread, relative = (0.6, 0.5) if powers else (0.2, 2**-11)
    step = grid.step * (1 + graphs.rng().uniform(-spread, spread, grid.step.shape))
    shift = grid.shift * (1 + graphs.rng(1).uniform(-0.2, 0.2, grid.step.shape))
    after = form.grid(form.fit(encoded, step, shift))
    # Scales that are stored together are whole multiples of one float16.
    parts = {"q2_k": 15, "q3_k": 31, "q4_k": 63, "q5_k": 63, "q6_k": 127}.get(name, 0)
    units = step.shape[1] // grid.groups_sharing_a_scale
    largest = np.repeat(np.abs(step).reshape(6, units, -1).max(-1), grid.groups_sharing_a_scale, 1) if parts else 0
    bound = 0.51 * largest / parts + 1e-3 * np.abs(step) if parts else relative * np.abs(step)
    assert (np.abs(after.step - step) <= bound).all()
    assert not np.array_equal(after.step, grid.step)
    if not grid.shifts:
        bound = np.zeros_like(shift)
    elif parts:
        deepest = np.repeat(np.abs(shift).reshape(6, units, -1).max(-1), grid.groups_sharing_a_scale, 1)
        bound = 0.51 * deepest / parts + 1e-3 * np.abs(shift)
    elif ("scales" in encoded.planes and "minima" in encoded.planes) or parameters.get("zero_point") == "float":
        bound = 2**-10 * np.abs(shift)
    else:
        bound = 0.51 * np.abs(after.step)
    assert (np.abs(after.shift - shift) <= bound).all()


def test_sides_beyond_their_type_become_its_largest() -> None:
    for name in ("int4", "q4_1", "q4_0"):
        encoded = format_named(name).encode(graphs.weight(2, 32))
        grid = encoded.format.grid(encoded)
        after = encoded.format.fit(encoded, grid.step * 0 - 1e9, grid.shift + 1e9)
        assert (encoded.format.grid(after).step == -65504).all()
        assert np.isfinite(encoded.format.decode(after)).all()


@pytest.mark.parametrize("name", ["int4", "nf4", "q4_k", "f8_e4m3"])
def test_rows_in_parts_and_threads_give_the_same(name: str) -> None:
    encoded = format_named(name).encode(graphs.weight(37, 256))
    grid, w = encoded.format.grid(encoded), graphs.weight(37, 256, seed=5)
    whole = nearest_indices(grid, w, RowSplit(threads=1))
    found = values(grid, whole, RowSplit(threads=1))
    for rows, threads in ((1, 1), (5, 3), (5, None)):
        split = RowSplit(4 * 256 * rows, threads)
        np.testing.assert_array_equal(nearest_indices(grid, w, split), whole)
        np.testing.assert_array_equal(values(grid, whole, split), found)


@pytest.mark.parametrize("name", ["nf4", "fp4", "dynamic8", "f8_e4m3", "f8_e5m2"])
def test_levels_of_tables_are_found_between_any_two_neighbours(name: str) -> None:
    levels = format_named(name).levels()[0].astype(float)
    near = np.concatenate([levels, *((levels[1:] * a + levels[:-1] * (1 - a)) for a in (0.01, 0.499, 0.501, 0.99))])
    w = np.concatenate([near, [1e30, -1e30, 1e-42, -1e-42, 0, -0.0]]).astype(np.float32)[None]
    grid = LevelGrid(levels.astype(np.float32), np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), w.size)
    expected = np.abs(levels[:, None] - w.astype(float)).min(0)
    np.testing.assert_allclose(np.abs(levels[nearest_indices(grid, w)] - w)[0], expected, rtol=1e-6)


def test_levels_that_share_a_sixteenth_bit_are_refused() -> None:
    levels = np.array([0, 1, 1.0001, 1.0002], np.float32)
    one = np.ones((1, 1), np.float32)
    with pytest.raises(WeightError, match="nearer to each other than a 128th"):
        nearest_indices(LevelGrid(levels, one, one * 0, 4), np.ones((1, 4), np.float32))


def test_weights_on_a_step_of_zero_take_the_level_zero() -> None:
    for name in ("int4", "nf4", "q4_1", "q4_k", "q6_k", "f8_e4m3"):
        encoded = format_named(name).encode(np.zeros((2, 256), np.float32))
        grid = encoded.format.grid(encoded)
        indices = nearest_indices(grid, graphs.weight(2, 256))
        assert not grid.levels[indices].any()
        assert not encoded.format.decode(encoded.format.place(encoded, indices)).any()


def test_a_format_from_elsewhere_has_no_grid_until_it_says_so() -> None:
    @dataclass(frozen=True)
    class Odd(type(format_named("f16"))):  # type: ignore[misc]
        name = "odd"
        why_not_solvable = Format.why_not_solvable

    assert Odd().why_not_solvable == Odd().why_scales_fixed == "its values are no codes on a grid"
    with pytest.raises(WeightError, match="format odd: its values are no codes"):
        Odd().grid(Odd().encode(graphs.weight(2, 4)))
    with pytest.raises(WeightError, match="format odd: its values are no codes"):
        Odd().fit(Odd().encode(graphs.weight(2, 4)), np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(WeightError, match="format odd: its values are no codes"):
        Odd().place(Odd().encode(graphs.weight(2, 4)), np.zeros((2, 4), np.uint8))


def test_a_grid_of_one_row_knows_whether_it_is_of_a_tensor() -> None:
    encoded = format_named("int4", per_channel=False).encode(graphs.weight(9, 40))
    assert encoded.format.grid(encoded).of_tensor
    rowwise = format_named("int4", per_channel=True)
    assert not rowwise.grid(rowwise.encode(graphs.weight(9, 40))).of_tensor
    assert replace(encoded.format.grid(encoded)).is_even
