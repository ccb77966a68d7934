"""Instruction set amx: many rows at once, in matrix registers. The rest of it is what test_kernels.py tests."""

from __future__ import annotations

import itertools
from dataclasses import replace

import kernels
import numpy as np
import pytest
from every import every
from kernel_oracle import bfloat_factors, check_int8, sample, uses_bfloat

from onnxquant.native import library as native

pytestmark = pytest.mark.skipif("amx" not in native.isas(), reason="no AMX here, and none emulated")

FINE, COARSE = 32, 64


def default(name, block):
    form = kernels.geometry(name)
    return min(max(block, form.min_block), form.max_block), form.granularities[0]


def activations(rows, cols, seed=1):
    x = np.random.default_rng([seed, rows, cols]).normal(size=(rows, cols)).astype(np.float32)
    return x * np.float32(3)


def amx(x, weight, isa="amx", **how):
    return kernels.matmul(x, weight.stored, isa=isa, **how)


@every("block", [FINE, COARSE])
@pytest.mark.parametrize("name", kernels.formats())
def test_any_size(name, block):
    block, granularity = default(name, block)
    for rows, cols in itertools.product((1, 49), (1, 33, 256, 600)):
        weight = sample(name, rows, cols, block, granularity)
        for batch in (15, 16, 31, 32, 49, 300):
            x = activations(batch, cols)
            check_int8(amx(x, weight), x, weight, "amx")


@pytest.mark.parametrize("name", kernels.formats())
def test_float_compute_stays_float(name):
    block, granularity = default(name, COARSE)
    weight, x = sample(name, 33, 300, block, granularity), activations(40, 300)
    for compute, equal in (("float32", True), ("int8", not uses_bfloat(40, weight, "amx"))):
        found, expected = (amx(x, weight, isa, compute=compute) for isa in ("amx", "avx512vnni"))
        assert np.array_equal(found, expected) == equal


@pytest.mark.parametrize("name", kernels.formats())
def test_bfloat_error_is_that_of_rounding(name):
    """Two-sided: an error well below what rounding costs would mean that other kernels ran."""
    block, granularity = default(name, FINE)
    weight, x = sample(name, 256, 1024, block, granularity, outliers=0), activations(64, 1024)
    if not uses_bfloat(64, weight, "amx"):
        pytest.skip("its blocks are long enough for int8")
    values = weight.values[:, weight.order]
    left, right = bfloat_factors(x, weight)
    power = np.square(left - x) @ np.square(values).T + np.square(x.astype(np.float64)) @ np.square(right - values).T
    error = amx(x, weight) - x.astype(np.float64) @ values.T
    assert 0.9 < np.sqrt(np.square(error).mean() / power.mean()) < 1.1


@pytest.mark.parametrize("name", ["i2_s", "int4", "int3_zero", "q8_k", "q4_0", "nf4", "q4_k", "bf16"])
@every("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_activation_poisons_its_row_alone(name, bad):
    block, granularity = default(name, COARSE)
    weight, x = sample(name, 33, 300, block, granularity), activations(50, 300)
    clean = amx(x, weight)
    for row, col in ((0, 0), (31, 150), (49, 299)):
        broken = x.copy()
        broken[row, col] = bad
        found = amx(broken, weight)
        assert (~np.isfinite(found[row])).all()
        if np.isnan(bad) or not uses_bfloat(50, weight, "amx"):
            assert np.isnan(found[row]).all()
        np.testing.assert_array_equal(np.delete(found, row, axis=0), np.delete(clean, row, axis=0))


@pytest.mark.parametrize("name", ["q4_0", "q4_k", "nf4", "bf16"])
def test_tiny_and_huge_activations(name):
    block, granularity = default(name, FINE)
    weight, signs = sample(name, 17, 64, block, granularity), np.sign(activations(40, 64))
    for size in (0.0, 1e-45, 1e-40, 1e-38, 1.2e-38, 1e-36, 1e-30, 1e34):
        x = (signs * size).astype(np.float32)
        found = amx(x, weight)
        check_int8(found, x, weight, "amx")
        assert size > 1.1e-38 or not found.any()


@pytest.mark.parametrize("name", ["q4_0", "int4", "bf16", "llm_int8"])
def test_rows_and_pieces_do_not_change_a_row(name):
    block, granularity = default(name, COARSE)
    weight, x = sample(name, 300, 520, block, granularity), activations(600, 520)
    whole = amx(x, weight)
    for first, last in ((0, 32), (3, 40), (250, 290), (511, 600)):
        np.testing.assert_array_equal(amx(x[first:last], weight), whole[first:last])


@pytest.mark.parametrize("name", ["bf16"])
def test_what_pads_the_planes_does_not_matter(name):
    weight, x = sample(name, 17, 265, 16), activations(33, 265)
    codes = weight.stored.planes["codes"].copy()
    codes[:, 265:, :] = np.nan
    codes[1, :, 1:] = np.inf
    noisy = replace(weight, stored=replace(weight.stored, planes={"codes": codes}))
    np.testing.assert_array_equal(amx(x, noisy), amx(x, weight))


@pytest.mark.parametrize(("name", "block"), [("int8", 64), ("int4_zero", 128), ("q4_1", 32), ("q8_k", 256)])
def test_scales_of_padded_channels_do_not_matter(name, block):
    weight, x = sample(name, 17, 265, block), activations(33, 265)
    planes = dict(weight.stored.planes)
    for plane in ("scales", "minima"):
        if plane in planes:
            planes[plane] = planes[plane].copy()
            planes[plane][1, :, 1:] = np.nan
    noisy = replace(weight, stored=replace(weight.stored, planes=planes))
    np.testing.assert_array_equal(amx(x, noisy), amx(x, weight))
