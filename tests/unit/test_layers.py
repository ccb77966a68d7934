"""Layers on arrays: products with encoded weights without a session, and of ternary weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from every import every
from numpy.typing import NDArray
from variants import CASES

from onnxquant import (
    Encoded,
    OnnxQuantError,
    QuantizedLinear,
    WeightError,
    decode,
    encode,
    matmul_i2s,
    matmul_i2s_i8,
    quantize_row_to_int8,
)
from onnxquant.formats import base, format_named
from onnxquant.layers import linear


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def float_product(x: NDArray[np.float32], layer: QuantizedLinear) -> NDArray[np.float64]:
    """The product in float64, from the decoded weight."""
    product = x.astype(np.float64) @ layer.dequantize().astype(np.float64).T
    return product if layer.bias is None else product + layer.bias


@every(("name", "parameters"), CASES, by="name")
@every("cols", [256, 100])
def test_a_layer_is_the_product_with_the_decoded_weight(name: str, parameters: dict[str, Any], cols: int) -> None:
    w, x, bias = normal(37, cols), normal(2, 3, cols, seed=1), normal(37, seed=2)
    layer = QuantizedLinear.from_linear(w, name, bias=bias, **parameters)
    assert layer.dequantize().shape == w.shape
    assert np.abs(layer.dequantize() - w).max() < 4
    product = layer(x)
    assert (product.shape, product.dtype) == ((2, 3, 37), np.float32)
    np.testing.assert_allclose(product, float_product(x, layer), rtol=1e-4, atol=2e-4)
    assert layer(x[0, 0]).shape == (37,)
    assert layer(x[:0]).shape == (0, 3, 37)


@pytest.mark.parametrize("name", ["int8", "int4", "q4_0", "q8_0", "q4_1", "iq4_nl"])
def test_int8_compute_rounds_activations_block_by_block(name: str) -> None:
    w, x = normal(20, 128), normal(5, 128, seed=1)
    layer = QuantizedLinear.from_linear(w, name, compute="int8")
    blocks = x.reshape(5, 4, 32).astype(np.float64)
    step = np.abs(blocks).max(axis=2, keepdims=True) / 127
    rounded = (np.rint(blocks / step) * step).reshape(5, 128)
    expected = rounded @ layer.dequantize().astype(np.float64).T
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(layer(x) - float_product(x, layer)).max() > 1e-3


def test_layers_of_a_framework_are_read_by_their_attributes() -> None:
    class Tensor:
        """A parameter that wants to be detached before it is an array."""

        def __init__(self, values: NDArray[np.float32]) -> None:
            self.values = values

        def detach(self) -> Tensor:
            return self

        cpu = float = detach

        def numpy(self) -> NDArray[np.float32]:
            return self.values

    w, bias, x = normal(8, 64), normal(8, seed=1), normal(3, 64, seed=2)
    expected = QuantizedLinear.from_linear(w, "q8_0", bias=bias)(x)
    torch_like: Any = SimpleNamespace(weight=Tensor(w), bias=Tensor(bias))
    np.testing.assert_array_equal(QuantizedLinear.from_linear(torch_like, "q8_0")(Tensor(x)), expected)  # type: ignore[arg-type]
    without: Any = SimpleNamespace(weight=w, bias=None)
    np.testing.assert_allclose(QuantizedLinear.from_linear(without, "q8_0")(x) + bias, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(QuantizedLinear.from_linear(without, "q8_0", bias=bias)(x), expected)
    with pytest.raises(OnnxQuantError, match="bias: the layer has one already"):
        QuantizedLinear.from_linear(torch_like, "q8_0", bias=bias)


def test_a_kernel_is_a_layer_over_all_inputs_of_a_channel() -> None:
    kernel, patches = normal(16, 8, 3, 3), normal(5, 72, seed=1)
    layer = QuantizedLinear(encode(kernel, "q8_0"))
    assert (layer.in_features, layer.out_features) == (72, 16)
    expected = patches @ decode(layer.weight).reshape(16, 72).T
    np.testing.assert_allclose(layer(patches), expected, rtol=1e-4, atol=1e-4)


def test_blocks_that_cross_rows_are_multiplied_too() -> None:
    w, x = normal(6, 80), normal(2, 80, seed=1)
    folded = encode(np.pad(w.reshape(-1), (0, 32)).reshape(8, 64), "nf4")
    layer = QuantizedLinear(Encoded(folded.format, 8, 64, folded.planes, (6, 80)))
    assert layer.dequantize().shape == (6, 80)
    np.testing.assert_allclose(layer(x), float_product(x, layer), rtol=1e-5, atol=1e-5)


def test_formats_without_a_kernel_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear.kernels, "formats", list)
    layer = QuantizedLinear.from_linear(normal(8, 64), "q4_0")
    x = normal(3, 64, seed=1)
    np.testing.assert_allclose(layer(x), float_product(x, layer), rtol=1e-5, atol=1e-5)


def test_layers_refuse_what_does_not_fit() -> None:
    layer = QuantizedLinear.from_linear(normal(8, 64), "int8")
    with pytest.raises(WeightError, match=r"x of shape \[3, 65\], expected rows of 64"):
        layer(normal(3, 65))
    with pytest.raises(WeightError, match=r"bias of shape \[7\], expected \[8\]"):
        QuantizedLinear.from_linear(normal(8, 64), "int8", bias=np.zeros(7))
    with pytest.raises(WeightError, match=r"weight of shape \[64\], expected \[outputs, inputs\]"):
        QuantizedLinear.from_linear(normal(64), "int8")
    with pytest.raises(OnnxQuantError, match="compute is 'int4', expected float or int8"):
        QuantizedLinear.from_linear(normal(8, 64), "int8", compute="int4")
    for name in ("f16", "bf16", "f8_e4m3", "f8_e5m2", "dynamic8", "f32"):
        with pytest.raises(OnnxQuantError, match=f"'int8' has no effect: format {name} has no kernel for activations of 8"):
            QuantizedLinear.from_linear(normal(8, 64), name, compute="int8")
    folded = encode(normal(8, 64), "nf4")
    with pytest.raises(OnnxQuantError, match="'int8' has no effect: blocks of the weight cross its rows"):
        QuantizedLinear(Encoded(folded.format, 8, 64, folded.planes, (6, 80)), compute="int8")


def ternary(rows: int, cols: int, scale: float) -> NDArray[np.float32]:
    return (np.random.default_rng(rows).integers(-1, 2, (rows, cols)) * np.float32(scale)).astype(np.float32)


def test_rows_are_rounded_by_their_largest_magnitude_halves_away_from_zero() -> None:
    rows = quantize_row_to_int8(np.float32([[127, 0.5, -0.5, 1.5, -127], [0, 0, 0, 0, 0], [1, -2, 0.5, 0, 2]]))
    np.testing.assert_array_equal(rows.scales, np.float32([1, 0, 2 / 127]))
    assert rows.codes.tolist() == [[127, 1, -1, 2, -127], [0] * 5, [64, -127, 32, 0, 127]]
    assert rows.codes.dtype == np.int8
    assert quantize_row_to_int8(np.float32([3, -3])).codes.tolist() == [[127, -127]]
    for bad in (np.float32([[np.nan]]), np.float32([np.inf]), np.zeros((1, 1, 1), np.float32)):
        with pytest.raises(WeightError, match="expected finite floats"):
            quantize_row_to_int8(bad)


@pytest.mark.parametrize("cols", [128, 100, 4096])
def test_products_of_ternary_weights_are_those_of_integers(cols: int) -> None:
    w, x = ternary(33, cols, 0.37), normal(4, cols)
    weight = encode(w, "i2_s")
    np.testing.assert_array_equal(decode(weight), w)
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    np.testing.assert_allclose(matmul_i2s(x, weight), exact, rtol=1e-4, atol=1e-3)
    rows = quantize_row_to_int8(x)
    sums = rows.codes.astype(np.int64) @ np.sign(w).astype(np.int64).T
    expected = sums.astype(np.float32) * (rows.scales[:, None] * np.float32(0.37))
    np.testing.assert_array_equal(matmul_i2s_i8(rows, weight), expected)


def test_sums_that_overflow_16_bits_are_exact() -> None:
    weight = encode(np.ones((16, 8192), np.float32), "i2_s")
    rows = quantize_row_to_int8(np.ones((1, 8192), np.float32))
    np.testing.assert_array_equal(matmul_i2s_i8(rows, weight), np.full((1, 16), np.float32(127 * 8192) * rows.scales[0]))


def test_products_of_ternary_weights_refuse_others() -> None:
    with pytest.raises(OnnxQuantError, match="weight of format int2, expected i2_s"):
        matmul_i2s(normal(1, 32), encode(normal(4, 32), "int2"))
    form = format_named("i2_s")
    wide = base.Encoded(form, 1, 1 << 18, {}, (1, 1 << 18))
    with pytest.raises(WeightError, match="expected at most 131072: sums are exact up to there"):
        matmul_i2s_i8(quantize_row_to_int8(np.ones(1 << 18, np.float32)), wide)
