"""Every format, instruction set and way to compute, against numpy on random planes."""

from __future__ import annotations

import ctypes
import itertools

import kernels
import numpy as np
import pytest
from every import every
from kernel_oracle import (
    BLOCK,
    ROW,
    TENSOR,
    check_int8,
    float_bound,
    int8_matmul,
    pack,
    sample,
    split_bits,
    table_of,
    variants,
)  # fmt: skip

from onnxquant.errors import NativeLibraryError
from onnxquant.native import library as native

ROWS = [1, 16, 17, 33, 100]
COLS = [1, 31, 32, 100, 257]
BATCHES = [0, 1, 2, 3, 13, 33]
# Every pair of a number of rows, of columns and of activations, but not every three of them.
SIZES = [
    (rows, cols, BATCHES[(r + c + turn) % len(BATCHES)])
    for (r, rows), (c, cols) in itertools.product(enumerate(ROWS), enumerate(COLS))
    for turn in (0, 3)
]
INT8 = [name for name in kernels.formats() if kernels.geometry(name).has_int8]


CASES = [pytest.param(*variant, id="{}-{}-{}".format(*variant)) for variant in variants()]
ISAS = native.isas()


def default(name, block=32):
    """The plainest block and granularity of a format."""
    form = kernels.geometry(name)
    return min(max(block, form.min_block), form.max_block), form.granularities[0]


def activations(rows, cols, seed=1):
    x = np.random.default_rng([seed, rows, cols]).normal(size=(rows, cols)).astype(np.float32)
    return x * np.float32(3)


@every(("name", "granularity", "block"), CASES, by="name")
def test_decode_is_exact(name, granularity, block):
    for rows, cols in itertools.product(ROWS, COLS):
        weight = sample(name, rows, cols, block, granularity)
        np.testing.assert_array_equal(kernels.decode(weight.stored), weight.decoded)


@every("isa", ISAS)
@every(("name", "granularity", "block"), [c for c in CASES if c.values[0] in INT8], by="name")
def test_int8_is_the_defined_rounding_to_the_bit(name, granularity, block, isa):
    for rows, cols, batch in SIZES:
        weight, x = sample(name, rows, cols, block, granularity), activations(batch, cols)
        check_int8(kernels.matmul(x, weight.stored, isa=isa), x, weight, isa)


@every("isa", ISAS)
@every(("name", "granularity", "block"), CASES, by="name")
def test_float_stays_within_its_bound(name, granularity, block, isa):
    for rows, cols, batch in SIZES:
        weight, x = sample(name, rows, cols, block, granularity), activations(batch, cols)
        found = kernels.matmul(x, weight.stored, compute="float32", isa=isa)
        error = np.abs(found - x.astype(np.float64) @ weight.values.T)
        assert (error <= float_bound(x, weight)).all(), f"{rows=} {cols=} {batch=}"


@pytest.mark.parametrize("name", [n for n in kernels.formats() if n not in INT8])
def test_formats_without_int8_compute_in_float(name):
    block, granularity = default(name)
    weight, x = sample(name, 33, 100, block, granularity), activations(5, 100)
    found = [kernels.matmul(x, weight.stored, compute=compute) for compute in ("int8", "float32")]
    np.testing.assert_array_equal(*found)


@every("isa", ISAS)
@every("compute", ["int8", "float32"])
@pytest.mark.parametrize("name", kernels.formats())
def test_permuted_channels_and_a_bias(name, compute, isa):
    block, granularity = default(name)
    for cols in (33, 300):
        weight = sample(name, 50, cols, block, granularity, permuted=True)
        np.testing.assert_array_equal(kernels.decode(weight.stored), weight.decoded)
        for batch in (9, 40):
            x, bias = activations(batch, cols), activations(1, 50)[0]
            plain = kernels.matmul(x, weight.stored, compute=compute, isa=isa)
            if compute == "int8":
                check_int8(plain, x, weight, isa)
            else:
                assert (np.abs(plain - x.astype(np.float64) @ weight.values.T) <= float_bound(x, weight)).all()
            biased = kernels.matmul(x, weight.stored, compute=compute, isa=isa, bias=bias)
            np.testing.assert_array_equal(biased, plain + bias)


@every("outliers", [0, 1, 300])
@every("isa", ISAS)
def test_any_number_of_outliers(isa, outliers):
    weight = sample("llm_int8", 40, 300, 64, ROW, outliers=outliers)
    for batch in (11, 40):
        x = activations(batch, 300)
        check_int8(kernels.matmul(x, weight.stored, isa=isa), x, weight, isa)
        exact = kernels.matmul(x, weight.stored, compute="float32", isa=isa)
        assert (np.abs(exact - x.astype(np.float64) @ weight.values.T) <= float_bound(x, weight)).all()


@pytest.mark.parametrize("name", [n for n in INT8 if n != "llm_int8"])
def test_int8_error_is_that_of_rounding(name):
    """Two-sided: an error well below what rounding activations costs would mean they are not rounded."""
    block, granularity = default(name)
    weight = sample(name, 256, 1024, block, granularity)
    x = activations(64, 1024)
    error = kernels.matmul(x, weight.stored, isa="scalar") - x.astype(np.float64) @ weight.values.T
    step = np.abs(x).reshape(64, -1, block).max(axis=2) / 127
    power = np.square(weight.values).reshape(256, -1, block).sum(axis=2)
    expected = np.sqrt((np.square(step) @ power.T / 12).mean())
    assert 0.9 < np.sqrt(np.square(error).mean()) / expected < 1.1


PLAIN = [n for n in kernels.formats() if set(kernels.geometry(n).planes) <= {"codes", "high", "scales"} and n in INT8]


@every("isa", ISAS)
@pytest.mark.parametrize("name", [n for n in PLAIN if n not in ("nf4", "fp4")])
@every("sign", [-1, 1])
def test_extreme_codes_do_not_overflow(name, isa, sign):
    """All codes and activations at their ends, for the longest block and many of them."""
    form = kernels.geometry(name)
    block, cols = form.max_block, 4096
    low, high = split_bits(form.bits)
    table = table_of(name)
    values = np.arange(1 << form.bits) - (1 << (form.bits - 1)) if table is None else table
    one = 127 if form.planes["scales"] == np.uint8 else 1  # of an exponent
    for code in (int(values.argmin()), int(values.argmax())):
        planes = {"codes": pack(np.full((17, cols), code & ((1 << low) - 1), np.uint8), low, block)}
        if high:
            full = np.full((2, cols * high // 32, 16, 4), 255 if code else 0, np.uint8)
            planes["high"] = full
        granularity = form.granularities[-1]
        shape = {BLOCK: (2, cols // block, 16), ROW: (2, 1, 16), TENSOR: (1,)}[granularity]
        planes["scales"] = np.full(shape, one, form.planes["scales"])
        stored = kernels.StoredWeight(name, planes, 17, cols, block)
        expected = np.float32(sign * 127 * float(values[code]) * cols)
        for batch in (1, 9, 33):
            x = np.full((batch, cols), sign * 127, np.float32)
            np.testing.assert_array_equal(kernels.matmul(x, stored, isa=isa), expected)


@every("isa", ISAS)
@every("sign", [-1, 1])
def test_the_ends_of_a_table_do_not_overflow(isa, sign):
    for name, codes in (("nf4", (0, 15)), ("fp4", (3, 11))):
        for code in codes:
            planes = {
                "codes": pack(np.full((17, 4096), code, np.uint8), 4, 128),
                "scales": np.ones((2, 1, 16), np.float32),
            }
            for batch in (5, 33):
                x = np.full((batch, 4096), sign * 127, np.float32)
                found = kernels.matmul(x, kernels.StoredWeight(name, planes, 17, 4096, 128), isa=isa)
                expected = sign * 127 * 4096 * (-1 if code in (0, 11) else 1)
                np.testing.assert_allclose(found, expected, rtol=1e-6)


def check_row(found, clean, poisoned, name):
    # In float an infinity stays one.
    assert (np.isnan(found[poisoned]) if name in PLAIN else ~np.isfinite(found[poisoned])).all()
    rest = np.delete(np.arange(len(found)), poisoned)
    np.testing.assert_array_equal(found[rest], clean[rest])


@every("isa", ISAS)
@pytest.mark.parametrize("name", kernels.formats())
@every("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_activation_poisons_its_row_alone(name, isa, bad):
    block, granularity = default(name)
    weight = sample(name, 33, 100, block, granularity)
    x = activations(13, 100)
    clean = kernels.matmul(x, weight.stored, isa=isa)
    for row, col in ((0, 0), (7, 50), (12, 99)):
        broken = x.copy()
        broken[row, col] = bad
        check_row(kernels.matmul(broken, weight.stored, isa=isa), clean, row, name)


@every("isa", ISAS)
@pytest.mark.parametrize("name", INT8)
def test_tiny_and_huge_activations(name, isa):
    block, granularity = default(name)
    weight = sample(name, 17, 64, block, granularity, outliers=0)
    signs = np.sign(activations(5, 64))
    for size in (0.0, 1e-45, 1e-40, 1e-38, 1.4e-36, 1.6e-36, 1e-30, 1e34):
        x = (signs * size).astype(np.float32)
        found = kernels.matmul(x, weight.stored, isa=isa)
        assert np.isfinite(found).all()
        magnitude = np.abs(x.astype(np.float64)) @ np.abs(weight.values).T
        if size < 1.5e-36:
            np.testing.assert_array_equal(found, 0)
        else:
            error = np.abs(found - x.astype(np.float64) @ weight.values.T)
            assert (error <= magnitude * 1e-2 + 1e-37).all(), size


@every("isa", ISAS)
def test_the_rounding_mode_of_the_caller_is_kept(isa):
    x = np.array([1e-40], np.float32)
    kernels.matmul(activations(1, 32), sample("q4_0", 16, 32, 32).stored, isa=isa)
    assert (x * np.float32(0.5))[0] != 0, "subnormals are flushed after the call"


@every("isa", ISAS)
@every("compute", ["int8", "float32"])
def test_rows_do_not_depend_on_their_neighbours(isa, compute):
    weight = sample("int4", 40, 200, 64)
    x = activations(300, 200)
    whole = kernels.matmul(x, weight.stored, compute=compute, isa=isa)
    for first, last in ((0, 1), (3, 10), (255, 258), (290, 300)):
        part = kernels.matmul(x[first:last], weight.stored, compute=compute, isa=isa)
        np.testing.assert_array_equal(part, whole[first:last])


@every("isa", ISAS)
@every("shift", [1, 2, 4, 8, 33])
def test_planes_at_any_address(isa, shift):
    weight = sample("q8_0", 33, 100, 32)
    x = activations(5, 100)

    def moved(array):
        memory = np.empty(array.nbytes + shift, np.uint8)
        view = memory[shift:]
        view[:] = np.frombuffer(array.tobytes(), np.uint8)
        return view.view(array.dtype).reshape(array.shape) if shift % array.itemsize == 0 else array

    planes = {name: moved(plane) for name, plane in weight.stored.planes.items()}
    stored = kernels.StoredWeight("q8_0", planes, 33, 100, 32)
    np.testing.assert_array_equal(kernels.matmul(x, stored, isa=isa), int8_matmul(x, weight))


def test_special_scales():
    """Half subnormals, infinities and NaN decode as IEEE says, on each instruction set."""
    halves = np.arange(0, 1 << 16, 41, dtype=np.uint16)[: 16 * 99].view(np.float16).reshape(99, 1, 16)
    codes = np.full((99 * 16, 16), 129, np.uint8)
    stored = kernels.StoredWeight("int8", {"codes": pack(codes, 8, 16), "scales": halves}, 99 * 16, 16, 16)
    expected = np.repeat(halves.reshape(-1, 1).astype(np.float32), 16, axis=1)
    np.testing.assert_array_equal(kernels.decode(stored), expected)
    one = np.zeros((1, 16), np.float32)
    one[0, 3] = 1
    for isa in ISAS:
        found = kernels.matmul(one, stored, compute="float32", isa=isa)
        finite = np.isfinite(expected[:, 0])
        np.testing.assert_array_equal(found[0, finite], expected[finite, 0])
        assert not np.isfinite(found[0, ~finite]).any()


def weight_with(**changes) -> kernels.StoredWeight:
    stored = sample("q4_0", 33, 100, 32).stored
    planes = {**stored.planes, **{k: v for k, v in changes.items() if k in stored.planes}}
    sizes = {"format": stored.format, "rows": 33, "cols": 100, "block_size": 32}
    sizes |= {k: v for k, v in changes.items() if k not in stored.planes}
    return kernels.StoredWeight(planes=planes, **sizes)


def test_a_part_of_a_block_at_the_end_of_rows_is_decoded():
    assert kernels.decode(weight_with(cols=97)).shape == (33, 97)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "q9"}, "no format is called 'q9'"),
        ({"rows": 32}, "codes have shape"),
        ({"cols": 129}, "codes have shape"),
        ({"rows": 0}, "expected positive numbers"),
        ({"cols": -1}, "expected positive numbers"),
        ({"block_size": 0}, "expected positive numbers"),
        ({"block_size": 16}, "expected a power of two"),
        ({"codes": np.zeros(16, np.uint8)}, "codes have shape"),
        ({"codes": np.zeros((3, 16, 16, 4), np.int8)}, "codes are int8"),
        ({"scales": np.zeros((3, 4, 16), np.float32)}, "scales are float32"),
        ({"scales": np.zeros((3, 5, 16), np.float16)}, "scales have shape"),
        ({"scales": np.zeros((3, 3, 16), np.float16)}, "scales have shape"),
        ({"scales": np.zeros(1, np.float16)}, "one value per tensor, which q4_0 does not have"),
        ({"format": "q4_1"}, "plane 'minima' of q4_1 is missing"),
    ],
)
def test_planes_that_do_not_fit_are_refused(changes, message):
    weight = weight_with(**changes)
    with pytest.raises(NativeLibraryError, match=message):
        kernels.decode(weight)
    with pytest.raises(NativeLibraryError, match=message):
        kernels.matmul(activations(2, max(weight.cols, 1)), weight)


@pytest.mark.parametrize(
    ("plane", "change", "message"),
    [
        ("outlier_columns", [0, 5, 100], "outlier_columns hold 100 at 2"),
        ("outlier_columns", [0, -1, 3], "outlier_columns hold -1 at 1"),
        ("outlier_columns", [0, 3, 3], "outlier_columns hold 3 twice"),
        ("permutation", [0] * 100, "permutation hold 0 twice"),
        ("permutation", [*range(99), 100], "permutation hold 100 at 99"),
    ],
)
def test_indices_out_of_range_are_refused(plane, change, message):
    stored = sample("llm_int8", 33, 100, 32, ROW, permuted=True).stored
    planes = {**stored.planes, plane: np.array(change, np.int32)}
    with pytest.raises(NativeLibraryError, match=message):
        kernels.decode(kernels.StoredWeight("llm_int8", planes, 33, 100, 32))


def test_arguments_that_do_not_fit_are_refused():
    stored = sample("int8", 17, 33, 16).stored
    with pytest.raises(NativeLibraryError, match="expected float32"):
        kernels.matmul(activations(2, 32), stored)
    with pytest.raises(NativeLibraryError, match="expected float32"):
        kernels.matmul(activations(2, 33).astype(np.float64), stored)
    with pytest.raises(NativeLibraryError, match="expected 'int8' or 'float32'"):
        kernels.matmul(activations(2, 33), stored, compute="int4")
    with pytest.raises(NativeLibraryError, match="no instruction set is called 'mmx'"):
        kernels.matmul(activations(2, 33), stored, isa="mmx")
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
    with pytest.raises(NativeLibraryError, match=r"ABI version \d+, expected \d+: .* not of one build"):
        native.isas()


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
        kernels.formats()


def test_the_c_abi_refuses_null():
    library = ctypes.CDLL(str(native.library_path()))
    library.onnxquant_last_error.restype = ctypes.c_char_p
    size, none = ctypes.c_int64, ctypes.c_void_p(None)
    planes = (ctypes.c_byte * (24 * 8))()
    assert library.onnxquant_decode(b"int8", size(1), size(1), size(16), planes, size(2), none) == 1
    assert b"codes are missing" in library.onnxquant_last_error()
    assert library.onnxquant_decode(b"int8", size(1), size(1), size(16), planes, size(1), none) == 1
    assert b"1 planes, expected 2 or 3 for int8" in library.onnxquant_last_error()
    assert library.onnxquant_decode(none, size(1), size(1), size(16), planes, size(2), none) == 1
    assert library.onnxquant_decode(b"int8", size(1 << 61), size(1 << 61), size(16), planes, size(2), none) == 1


def test_the_oracle_sees_a_single_wrong_code():
    weight = sample("int4", 16, 32, 32)
    codes = weight.stored.planes["codes"].copy()
    codes[0, 2, 5, 1] ^= 0x10
    planes = {**weight.stored.planes, "codes": codes}
    changed = kernels.decode(kernels.StoredWeight("int4", planes, 16, 32, 32))
    wrong = np.argwhere(changed != weight.decoded)
    assert wrong.tolist() == [[5, 8 * 2 + 2 * 1 + 1]]
