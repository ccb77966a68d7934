"""Every registered format: encode, decode, bounds from both sides, corner cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxquant import decode, encode, formats
from onnxquant.errors import OnnxQuantError, RangeError, WeightError
from onnxquant.formats.base import Format, ScaledCodes
from onnxquant.formats.packing import pack, unpack


def variants(form: Format) -> list[dict[str, Any]]:
    """Parameter combinations of a format."""
    if "block_size" not in form.parameters():
        return [{}]
    grains: list[dict[str, Any]] = [
        {},
        {"block_size": 16},
        {"block_size": 128},
        {"per_channel": True},
        {"per_channel": False},
    ]
    return [{**g, "symmetric": s} for g in grains for s in (True, False)]


CASES = [
    pytest.param(f.name, v, id=f"{f.name}-{'-'.join(map(str, v.values()))}") for f in formats() for v in variants(f)
]
# Relative RMSE of block-wise rounding of N(0, 1) lies near 2^-bits; these brackets hold for every granularity here.
BRACKET = {16: (1e-4, 3e-4), 8: (2e-3, 2e-2), 4: (0.04, 0.25), 2: (0.25, 0.9)}


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_error_is_within_bounds_from_both_sides(name: str, parameters: dict[str, Any]) -> None:
    w = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    encoded = encode(w, name, **parameters)
    error = np.sqrt(np.mean((decode(encoded) - w) ** 2))
    low, high = BRACKET[encoded.format.bits]
    assert low < error < high


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_declared_planes_are_the_planes(name: str, parameters: dict[str, Any]) -> None:
    for shape in [(1, 1), (3, 31), (5, 33), (16, 64), (7, 129)]:
        encoded = encode(np.ones(shape, np.float32), name, **parameters)
        declared = encoded.format.planes(*shape)
        assert {n: (p.shape, p.dtype) for n, p in encoded.planes.items()} == {
            n: (p.shape, p.dtype) for n, p in declared.items()
        }
        assert decode(encoded).shape == shape


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_bits_per_weight_is_what_planes_take(name: str, parameters: dict[str, Any]) -> None:
    form = encode(np.ones((1, 1), np.float32), name, **parameters).format
    rows = cols = 4096
    assert 8 * form.nbytes(rows, cols) / (rows * cols) == pytest.approx(form.bits_per_weight, rel=0.01)


@pytest.mark.parametrize(("name", "parameters"), CASES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_with_its_place(name: str, parameters: dict[str, Any], value: float) -> None:
    w = np.ones((300, 40), np.float32)
    w[257, 33] = value
    with pytest.raises(WeightError, match="row 257, column 33"):
        encode(w, name, **parameters)


@pytest.mark.parametrize(("name", "parameters"), CASES)
@pytest.mark.parametrize("value", [0.0, -0.0, 0.3, -0.3, 1e-30, 1e-42])
def test_constant_weights_are_finite_and_near(name: str, parameters: dict[str, Any], value: float) -> None:
    decoded = decode(encode(np.full((3, 40), value, np.float32), name, **parameters))
    assert np.isfinite(decoded).all()
    assert np.abs(decoded - np.float32(value)).max() <= max(abs(value) * 0.3, 6e-5)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_huge_weights_are_exact_enough_or_refused(name: str, parameters: dict[str, Any]) -> None:
    w = np.random.default_rng(2).standard_normal((4, 64)).astype(np.float32) * np.float32(1e30)
    try:
        decoded = decode(encode(w, name, **parameters))
    except RangeError as error:
        assert name in str(error)
    else:
        assert np.isfinite(decoded).all()


@pytest.mark.parametrize(("name", "parameters"), CASES)
@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_float_types_encode_as_float32(name: str, parameters: dict[str, Any], dtype: str) -> None:
    w = np.random.default_rng(3).standard_normal((8, 64)).astype(dtype)
    a, b = encode(w, name, **parameters), encode(w.astype(np.float32), name, **parameters)
    assert all(np.array_equal(a.planes[p], b.planes[p]) for p in a.planes)


@pytest.mark.parametrize("name", [f.name for f in formats()])
def test_encoding_decoded_values_again_is_stable(name: str) -> None:
    w = np.random.default_rng(4).standard_normal((64, 256)).astype(np.float32)
    once = decode(encode(w, name))
    twice = decode(encode(once, name))
    # int8 rounds its scale to float16, which may move a second encoding by that rounding; code-stable formats are equal.
    tolerance = 0 if name in ("f16", "q4_0", "i2_s", "int4", "int2") else 1e-3
    assert np.abs(twice - once).max() <= tolerance * np.abs(once).max()


@pytest.mark.parametrize("name", [f.name for f in formats() if f.foreign])
def test_foreign_blocks_round_trip_without_loss(name: str) -> None:
    w = np.random.default_rng(5).standard_normal((16, 256)).astype(np.float32)
    encoded = encode(w, name)
    form: Any = encoded.format
    back = form.from_blocks(form.to_blocks(encoded), 16, 256)
    assert all(np.array_equal(back.planes[p], encoded.planes[p]) for p in encoded.planes)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(OnnxQuantError, match="did you mean 'tq2_0'"):
        encode(np.ones((2, 2), np.float32), "tq20")
    with pytest.raises(OnnxQuantError, match="did you mean 'block_size'"):
        encode(np.ones((2, 2), np.float32), "int4", blocksize=32)
    with pytest.raises(OnnxQuantError, match="one fixed point"):
        encode(np.ones((2, 2), np.float32), "q4_0", block_size=32)


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


def test_scaled_formats_declare_groups() -> None:
    for form in formats():
        if isinstance(form, ScaledCodes):
            assert form.groups(7, 100)[0] in (1, 7)
