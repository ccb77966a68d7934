"""Every registered format: encode, decode, bounds from both sides, corner cases.

A new format is tested by being registered; what it is held to are its own ``facts``.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from variants import CASES, fits

from onnxquant import decode, encode
from onnxquant.errors import OnnxQuantError, RangeError, WeightError
from onnxquant.formats import base, format_named, formats, matrix
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import PerTensor
from onnxquant.formats.parameters import parameters_of
from onnxquant.formats.survey import Surveyed
from onnxquant.native import dispatch
from onnxquant.numerics.packing import pack, unpack

NAMES = [f.name for f in formats()]
# With other parameters: what any sensible grid of so many bits makes of it.
LOOSE = {
    32: (-1.0, 1e-9),
    16: (1e-4, 3e-3), 8: (2e-3, 0.08), 6: (0.01, 0.08), 5: (0.02, 0.15), 4: (0.04, 0.35), 3: (0.1, 0.55),
    2: (0.25, 0.95),
}  # fmt: skip


def normal(seed: int, rows: int, cols: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def same(a: Encoded, b: Encoded) -> None:
    assert a.planes.keys() == b.planes.keys()
    for name, plane in a.planes.items():
        assert plane.dtype == b.planes[name].dtype
        np.testing.assert_array_equal(plane, b.planes[name], err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_error_is_the_formats_own(name: str) -> None:
    w = normal(1, 256, 256)
    error = float(np.sqrt(np.mean((decode(encode(w, name)) - w) ** 2)))
    assert error == pytest.approx(format_named(name).facts.rmse, rel=0.02)


@every(("name", "parameters"), CASES, by="name")
def test_error_is_within_bounds_from_both_sides(name: str, parameters: dict[str, Any]) -> None:
    w = normal(1, 64, 256)
    encoded = encode(w, name, **parameters)
    error = np.sqrt(np.mean((decode(encoded) - w) ** 2))
    low, high = LOOSE[encoded.format.bits]
    assert low < error < high


SHAPES = [(1, 1), (3, 31), (5, 33), (7, 129), (3, 255), (2, 511), (0, 32), (3, 0), (2, 4096)]
FITTING = [(*case.values, shape) for case in CASES for shape in SHAPES if fits(*case.values, shape[1])]
UNFIT = [(*case.values, shape[1]) for case in CASES for shape in SHAPES[1:6] if not fits(*case.values, shape[1])]


@every(("name", "parameters", "cols"), UNFIT, by="name")
def test_rows_of_no_whole_blocks_are_refused(name: str, parameters: dict[str, Any], cols: int) -> None:
    with pytest.raises(WeightError, match=f"rows of {cols} weights .* blocks of"):
        encode(normal(2, 2, cols), name, **parameters)


@every(("name", "parameters", "shape"), FITTING, by="name")
def test_declared_planes_are_the_planes(name: str, parameters: dict[str, Any], shape: tuple[int, int]) -> None:
    encoded = encode(normal(2, *shape), name, **parameters)
    declared = encoded.format.planes(*shape)
    assert {n: (p.shape, p.dtype) for n, p in encoded.planes.items()} == {
        n: (p.shape, p.dtype) for n, p in declared.items()
    }
    assert decode(encoded).shape == shape
    assert decode(encoded).dtype == np.float32
    assert encoded.nbytes() <= sum(p.nbytes for p in declared.values())
    # The format of an encoded weight can be made again from its settings.
    assert format_named(name, **encoded.format.settings()) == encoded.format


@every(("name", "parameters"), CASES, by="name")
def test_bits_per_weight_is_what_planes_take(name: str, parameters: dict[str, Any]) -> None:
    form = format_named(name, **parameters)
    rows = cols = 4096
    assert 8 * form.nbytes(rows, cols) / (rows * cols) == pytest.approx(form.bits_per_weight, rel=0.01)


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34, "q2_k": 10.5, "q3_k": 13.75, "q4_k": 18, "q5_k": 22,
        "q6_k": 26.25, "tq1_0": 8.25, "tq2_0": 8.25, "q8_k": 32.5, "i2_s": 8, "nf4": 18, "fp4": 18, "dynamic8": 34,
        "int3": 14, "int5": 22, "int6": 26,
    }.items(),
)  # fmt: skip
def test_bytes_of_32_weights(name: str, expected: float) -> None:
    assert format_named(name).bits_per_weight * 4 == expected


def test_bytes_of_wider_side_information() -> None:
    assert format_named("int4", symmetric=False).bits_per_weight == 4 + 20 / 32
    assert format_named("int3", symmetric=False, zero_point="float").bits_per_weight == 4
    assert format_named("nf4", double_quant=True).bits_per_weight == 4 + 8 / 64 + 32 / 64 / 256
    assert format_named("int3").nbytes(3, 5) == (15 * 3 + 7) // 8 + 6
    assert format_named("q4_0", permuted=True).nbytes(2, 64) == 2 * 2 * 18 + 4 * 64


@every(("name", "parameters"), CASES, by="name")
@every("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_with_its_place(name: str, parameters: dict[str, Any], value: float) -> None:
    w = np.ones((300, 128), np.float32)
    w[257, 33] = value
    with pytest.raises(WeightError, match="row 257, column 33"):
        encode(w, name, **parameters)
    with pytest.raises(WeightError, match="row 257, column 33"):
        format_named(name, **parameters).encode(w, permutation=np.arange(128)[::-1])


CORNERS: dict[str, NDArray[np.float64]] = {
    "zeros": np.zeros(512),
    "negative zeros": np.full(512, -0.0),
    "constant": np.full(512, 0.3),
    "negative constant": np.full(512, -0.3),
    "far from zero": 1 + 1e-3 * np.sin(np.arange(512)),
    "outlier": np.where(np.arange(512) == 77, 1e30, 1e-3),
    "negative outlier": np.where(np.arange(512) == 300, -100.0, 1e-3),
    "tie": np.where(np.arange(512) % 2, 1.0, -1.0),
    "tie and zeros": np.where(np.arange(512) % 64 < 2, np.where(np.arange(512) % 2, 1.0, -1.0), 0.0),
    "zero block": np.where(np.arange(512) < 256, 0.0, np.sin(np.arange(512))),
    "denormal": 1e-41 * np.sin(np.arange(512)),
    "tiny": 1e-30 * np.sin(np.arange(512)),
    "scale of a float16 underflows": 1e-7 * np.sin(np.arange(512)),
    "scale of a float16 is subnormal": 1e-4 * np.sin(np.arange(512)),
    "every magnitude": np.exp(np.linspace(-60, 10, 512)) * np.where(np.arange(512) % 3, 1, -1),
    "scale of a float16 overflows": 1e9 * np.sin(np.arange(512)),
    "near the largest": 3e38 * np.sin(np.arange(512)),
    "largest": np.full(512, float(np.finfo(np.float32).max)) * np.where(np.arange(512) % 5, 1, -1),
}
OVERFLOWS = ("outlier", "scale of a float16 overflows", "near the largest", "largest")


def corner_weight(corner: str) -> NDArray[np.float32]:
    return np.stack([CORNERS[corner], CORNERS[corner][::-1], CORNERS["constant"]]).astype(np.float32)


@every(("name", "parameters"), CASES, by="name")
def test_only_values_beyond_a_type_are_refused(name: str, parameters: dict[str, Any]) -> None:
    refused = set()
    for corner in CORNERS:
        try:
            encode(corner_weight(corner), name, **parameters)
        except RangeError as error:
            assert name in str(error)
            refused.add(corner)
    assert refused <= set(OVERFLOWS)


@every(("name", "parameters"), CASES, by="name")
@every("corner", [c for c in CORNERS if c not in OVERFLOWS])
def test_corners_decode_to_finite_values(name: str, parameters: dict[str, Any], corner: str) -> None:
    check_corner(encode(corner_weight(corner), name, **parameters), corner, parameters)


# Formats whose scales hold any float32.
WIDE = [
    c for c in CASES if np.dtype("float16") not in {p.dtype for p in format_named(c.values[0]).planes(1, 512).values()}
]


@every(("name", "parameters"), [c for c in WIDE if not c.values[1].get("double_quant")], by="name")
@every("corner", OVERFLOWS[:-1])
def test_values_beyond_a_float16_decode_to_finite_values(name: str, parameters: dict[str, Any], corner: str) -> None:
    check_corner(encode(corner_weight(corner), name, **parameters), corner, parameters)


def check_corner(encoded: Encoded, corner: str, parameters: dict[str, Any]) -> None:
    w, decoded = corner_weight(corner), decode(encoded)
    assert np.isfinite(decoded).all()
    rows_share = parameters.get("double_quant") or isinstance(encoded.format.granularity, PerTensor)
    if "zeros" in corner and "tie" not in corner and not isinstance(encoded.format.granularity, PerTensor):
        assert not decoded[:2].any()
    # Nothing is further off than its row's largest magnitude, however small or large that is.
    off = np.abs(decoded.astype(np.float64) - w).max(axis=1)
    across = np.abs(w).astype(np.float64).max(axis=1)
    if rows_share:
        across = across.max()
    if "underflows" in corner:
        across = encoded.format.facts.tiny_error * across
    assert (off <= across * (1 + 1e-3)).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {c.values[0] for c in WIDE}])
def test_scales_beyond_their_type_are_refused_and_never_infinite(name: str) -> None:
    """From both sides: what a float16 scale just holds is encoded, four times as much is not."""
    low, high = 1.0, 3e38
    while high > 1.01 * low:
        middle = float(np.sqrt(low * high))
        try:
            assert np.isfinite(decode(encode(np.sin(np.arange(512))[None] * middle, name))).all()
            low = middle
        except RangeError as error:
            assert name in str(error)
            high = middle
    assert 6.4e4 < high < 65504 * 32 * 128 * 1.2


@every(("name", "parameters"), CASES, by="name")
@every("dtype", ["float16", "float64", "bfloat16"])
def test_other_float_types_encode_as_float32(name: str, parameters: dict[str, Any], dtype: str) -> None:
    w = np.random.default_rng(3).standard_normal((8, 128)).astype(np.dtype(dtype))
    same(encode(w, name, **parameters), encode(w.astype(np.float32), name, **parameters))


@every(("name", "parameters"), CASES, by="name")
def test_strides_do_not_matter(name: str, parameters: dict[str, Any]) -> None:
    w = normal(8, 40, 256)
    turned = np.ascontiguousarray(w.T).T
    assert not turned.flags.c_contiguous
    same(encode(turned, name, **parameters), encode(w, name, **parameters))
    same(encode(np.repeat(w, 2, axis=0)[::2], name, **parameters), encode(w, name, **parameters))


@every(("name", "parameters"), CASES, by="name")
def test_more_rows_than_one_chunk_are_encoded_as_by_the_library(
    name: str, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numpy encodes some rows at a time, the library all of these at once."""
    for module in (base, matrix):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1 << 16)
    w = normal(9, (1 << 16) // (4 * 512) + 37, 512)
    form = format_named(name, **parameters)
    encoded = form.encode(w)
    same(dispatch.rounded_to_nearest(form, w), encoded)
    np.testing.assert_array_equal(form.decode(encoded), dispatch.decode(encoded))


BY_ROWS = [
    (f.name, cols)
    for f in formats()
    if not isinstance(f.granularity, PerTensor)
    for cols in (64, 200, 511)
    if fits(f.name, {}, cols)
]


@every(("name", "cols"), BY_ROWS, by="name")
def test_a_row_is_encoded_by_itself(name: str, cols: int) -> None:
    """A short last block never takes anything from the next row."""
    w = normal(10, 6, cols) * np.float32(10) ** np.arange(-3, 3)[:, None].astype(np.float32)
    if format_named(name).surveyed is Surveyed.COLUMNS:  # rows share the columns of outliers: here there are none
        w = w / np.abs(w).max()
    whole = encode(w, name)
    for row in range(6):
        alone = encode(w[row : row + 1], name)
        for plane, values in alone.planes.items():
            if values.ndim == 2:
                np.testing.assert_array_equal(values[0], whole.planes[plane][row])


@pytest.mark.parametrize("name", NAMES)
def test_encoding_decoded_values_again_is_stable(name: str) -> None:
    w = normal(4, 64, 512)
    once = decode(encode(w, name))
    twice = decode(encode(once, name))
    assert np.abs(twice - once).max() <= format_named(name).facts.drift * np.abs(once).max()


FOREIGN = [
    (f.name, shape)
    for f in formats()
    if f.foreign
    for shape in [(16, 512), (3, 256), (5, 128), (1, 64), (4, 200), (2, 33)]
    if fits(f.name, {}, shape[1]) and shape[1] % f.foreign_cols == 0
]


@every(("name", "shape"), FOREIGN, by="name")
def test_foreign_blocks_round_trip_without_loss(name: str, shape: tuple[int, int]) -> None:
    w = normal(5, *shape)
    encoded = encode(w, name)
    form: Any = encoded.format
    blocks = form.to_blocks(encoded)
    absmax = [form.absmax(encoded)] if hasattr(form, "absmax") else []
    back = form.from_blocks(blocks, *shape, *absmax)
    same(back, encoded)
    np.testing.assert_array_equal(decode(back), decode(encoded))
    with pytest.raises(WeightError, match=f"{name}: .* bytes.*, expected"):
        form.from_blocks(blocks.reshape(-1)[:-1], *shape, *(np.zeros(3, np.float32) for _ in absmax))


@every(("name", "parameters"), CASES, by="name")
def test_permuted_columns_come_back_in_their_order(name: str, parameters: dict[str, Any]) -> None:
    w = normal(6, 24, 256) * np.linspace(0.1, 1, 256, dtype=np.float32)
    order = np.random.default_rng(1).permutation(256)
    form = format_named(name, **{**parameters, "permuted": False})
    encoded = form.encode(w, permutation=order)
    assert encoded.format.permuted
    np.testing.assert_array_equal(encoded.planes["permutation"], order)
    stored = form.encode(w[:, order])
    for plane, values in stored.planes.items():
        np.testing.assert_array_equal(encoded.planes[plane], values)
    np.testing.assert_array_equal(decode(encoded)[:, order], decode(stored))
    # Without an order of the caller's it is that of the norms.
    sorted_ = form.with_(permuted=True).encode(w)
    norms = np.linalg.norm(w.astype(np.float64), axis=0)
    np.testing.assert_array_equal(sorted_.planes["permutation"], np.argsort(-norms, kind="stable"))
    np.testing.assert_allclose(decode(sorted_), w, atol=4)


def test_equal_columns_keep_their_order() -> None:
    w = np.ones((4, 64), np.float32)
    w[:, 40] = 2
    encoded = encode(w, "q8_0", permuted=True)
    assert encoded.planes["permutation"].tolist() == [40, *range(40), *range(41, 64)]


@pytest.mark.parametrize(
    "order", [[0, 1, 2], [0, 0, 1, 2], [0, 1, 2, 4], [-1, 0, 1, 2], [[0, 1, 2, 3]], [0.0, 1, 2, 3], [0, 1, 2, 2**40]]
)
def test_what_is_no_permutation_is_refused(order: Any) -> None:
    with pytest.raises(WeightError, match=r"expected each of 0 \.\. 3 once"):
        format_named("f16").encode(np.ones((2, 4), np.float32), permutation=order)


def test_a_damaged_permutation_is_refused_when_decoding() -> None:
    encoded = encode(np.ones((2, 4), np.float32), "f16", permuted=True)
    encoded.planes["permutation"][0] = 1
    with pytest.raises(WeightError, match=r"expected each of 0 \.\. 3 once"):
        decode(encoded)


@pytest.mark.parametrize("name", [f.name for f in formats() if "stochastic" in f.parameters()])
def test_stochastic_rounding_is_unbiased(name: str) -> None:
    """Over 10^6 draws of each of some values the mean is the value, within four standard deviations."""
    draws, values = 1 << 20, np.array([0.013, 0.3, -0.77, 0.5, -1e-4], np.float32)
    for value in values:
        w = np.full((draws // 1024, 1024), value, np.float32)
        w[:, ::64] = 1  # the scale of each block
        decoded = decode(encode(w, name, stochastic=3))
        drawn = np.delete(decoded, np.s_[::64], axis=1).astype(np.float64)
        assert len(np.unique(drawn)) in (1, 2)
        deviation = drawn.std() / np.sqrt(drawn.size)
        assert abs(drawn.mean() - np.float64(value)) <= 4 * deviation + 1e-9
        if len(np.unique(drawn)) == 2:  # neighbours in the table, on both sides of the value
            assert drawn.min() < value < drawn.max()
            assert np.abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.01


@pytest.mark.parametrize("name", [f.name for f in formats() if "stochastic" in f.parameters()])
def test_stochastic_rounding_is_repeatable_and_seeded(name: str) -> None:
    w = normal(7, 64, 512)
    first = encode(w, name, stochastic=1)
    same(first, encode(w, name, stochastic=1))
    assert (encode(w, name, stochastic=2).planes["codes"] != first.planes["codes"]).mean() > 0.2
    assert (encode(w, name, stochastic=1 + (1 << 32)).planes["codes"] != first.planes["codes"]).mean() > 0.2
    # What the table holds already is not moved (dynamic8 holds 1, not -1).
    w[:, ::32] = 5
    exact = decode(encode(w, name))
    np.testing.assert_array_equal(decode(encode(exact, name, stochastic=5)), exact)


@pytest.mark.parametrize("name", NAMES)
def test_formats_say_what_they_are(name: str) -> None:
    form = format_named(name)
    assert 10 < len(form.summary()) < 100
    assert "\n" not in form.summary()
    assert form.source
    for parameter in parameters_of(type(form)).values():
        assert parameter.help.endswith(".")


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(OnnxQuantError, match="did you mean 'tq2_0'"):
        encode(np.ones((2, 2), np.float32), "tq20")
    with pytest.raises(OnnxQuantError, match="did you mean 'block_size'"):
        encode(np.ones((2, 2), np.float32), "int4", blocksize=32)
    with pytest.raises(OnnxQuantError, match="one fixed point"):
        encode(np.ones((2, 2), np.float32), "q4_0", block_size=32)
    with pytest.raises(OnnxQuantError, match="did you mean 'block_size'"):
        encode(np.ones((2, 2), np.float32), format_named("int4"), blocksize=32)


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("int4", {"block_size": "32"}, "'int4': block_size is '32', expected int"),
        ("int4", {"block_size": True}, "block_size is True, expected int"),
        ("int4", {"symmetric": 1}, "symmetric is 1, expected bool"),
        ("int4", {"zero_point": "flat"}, "zero_point is 'flat', expected int or float"),
        ("int4", {"zero_point": "float"}, "add symmetric=False"),
        ("nf4", {"block_size": 16}, "block_size 16: expected a power of two from 32 to 4096"),
        ("nf4", {"block_size": 8192}, "block_size 8192: expected"),
        ("nf4", {"stochastic": -1}, "stochastic -1: expected a seed from 0"),
        ("nf4", {"stochastic": 1 << 64}, "expected a seed from 0 to 2.64 - 1"),
        ("fp4", {"stochastic": 1.5}, "stochastic is 1.5, expected int"),
        ("dynamic8", {"double_quant": True}, "'dynamic8' has no parameter 'double_quant'"),
        ("llm_int8", {"threshold": 0.0}, "threshold 0.0: expected a magnitude above 0"),
        ("llm_int8", {"threshold": float("nan")}, "threshold nan"),
        ("llm_int8", {"quantile": 0.0}, "quantile 0.0: expected a number between 0 and 1"),
        ("llm_int8", {"quantile": "0.9"}, "quantile is '0.9', expected float"),
    ],
)
def test_bad_parameters_are_refused(name: str, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(OnnxQuantError, match=says):
        format_named(name, **parameters)


def test_numbers_of_numpy_are_parameters_too() -> None:
    assert format_named("int4", block_size=np.int64(64)) == format_named("int4", block_size=64)
    assert format_named("llm_int8", threshold=np.float32(2)) == format_named("llm_int8", threshold=2.0)


@given(
    bits=st.sampled_from([2, 4, 8]),
    codes=st.lists(st.lists(st.integers(0, 255), min_size=5, max_size=5), min_size=1, max_size=9),
)
@settings(max_examples=60, deadline=None)
def test_packer_round_trips(bits: int, codes: list[list[int]]) -> None:
    array = np.array(codes, np.uint8) & np.uint8((1 << bits) - 1)
    packed = pack(array, bits)
    assert packed.shape[-1] == -(-array.shape[-1] * bits // 8)
    assert np.array_equal(unpack(packed, bits, array.shape[-1]), array)


def test_bfloat16_refuses_what_rounds_to_infinity() -> None:
    largest = np.full((1, 4), np.finfo(np.float32).max, np.float32)
    with pytest.raises(RangeError, match="largest bfloat16"):
        encode(largest, "bf16")


def test_a_format_that_leaves_something_out_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"'odd': class .*Odd does not define bits, facts, declared_planes, encode_rows"
    ):

        class Odd(Format):
            name = "odd"

            bits_per_weight = 3.0

            def decode_rows(self, planes: Any, cols: int) -> Any: ...


def test_a_class_that_keeps_the_name_of_a_format_is_encoded_by_its_own_code() -> None:
    class Other(type(format_named("int4"))):  # type: ignore[misc]
        def encode_groups(self, groups: Any, shared: Any) -> Any:
            planes = super().encode_groups(groups, shared)
            return planes | {"codes": planes["codes"] ^ 1}

    w = normal(11, 4, 64)
    assert (dispatch.rounded_to_nearest(Other(), w).planes["codes"] == encode(w, "int4").planes["codes"] ^ 1).all()


def test_bfloat16_is_registered_with_numpy() -> None:
    assert np.dtype("bfloat16") == np.dtype(ml_dtypes.bfloat16)
