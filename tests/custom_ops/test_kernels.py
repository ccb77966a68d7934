"""Every format, instruction set and way to compute, against numpy on random planes."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest
from kernel_oracle import BLOCK, ROW, TENSOR, Sample, float_bound, int8_matmul, pack, sample

from onnxquant import native
from onnxquant.errors import NativeLibraryError

ROWS = [1, 15, 16, 17, 33, 100]
COLS = [1, 31, 32, 33, 100, 257]
BATCHES = [0, 1, 2, 5, 13, 33]


def blocks_of(form):
    sizes = [16, 32, 64, 128, 256]
    return [size for size in sizes if form.min_block <= size <= form.max_block]


CASES = [
    pytest.param(name, granularity, block, id=f"{name}-{granularity}-{block}")
    for name in native.formats()
    for form in [native.geometry(name)]
    for granularity in form.granularities
    for block in blocks_of(form)
]
ISAS = native.isas()


def activations(rows, cols, seed=1):
    x = np.random.default_rng([seed, rows, cols]).normal(size=(rows, cols)).astype(np.float32)
    return x * np.float32(3)


@pytest.mark.parametrize(("name", "granularity", "block"), CASES)
def test_decode_is_exact(name, granularity, block):
    for rows, cols in itertools.product(ROWS, COLS):
        weight = sample(name, rows, cols, block, granularity)
        np.testing.assert_array_equal(native.decode(weight.stored), weight.values.astype(np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "granularity", "block"), CASES)
def test_int8_is_the_defined_rounding_to_the_bit(name, granularity, block, isa):
    for rows, cols in itertools.product(ROWS, COLS):
        weight = sample(name, rows, cols, block, granularity)
        for batch in BATCHES:
            x = activations(batch, cols)
            found = native.matmul(x, weight.stored, isa=isa)
            np.testing.assert_array_equal(found, int8_matmul(x, weight), err_msg=f"{rows=} {cols=} {batch=}")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "granularity", "block"), CASES)
def test_float_stays_within_its_bound(name, granularity, block, isa):
    for rows, cols in itertools.product(ROWS, COLS):
        weight = sample(name, rows, cols, block, granularity)
        for batch in BATCHES:
            x = activations(batch, cols)
            found = native.matmul(x, weight.stored, compute="float32", isa=isa)
            error = np.abs(found - x.astype(np.float64) @ weight.values.T)
            assert (error <= float_bound(x, weight)).all(), f"{rows=} {cols=} {batch=}"


@pytest.mark.parametrize("name", native.formats())
def test_int8_error_is_that_of_rounding(name):
    """Two-sided: an error well below what rounding activations costs would mean they are not rounded."""
    form = native.geometry(name)
    block = max(32, form.min_block)
    weight = sample(name, 256, 1024, block, form.granularities[0])
    x = activations(64, 1024)
    error = native.matmul(x, weight.stored) - x.astype(np.float64) @ weight.values.T
    step = np.abs(x).reshape(64, -1, block).max(axis=2) / 127
    power = np.square(weight.values).reshape(256, -1, block).sum(axis=2)
    expected = np.sqrt((np.square(step) @ power.T / 12).mean())
    assert 0.9 < np.sqrt(np.square(error).mean()) / expected < 1.1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", native.formats())
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_codes_do_not_overflow(name, isa, sign):
    """All codes and activations at their ends, for the longest block and many of them."""
    form = native.geometry(name)
    block, cols = form.max_block, 4096
    for code in (0, (1 << form.bits) - 1):
        codes = np.full((17, cols), code, np.uint8)
        granularity = form.granularities[-1]
        shape = {BLOCK: (2, cols // block, 16), ROW: (2, 1, 16), TENSOR: (1,)}[granularity]
        scales = np.ones(shape, form.scale_dtype)
        stored = native.StoredWeight(name, pack(codes, form.bits, block), scales, 17, cols, block)
        value = code - (1 << (form.bits - 1))
        for batch in (1, 9):
            x = np.full((batch, cols), sign * 127, np.float32)
            np.testing.assert_array_equal(native.matmul(x, stored, isa=isa), np.float32(sign * 127 * value * cols))


def check_row(found, clean, poisoned):
    assert np.isnan(found[poisoned]).all()
    rest = np.delete(np.arange(len(found)), poisoned)
    np.testing.assert_array_equal(found[rest], clean[rest])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", native.formats())
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_activation_poisons_its_row_alone(name, isa, bad):
    form = native.geometry(name)
    weight = sample(name, 33, 100, form.min_block, form.granularities[0])
    x = activations(13, 100)
    clean = native.matmul(x, weight.stored, isa=isa)
    for row, col in ((0, 0), (7, 50), (12, 99)):
        broken = x.copy()
        broken[row, col] = bad
        check_row(native.matmul(broken, weight.stored, isa=isa), clean, row)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", native.formats())
def test_tiny_and_huge_activations(name, isa):
    form = native.geometry(name)
    weight = sample(name, 17, 64, form.min_block, form.granularities[0])
    signs = np.sign(activations(5, 64))
    for size in (0.0, 1e-45, 1e-40, 1e-38, 1.4e-36, 1.6e-36, 1e-30, 1e36):
        x = (signs * size).astype(np.float32)
        found = native.matmul(x, weight.stored, isa=isa)
        assert np.isfinite(found).all()
        magnitude = np.abs(x.astype(np.float64)) @ np.abs(weight.values).T
        if size < 1.5e-36:
            np.testing.assert_array_equal(found, 0)
        else:
            error = np.abs(found - x.astype(np.float64) @ weight.values.T)
            # Close to the threshold the product of the two scales may be flushed to zero, and the block with it.
            assert (error <= magnitude * (1e-2 if size > 1e-31 else 1.01)).all(), size


@pytest.mark.parametrize("isa", ISAS)
def test_the_rounding_mode_of_the_caller_is_kept(isa):
    x = np.array([1e-40], np.float32)
    native.matmul(activations(1, 32), sample("q4_0", 16, 32, 32).stored, isa=isa)
    assert (x * np.float32(0.5))[0] != 0, "subnormals are flushed after the call"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("compute", ["int8", "float32"])
def test_rows_do_not_depend_on_their_neighbours(isa, compute):
    weight = sample("int4", 40, 200, 64)
    x = activations(300, 200)
    whole = native.matmul(x, weight.stored, compute=compute, isa=isa)
    for first, last in ((0, 1), (3, 10), (255, 258), (290, 300)):
        part = native.matmul(x[first:last], weight.stored, compute=compute, isa=isa)
        np.testing.assert_array_equal(part, whole[first:last])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shift", [1, 2, 4, 8, 33])
def test_planes_at_any_address(isa, shift):
    weight = sample("q8_0", 33, 100, 32)
    x = activations(5, 100)

    def moved(array):
        memory = np.empty(array.nbytes + shift, np.uint8)
        view = memory[shift:]
        view[:] = np.frombuffer(array.tobytes(), np.uint8)
        return view.view(array.dtype).reshape(array.shape) if shift % array.itemsize == 0 else array

    stored = native.StoredWeight("q8_0", moved(weight.stored.codes), moved(weight.stored.scales), 33, 100, 32)
    np.testing.assert_array_equal(native.matmul(x, stored, isa=isa), int8_matmul(x, weight))


def test_special_scales():
    """Half subnormals, infinities and NaN decode as IEEE says, on each instruction set."""
    halves = np.arange(0, 1 << 16, 41, dtype=np.uint16)[: 16 * 99].view(np.float16).reshape(99, 1, 16)
    codes = np.full((99 * 16, 16), 129, np.uint8)
    stored = native.StoredWeight("int8", pack(codes, 8, 16), halves, 99 * 16, 16, 16)
    expected = np.repeat(halves.reshape(-1, 1).astype(np.float32), 16, axis=1)
    np.testing.assert_array_equal(native.decode(stored), expected)
    one = np.zeros((1, 16), np.float32)
    one[0, 3] = 1
    for isa in ISAS:
        found = native.matmul(one, stored, compute="float32", isa=isa)
        finite = np.isfinite(expected[:, 0])
        np.testing.assert_array_equal(found[0, finite], expected[finite, 0])
        assert not np.isfinite(found[0, ~finite]).any()


def weight_with(**changes) -> native.StoredWeight:
    stored = sample("q4_0", 33, 100, 32).stored
    return native.StoredWeight(**{**stored.__dict__, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "q9"}, "no format is called 'q9'"),
        ({"rows": 32}, "codes are"),
        ({"cols": 97}, None),
        ({"cols": 129}, "codes are"),
        ({"rows": 0}, "expected positive"),
        ({"cols": -1}, "expected positive"),
        ({"block_size": 0}, "expected positive"),
        ({"block_size": 16}, "codes are"),
        ({"codes": np.zeros(16, np.uint8)}, "codes are"),
        ({"codes": np.zeros((3, 16, 16, 4), np.int8)}, "codes are"),
        ({"scales": np.zeros((3, 4, 16), np.float32)}, "scales are"),
        ({"scales": np.zeros((3, 5, 16), np.float16)}, "scales are"),
        ({"scales": np.zeros((3, 1, 16), np.float16)}, "48 scales fit no granularity of q4_0"),
        ({"scales": np.zeros(1, np.float16)}, "1 scales fit no granularity of q4_0"),
    ],
)
def test_planes_that_do_not_fit_are_refused(changes, message):
    weight = weight_with(**changes)
    if message is None:
        assert native.decode(weight).shape == (33, 97)
        return
    with pytest.raises(NativeLibraryError, match=message):
        native.decode(weight)
    with pytest.raises(NativeLibraryError, match=message):
        native.matmul(activations(2, max(weight.cols, 1)), weight)


def test_arguments_that_do_not_fit_are_refused():
    stored = sample("int8", 17, 33, 16).stored
    with pytest.raises(NativeLibraryError, match="expected float32"):
        native.matmul(activations(2, 32), stored)
    with pytest.raises(NativeLibraryError, match="expected float32"):
        native.matmul(activations(2, 33).astype(np.float64), stored)  # type: ignore[arg-type]
    with pytest.raises(NativeLibraryError, match="expected 'int8' or 'float32'"):
        native.matmul(activations(2, 33), stored, compute="int4")
    with pytest.raises(NativeLibraryError, match="no instruction set is called 'mmx'"):
        native.matmul(activations(2, 33), stored, isa="mmx")
    with pytest.raises(NativeLibraryError, match="no instruction set is called 'mmx'"):
        native.set_isa("mmx")


@pytest.mark.parametrize("isa", [None, *native.compiled_isas()])
def test_a_cap_above_this_cpu_is_accepted(isa):
    try:
        native.set_isa(isa)
    finally:
        native.set_isa(None)


def test_instruction_sets_begin_with_scalar():
    assert native.isas()[0] == native.compiled_isas()[0] == "scalar"
    assert set(native.isas()) <= set(native.compiled_isas())


def test_another_abi_version_is_refused(monkeypatch):
    native._library.cache_clear()
    monkeypatch.setattr(native, "ABI_VERSION", native.ABI_VERSION + 1)
    with pytest.raises(NativeLibraryError, match="not of one build"):
        native.abi_version()


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    with pytest.raises(NativeLibraryError, match="libonnxquant_ops"):
        native.library_path()


def test_a_damaged_library_is_named(monkeypatch, tmp_path):
    path = tmp_path / "libonnxquant_ops.so"
    path.write_bytes(b"not a library")
    native._library.cache_clear()
    monkeypatch.setattr(native, "library_path", lambda: path)
    with pytest.raises(NativeLibraryError, match="cannot be loaded"):
        native.formats()


def test_the_c_abi_refuses_null():
    library = ctypes.CDLL(str(native.library_path()))
    library.onnxquant_last_error.restype = ctypes.c_char_p
    size = ctypes.c_int64
    none = ctypes.c_void_p(None)
    assert library.onnxquant_decode(b"int8", none, none, size(16), size(1), size(1), size(16), none) == 1
    assert b"a plane is missing" in library.onnxquant_last_error()
    assert library.onnxquant_decode(none, none, none, size(1), size(1), size(1), size(16), none) == 1
    assert library.onnxquant_decode(b"int8", none, none, size(1), size(1 << 61), size(1 << 61), size(16), none) == 1


def test_the_oracle_sees_a_single_wrong_code():
    weight = sample("int4", 16, 32, 32)
    codes = weight.stored.codes.copy()
    codes[0, 2, 5, 1] ^= 0x10
    changed = native.decode(weight_with(format="int4", rows=16, cols=32, codes=codes, scales=weight.stored.scales))
    wrong = np.argwhere(changed != weight.values.astype(np.float32))
    assert wrong.tolist() == [[5, 8 * 2 + 2 * 1 + 1]]
    assert isinstance(weight, Sample)
