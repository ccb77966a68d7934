"""Special activations in every mode of the caller's floats, sizes around a block, and sums as large as they get."""

from __future__ import annotations

import ctypes
import itertools
import platform
from contextlib import contextmanager

import kernels
import numpy as np
import pytest
from every import every
from kernel_oracle import check_int8, float_bound, pack, sample, split_bits

from onnxquant.native import library as native

ISAS = native.isas()
COLS = 100
# Of x86 in MXCSR, which glibc keeps at byte 28 of fenv_t.
FLUSH, DENORMALS_ARE_ZERO = 1 << 15, 1 << 6
HAS_MXCSR = platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc"


def mxcsr(environment):
    return ctypes.cast(ctypes.byref(environment, 28), ctypes.POINTER(ctypes.c_uint32))[0]


@contextmanager
def flushed(bits):
    """Subnormals are zero on this thread, and must still be so at the end."""
    libm = ctypes.CDLL("libm.so.6")
    before, inside = (ctypes.c_byte * 32)(), (ctypes.c_byte * 32)()
    libm.fegetenv(before)
    ctypes.memmove(inside, before, 32)
    ctypes.cast(ctypes.byref(inside, 28), ctypes.POINTER(ctypes.c_uint32))[0] |= bits
    libm.fesetenv(inside)
    try:
        yield
        libm.fegetenv(inside)
        assert mxcsr(inside) & (FLUSH | DENORMALS_ARE_ZERO) == bits
    finally:
        libm.fesetenv(before)


def sample_of(name, rows=33, cols=COLS, block=32, **how):
    form = kernels.geometry(name)
    return sample(name, rows, cols, min(max(block, form.min_block), form.max_block), form.granularities[0], **how)


def special_rows():
    """Ordinary rows between rows of one kind each; what an output of such a row must be."""
    random = np.random.default_rng(0)
    x = random.normal(size=(13, COLS)).astype(np.float32)
    signs = np.sign(x)
    x[0], x[1] = 0.0, -0.0
    x[3], x[4] = signs[3] * np.float32(1e-45), signs[4] * np.float32(1.17e-38)
    x[6, 0], x[7, COLS - 1], x[8, 50] = np.nan, np.inf, -np.inf
    x[10] = np.nan
    x[11, ::2], x[11, 1::2] = np.inf, -np.inf
    return x, {0: 0, 1: 0, 3: 0, 4: 0, 6: "not finite", 7: "not finite", 8: "not finite", 10: np.nan, 11: "not finite"}


@every("isa", ISAS)
@every("compute", ["int8", "float32"])
@pytest.mark.parametrize("name", kernels.formats())
def test_rows_of_special_activations(name, compute, isa):
    weight = sample_of(name)
    x, kinds = special_rows()
    found = kernels.matmul(x, weight.stored, compute=compute, isa=isa)
    for row, kind in kinds.items():
        if kind == "not finite":
            assert not np.isfinite(found[row]).any(), row
        else:
            np.testing.assert_array_equal(found[row], np.float32(kind), err_msg=str(row))
    ordinary = np.setdiff1d(np.arange(len(x)), list(kinds))
    clean = np.where(np.isin(np.arange(len(x)), ordinary)[:, None], x, np.float32(1))
    np.testing.assert_array_equal(
        found[ordinary], kernels.matmul(clean, weight.stored, compute=compute, isa=isa)[ordinary]
    )
    if HAS_MXCSR:
        for bits in (FLUSH, DENORMALS_ARE_ZERO, FLUSH | DENORMALS_ARE_ZERO):
            with flushed(bits):
                again = kernels.matmul(x, weight.stored, compute=compute, isa=isa)
            assert again.tobytes() == found.tobytes()


@every("isa", ISAS)
@pytest.mark.parametrize("name", kernels.formats())
def test_sizes_around_a_block(name, isa):
    """One channel and one column, a block and one less or more, two blocks less one, and primes."""
    block = sample_of(name).stored.block_size
    sizes = sorted({1, 2, block - 1, block, block + 1, 2 * block - 1, 97, 509})
    for rows, cols in itertools.product((1, 17), sizes):
        weight = sample_of(name, rows, cols)
        x = np.random.default_rng([rows, cols]).normal(size=(3, cols)).astype(np.float32)
        check_int8(kernels.matmul(x, weight.stored, isa=isa), x, weight, isa)
        exact = kernels.matmul(x, weight.stored, compute="float32", isa=isa)
        assert (np.abs(exact - x.astype(np.float64) @ weight.values.T) <= float_bound(x, weight)).all()


def constant_planes(name, cols, code):
    """One code everywhere and scales of 1, for a tile of channels; every byte of a constant code is the same."""
    form = kernels.geometry(name)
    block, (low, high) = form.max_block, split_bits(form.bits)
    byte = pack(np.full((16, 256), code & ((1 << low) - 1), np.uint8), low, 256)[0, 0, 0, 0]
    planes = {"codes": np.full((1, cols * low // 32, 16, 4), byte, np.uint8)}
    if high:
        planes["high"] = np.full((1, cols * high // 32, 16, 4), 255 if code else 0, np.uint8)
    shape = {"block": (1, cols // block, 16), "row": (1, 1, 16), "tensor": (1,)}[form.granularities[-1]]
    planes["scales"] = np.ones(shape, form.planes["scales"])
    return kernels.StoredWeight(name, planes, 1, cols, block)


LONG = 2**24 + 256  # beyond it a float32 no longer counts by ones


@every("isa", ISAS)
@pytest.mark.parametrize(("name", "code"), [("int8", 0), ("int8", 255), ("int6", 0), ("i2_s", 0)])
def test_the_longest_sums_do_not_overflow(name, code, isa):
    """Integers are added up over one block alone, at most 256 * 128 * 127 < 2^22, and blocks in float32.

    So no K overflows an int32: -128 * 127 * K would from 2^17 on. Here all inputs are as large as they get, and the
    sum of the blocks in float32, in order, is what it must be to the bit.
    """
    stored = constant_planes(name, LONG, code)
    x = np.full((1, LONG), 127, np.float32)
    bits = kernels.geometry(name).bits
    dot = np.float32((code - (1 << (bits - 1))) * 127 * stored.block_size)
    expected = np.cumsum(np.full(LONG // stored.block_size, dot, np.float32), dtype=np.float32)[-1]
    assert kernels.matmul(x, stored, isa=isa)[0, 0] == expected
    exact = (code - (1 << (bits - 1))) * 127.0 * LONG
    assert abs(float(expected) - exact) < abs(exact) * 1e-3
