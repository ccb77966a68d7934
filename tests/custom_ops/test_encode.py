"""The compiled encoders and decoders against the formats' own numpy code: the same bytes, on every instruction set."""

from __future__ import annotations

import ctypes
import itertools

import ml_dtypes
import numpy as np
import pytest
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxquant.errors import NativeLibraryError, RangeError, WeightError
from onnxquant.formats import format_named, formats
from onnxquant.formats.matrix import Stack
from onnxquant.native import dispatch
from onnxquant.native import encoders as encoder
from onnxquant.native import library as native
from onnxquant.native.jobs import EncodeJob, ErrorSums, Execution, SourceStructure, SurveyJob
from onnxquant.numerics.difference import Difference

ISAS = native.isas()
COMPILED = [form for form in formats() if not form.changes_nothing]


def variants():
    """Every format with the parameters that change its code."""
    for form in COMPILED:
        name, parameters = form.name, form.parameters()
        yield name, {}
        if "per_channel" in parameters:
            yield name, {"block_size": 64}
            yield name, {"symmetric": False}
            yield name, {"symmetric": False, "zero_point": "float"}
            yield name, {"per_channel": True}
            yield name, {"per_channel": False}
            yield name, {"per_channel": False, "symmetric": False}
            yield name, {"per_channel": True, "symmetric": False, "zero_point": "float", "permuted": True}
            yield name, {"block_size": 32 if form.bits in (3, 5) else 16, "symmetric": False}
        if "stochastic" in parameters:
            yield name, {"block_size": 32}
            yield name, {"block_size": 1024}
            yield name, {"stochastic": 12345678901234567}
        if "double_quant" in parameters:
            yield name, {"double_quant": True}
            yield name, {"double_quant": True, "stochastic": 1, "permuted": True}
        if "threshold" in parameters:
            yield name, {"threshold": 0.05}
            yield name, {"quantile": 0.9}
            yield name, {"quantile": 0.9, "permuted": True}


CASES = [
    pytest.param(
        format_named(name).with_(**parameters), id="-".join([name, *(f"{k}={v}" for k, v in parameters.items())])
    )
    for name, parameters in variants()
]


def generator(*seed):
    return np.random.default_rng(seed)


def whole(form, cols):
    """Columns that the format can hold: some take whole blocks only."""
    return cols if form.unfit(1, cols) is None else -(-cols // form.granularity.size) * form.granularity.size


def agree(form, weight, isa="", threads=None, permutation=None):
    """Planes and settings equal those of numpy; so do decoded values and statistics."""
    expected = form.encode(weight, permutation)
    found, difference = encoder.encode(form, weight, permutation, Execution(threads, isa))
    assert found.format == expected.format
    assert list(found.planes) == list(expected.planes)
    for name, plane in expected.planes.items():
        assert found.planes[name].dtype == plane.dtype and found.planes[name].shape == plane.shape
        assert found.planes[name].tobytes() == plane.tobytes(), where(name, found.planes[name], plane)
    values = form.decode(expected)
    np.testing.assert_array_equal(encoder.decode(found, Execution(threads, isa)), values)
    check_statistics(difference, weight.astype(np.float32), values)
    again = encoder.measure(expected, weight, Execution(threads, isa))
    assert again == difference
    return found, difference


def where(name, found, expected):
    at = np.argwhere(found != expected)
    return f"{name}: {len(at)} differ, first {at[:1]}: {found[found != expected][:1]} {expected[found != expected][:1]}"


def check_statistics(found, weight, values):
    exact = Difference()
    exact.add(weight, values)
    assert (found.count, found.unequal, found.not_finite) == (exact.count, exact.unequal, exact.not_finite)
    assert found.max_error == exact.max_error
    for name in ("error", "reference", "actual"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-12)
    scale = np.sqrt(exact.error * exact.count)
    assert found.signed == pytest.approx(exact.signed, abs=1e-13 * scale + 1e-300)
    assert found.dot == pytest.approx(exact.dot, rel=1e-12, abs=1e-12 * (exact.actual + exact.reference))


@every("isa", ISAS)
@every("form", CASES, by="form")
def test_shapes(form, isa):
    for rows, cols in itertools.product([1, 5, 33], [1, 15, 32, 33, 100, 256, 257, 300, 520]):
        cols = whole(form, cols)
        weight = generator(rows, cols).normal(scale=0.02, size=(rows, cols)).astype(np.float32)
        agree(form, weight, isa)


def distributions(rows, cols):
    random = generator(rows, cols)
    normal = random.normal(size=(rows, cols))
    yield "uniform", random.uniform(-1, 1, (rows, cols))
    yield "heavy", random.standard_t(2, (rows, cols))
    yield "integers", random.integers(-9, 10, (rows, cols)) + 0.0
    yield "halves", random.integers(-15, 16, (rows, cols)) / 2
    yield "grid", np.round(normal * 8) / 64
    yield "half floats", normal.astype(np.float16)
    yield "bfloats", normal.astype(ml_dtypes.bfloat16)
    yield "large", normal * 1e4
    yield "small", normal * 1e-6
    yield "tiny", normal * 1e-30
    yield "tinier", normal * 1e-38
    yield "subnormal", normal * 1e-43
    yield "zeros", np.zeros((rows, cols))
    yield "mostly zeros", normal * (random.random((rows, cols)) < 0.02) + 0.0
    yield "ones", np.ones((rows, cols))
    yield "constants", np.repeat(normal[:, :1], cols, axis=1)
    yield "ties", np.sign(normal) * 0.75
    yield "positive", np.abs(normal) + 3
    yield "negative", -np.abs(normal) - 3
    yield "offset", normal * 1e-3 + 7
    yield "ternary", random.integers(-1, 2, (rows, cols)) * 0.37 + 0.0
    yield "scales apart", normal * 10.0 ** random.integers(-6, 3, (rows, cols))
    # One bit below a half, where a scale of one or 127 leaves it: adding a half would round it up.
    below = np.nextafter(np.abs(random.integers(-9, 9, (rows, cols))) + np.float32(0.5), np.float32(0)) * np.sign(
        normal
    )
    below[:, ::32] = 127
    yield "below halves", below
    yield (
        "below a half",
        np.where(np.arange(cols) % 32 == 0, 1, np.nextafter(np.float32(0.5), np.float32(0)) * np.sign(normal)),
    )
    yield "ramp", np.tile(np.linspace(-1, 1, cols), (rows, 1))


@every("isa", ISAS)
@every("form", CASES, by="form")
def test_distributions(form, isa):
    for rows, cols in [(3, whole(form, 288)), (2, whole(form, 77))]:
        for name, weight in distributions(rows, cols):
            try:
                agree(form, weight.astype(np.float32), isa)
            except RangeError as error:
                with pytest.raises(RangeError) as found:
                    encoder.encode(form, weight.astype(np.float32), execution=Execution(isa=isa))
                assert str(found.value) == str(error)
            except AssertionError as error:
                raise AssertionError(f"{name} {rows} x {cols}: {error}") from error


@every("isa", ISAS)
@every("form", CASES, by="form")
def test_zeros_of_both_signs(form, isa):
    cols = whole(form, 560)
    for share in (0.0, 0.03, 0.5, 0.97, 1.0):
        zeros = np.where(generator(1).random((4, cols)) < share, 0.0, -0.0).astype(np.float32)
        agree(form, zeros, isa)
        some = generator(2).random((4, cols)) < 0.03
        for sign in (1, -1):
            agree(form, np.where(some, sign * generator(3).random((4, cols)), zeros).astype(np.float32), isa)


def arranged(weight):
    """The same matrix in other places of memory."""
    rows, cols = weight.shape
    yield "columns", np.asfortranarray(weight)
    yield "reversed", np.ascontiguousarray(weight[::-1, ::-1])[::-1, ::-1]
    yield "reversed columns", np.asfortranarray(weight[::-1])[::-1]
    wide = np.empty((rows, 2 * cols + 1), weight.dtype)
    wide[:, 1::2] = weight
    yield "every second", wide[:, 1::2]
    tall = np.empty((3 * cols, rows + 5), weight.dtype)
    tall[::3, 2:-3] = weight.T
    yield "part of columns", tall[::3, 2:-3].T
    yield "a row for all", np.broadcast_to(weight[:1], weight.shape)
    odd = np.empty(weight.nbytes + 1, np.uint8)[1:].view(weight.dtype).reshape(weight.shape)
    odd[...] = weight
    yield "unaligned", odd


@every("isa", ISAS)
@every("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.dtype(">f4")])
@pytest.mark.parametrize("name", ["int4", "q8_0", "q5_k", "f8_e4m3", "llm_int8", "bf16", "i2_s", "nf4"])
def test_types_and_strides(name, dtype, isa):
    form = format_named(name)
    for rows, cols in [
        (37, whole(form, 300)),
        (64, whole(form, 512)),
        (1, whole(form, 64)),
        (16, whole(form, 1)),
        (17, whole(form, 1037)),
    ]:
        weight = generator(rows, cols).normal(size=(rows, cols)).astype(dtype)
        agree(form, weight, isa)
        for how, other in arranged(weight):
            found = encoder.encode(form, other, execution=Execution(isa=isa))[0]
            for plane, values in form.encode(other).planes.items():
                assert found.planes[plane].tobytes() == values.tobytes(), f"{how}: {plane}"


@every("form", CASES, by="form")
def test_threads_change_nothing(form):
    weight = generator(5).normal(size=(321, whole(form, 256))).astype(np.float32)
    one, expected = encoder.encode(form, weight, execution=Execution(1, part_bytes=1 << 16))
    for threads in (2, 3, 7):
        found, difference = encoder.encode(form, weight, execution=Execution(threads, part_bytes=1 << 16))
        assert difference == expected
        assert all(found.planes[name].tobytes() == plane.tobytes() for name, plane in one.planes.items())
    agree(form, weight)


@every("form", CASES, by="form")
def test_a_stack_is_its_parts_below_each_other(form):
    weight = generator(10).normal(size=(70, whole(form, 256))).astype(np.float16)
    stack = Stack([weight[:33], weight[33:49].astype(np.float32), np.asfortranarray(weight[49:])])
    expected, _ = dispatch.encode(form, weight)
    found, difference = dispatch.encode(form, stack)
    assert found.format == expected.format
    assert all(found.planes[name].tobytes() == plane.tobytes() for name, plane in expected.planes.items())
    check_statistics(difference, weight.astype(np.float32), form.decode(expected))
    stack.parts[1][4, 5] = np.nan
    with pytest.raises(WeightError, match=r"^holds nan at row 37, column 5"):
        dispatch.encode(form, stack)


def test_instruction_sets_give_the_same_statistics():
    weight = generator(6).normal(size=(50, 768)).astype(np.float32)
    for form in COMPILED:
        found = [encoder.encode(form, weight, execution=Execution(isa=isa))[1] for isa in ISAS]
        assert all(one == found[0] for one in found), form.name


@every("form", CASES, by="form")
def test_permutation(form):
    cols = whole(form, 160)
    weight = generator(7).normal(size=(20, cols)).astype(np.float32) * np.linspace(0.5, 2, cols, dtype=np.float32)
    order = generator(8).permutation(cols)
    for matrix in (weight, np.asfortranarray(weight)):
        found, _ = agree(form, matrix, permutation=order)
        assert found.format.permuted
    with pytest.raises(WeightError, match="permutation"):
        encoder.encode(form, weight, np.zeros(cols, np.int32))


@settings(max_examples=150, deadline=None)
@given(
    form=st.sampled_from([case.values[0] for case in CASES]),
    isa=st.sampled_from(ISAS),
    seed=st.integers(0, 1 << 32),
    rows=st.integers(1, 40),
    cols=st.integers(1, 600),
    exponent=st.integers(-44, 38),
    spread=st.integers(0, 8),
    columns=st.booleans(),
)
def test_any_weight_is_encoded_as_numpy_does_or_refused_with_its_words(
    form, isa, seed, rows, cols, exponent, spread, columns
):
    random, cols = generator(seed), whole(form, cols)
    with np.errstate(over="ignore", under="ignore"):
        weight = random.normal(size=(rows, cols)) * 10.0 ** (exponent - random.integers(0, spread + 1, (rows, cols)))
        weight = np.clip(weight, -3e38, 3e38).astype(np.float32) + np.float32(0)
    weight = np.asfortranarray(weight) if columns else weight
    execution = Execution(isa=isa)
    expected = encoded_or_refused(lambda: form.encode(weight))
    encoded = encoded_or_refused(lambda: encoder.encode(form, weight, execution=execution)[0])
    if isinstance(expected, str):
        assert encoded == expected
    else:
        for name, plane in expected.planes.items():
            assert encoded.planes[name].tobytes() == plane.tobytes(), where(name, encoded.planes[name], plane)
        np.testing.assert_array_equal(encoder.decode(encoded, execution=execution), form.decode(expected))


def encoded_or_refused(encode):
    """An encoded weight, or the words of the refusal."""
    try:
        return encode()
    except RangeError as error:
        return str(error)


@every("value", [np.nan, np.inf, -np.inf])
@every("form", CASES, by="form")
def test_the_first_value_that_is_not_finite_is_named(form, value):
    cols = whole(form, 300)
    weight = generator(9).normal(size=(40, cols)).astype(np.float32)
    weight[33, 2] = weight[21, cols - 1] = weight[22, 0] = value
    for matrix in (weight, np.asfortranarray(weight), weight.astype(np.float64)):
        for isa in ISAS:
            with pytest.raises(
                WeightError, match=f"^holds {value} at row 21, column {cols - 1}; expected finite values"
            ):
                encoder.encode(form, matrix, execution=Execution(isa=isa))
    with pytest.raises(WeightError, match="row 21"):
        encoder.encode(form, weight, np.arange(cols)[::-1])


def test_a_double_beyond_float32_is_not_finite():
    weight = np.zeros((3, 32))
    weight[1, 4] = 1e39
    with pytest.raises(WeightError, match="holds inf at row 1, column 4"):
        encoder.encode(format_named("q4_0"), weight)


@every("shape", [(0, 0), (0, 64), (3, 0)])
@every("form", CASES, by="form")
def test_empty(form, shape):
    shape = shape[0], whole(form, shape[1])
    weight = np.zeros(shape, np.float32)
    expected = form.encode(weight)
    found, difference = encoder.encode(form, weight)
    assert {n: p.shape for n, p in found.planes.items()} == {n: p.shape for n, p in expected.planes.items()}
    assert difference == Difference()
    assert encoder.decode(found).shape == shape and encoder.measure(found, weight) == Difference()


def test_every_format_uses_them(monkeypatch):
    weight = generator(10).normal(size=(3, 256)).astype(np.float32)
    for form in COMPILED:
        assert encoder.supports(form), form.name
        with monkeypatch.context() as patch:
            patch.setattr(type(form), "encode", None)
            patch.setattr(type(form), "decode", None)
            encoded, difference = dispatch.encode(form, weight)
            assert dispatch.measure(encoded, weight) == difference
            assert dispatch.decode(dispatch.rounded_to_nearest(form, weight)).shape == weight.shape


def test_a_format_without_an_encoder_is_noticed(monkeypatch):
    monkeypatch.setattr(encoder, "names", lambda: frozenset(f.name for f in COMPILED if f.name != "q4_k"))
    with pytest.raises(AssertionError, match="q4_k"):
        test_every_format_uses_them(monkeypatch)


def test_without_the_library_numpy_serves(monkeypatch):
    monkeypatch.setattr(encoder, "names", frozenset)
    monkeypatch.setattr(native, "call", None)
    weight = generator(11).normal(size=(3, 256)).astype(np.float32)
    form = format_named("q4_k")
    expected = form.encode(weight)
    encoded, difference = dispatch.encode(form, weight)
    assert all(encoded.planes[name].tobytes() == plane.tobytes() for name, plane in expected.planes.items())
    assert dispatch.rounded_to_nearest(form, weight).planes["codes"].tobytes() == expected.planes["codes"].tobytes()
    np.testing.assert_array_equal(dispatch.decode(encoded), form.decode(expected))
    assert difference.error == pytest.approx(np.square(form.decode(expected).astype(np.float64) - weight).sum())


def test_planes_of_other_shapes_are_refused():
    encoded, _ = encoder.encode(format_named("q4_0"), np.ones((4, 64), np.float32))
    for name, plane in [
        ("codes", np.zeros((4, 63), np.uint8)),
        ("scales", np.zeros((4, 1), np.float16)),
        ("codes", np.zeros((4, 64), np.int16)),
    ]:
        bad = type(encoded)(encoded.format, 4, 64, {**encoded.planes, name: plane}, (4, 64))
        assert not encoder.can_decode(bad)
        with pytest.raises(WeightError, match=f"plane {name}"):
            encoder.decode(bad)
    assert encoder.measure(encoded, np.ones((4, 63))).shape_mismatch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": b"q4_2"}, "no encoder is called 'q4_2'"),
        ({"action": b"guess"}, "expected encode, measure or decode"),
        ({"group": 64}, "groups of 64"),
        ({"rows": -1}, r"\[-1, 64\]"),
        ({"codes": None}, "codes are missing"),
        ({"scales": None}, "scales are missing"),
        ({"statistics": None}, "statistics are missing"),
        ({"action": b"decode"}, "the decoded weight is missing"),
        ({"zero_point": 1}, "zero point 1"),
        ({"first_row": -1}, "first row -1"),
        ({"format": b"q4_1"}, "minima or zero points are missing"),
        ({"format": b"q6_k", "group": 256}, "subscales are missing"),
        ({"format": b"i2_s", "group": 256}, "the scale is missing"),
        ({"format": b"nf4", "group": 32}, "the table is missing"),
        ({"format": b"nf4", "group": 48}, "64 columns in groups of 48"),
        ({"format": b"llm_int8", "group": 0, "outlier_count": 65}, "65 outliers"),
        ({"source": (None, None, 0, 64, 1)}, "the weight is missing"),
        ({"source": (1, None, 4, 64, 1)}, "element type 4"),
        ({"source": (4098, None, 0, 64, 1)}, "not aligned"),
        ({"isa": b"mmx"}, "mmx"),
        ({"size": 8}, "not of one build"),
    ],
)
def test_mistakes_are_refused(change, message):
    weight, codes, scales = np.ones((2, 64), np.float32), np.zeros((2, 64), np.uint8), np.zeros((2, 2), np.float16)
    statistics = ErrorSums()
    fields = {
        "isa": b"", "format": b"q4_0", "action": b"encode", "source": (weight.ctypes.data, None, 0, 64, 1), "rows": 2,
        "cols": 64, "group": 32, "codes": codes.ctypes.data, "scales": scales.ctypes.data,
        "statistics": ctypes.addressof(statistics), "size": ctypes.sizeof(EncodeJob), **change,
    }  # fmt: skip
    job = EncodeJob(**{**fields, "source": SourceStructure(*fields["source"])})
    assert native.function("encode")(ctypes.byref(job)) == 1
    with pytest.raises(NativeLibraryError, match=message):
        raise NativeLibraryError(native.last_error())


def test_columns_that_do_not_exist_are_refused():
    weight, out = np.ones((2, 64), np.float32), np.zeros((2, 64), np.float32)
    columns = np.full(64, 64, np.int32)
    job = SurveyJob(ctypes.sizeof(SurveyJob), b"", rows=2, cols=64)
    job.source = SourceStructure(weight.ctypes.data, columns.ctypes.data, 0, 64, 1)
    job.survey = out.ctypes.data
    assert native.function("survey")(ctypes.byref(job)) == 1
    assert "column 64 of 64" in native.last_error()
