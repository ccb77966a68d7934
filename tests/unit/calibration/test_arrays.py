"""Calibration of arrays in memory: scales and zero points, streaming and merging."""

from __future__ import annotations

import numpy as np
import pytest

from onnxquant import QuantizationParameters, StatisticsError, calibrate_arrays, ranging_observer
from onnxquant.observers import Codes

VALUES = (np.random.default_rng(0).standard_normal((8, 1000)) * 2 + 0.5).astype(np.float32)
METHODS = [("minmax", {}), ("percentile", {"percentile": 99.0}), ("entropy", {}), ("mse", {}), ("mean-std", {"k": 3.0})]


def test_minmax_gives_the_scale_and_zero_point_of_the_extremes() -> None:
    low, high = float(VALUES.min()), float(VALUES.max())
    asymmetric = calibrate_arrays(VALUES)
    assert asymmetric.scale == np.float32((high - low) / 255)
    assert asymmetric.zero_point == round(-low / asymmetric.scale)
    assert asymmetric.codes.dtype == np.uint8
    symmetric = calibrate_arrays(VALUES, symmetric=True)
    assert (symmetric.scale, symmetric.zero_point) == (np.float32(max(-low, high) / 127), 0)
    assert symmetric.codes.dtype == np.int8
    assert calibrate_arrays(VALUES, symmetric=True, signed=False).zero_point == 128
    assert calibrate_arrays(VALUES, signed=True).zero_point == asymmetric.zero_point - 128


@pytest.mark.parametrize("bits", [2, 4, 7, 8, 16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_of_any_width_are_as_near_as_half_a_step(bits: int, symmetric: bool) -> None:
    parameters = calibrate_arrays(VALUES, bits=bits, symmetric=symmetric)
    codes = parameters.quantize(VALUES)
    assert codes.dtype.itemsize == (1 if bits <= 8 else 2)
    assert len(np.unique(codes)) <= 2**bits
    assert int(codes.max()) - int(codes.min()) < 2**bits
    error = np.abs(parameters.dequantize(codes) - VALUES)
    assert error.max() <= parameters.scale * (0.5 + 1e-3) + (0 if symmetric else parameters.scale / 2)
    assert parameters.quantize(np.float32([0]))[0] == parameters.zero_point


def test_methods_clip_as_they_are_defined() -> None:
    wide = np.append(VALUES.reshape(-1), np.float32([500, -400]))
    ranges = {name: calibrate_arrays(wide, name, **settings) for name, settings in METHODS}
    assert (ranges["minmax"].low, ranges["minmax"].high) == (-400, 500)
    low, high = np.percentile(wide, [0.5, 99.5])
    assert ranges["percentile"].low == pytest.approx(low, abs=0.2)
    assert ranges["percentile"].high == pytest.approx(high, abs=0.2)
    reach = 3 * float(wide.astype(np.float64).std())
    assert ranges["mean-std"].high == pytest.approx(float(wide.astype(np.float64).mean()) + reach)

    def error(parameters: QuantizationParameters) -> float:
        values = parameters.dequantize(parameters.quantize(wide)).astype(np.float64)
        return float(np.square(values - wide).mean())

    assert error(ranges["mse"]) <= 1.001 * min(error(p) for p in ranges.values())
    tails = np.random.default_rng(1).standard_t(3, 50_000).astype(np.float32)
    assert calibrate_arrays(tails, "entropy", symmetric=True).high < 0.9 * np.abs(tails).max()


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_streams_and_merged_parts_give_what_the_whole_does(method: str, settings: dict[str, float]) -> None:
    whole = calibrate_arrays(VALUES, method, **settings)
    streamed = calibrate_arrays(iter(VALUES), method, **settings)
    parts = [ranging_observer(method, **settings) for _ in range(3)]
    for i, row in enumerate(VALUES):
        parts[i % 3].update(row)
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    merged = parts[2].parameters()
    for other in (streamed, merged):
        assert (other.scale, other.zero_point) == (whole.scale, whole.zero_point)
        assert (other.low, other.high) == pytest.approx((whole.low, whole.high), rel=1e-12)


def test_tensors_that_are_always_zero_have_a_scale() -> None:
    parameters = calibrate_arrays(np.zeros(5, np.float32))
    assert (parameters.scale, parameters.zero_point) == (1.0, 0)
    assert QuantizationParameters.of(0.0, 0.0, Codes(symmetric=True)).scale == 1.0


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(StatisticsError, match="did you mean 'percentile'"):
        calibrate_arrays(VALUES, "percentil")
    with pytest.raises(StatisticsError, match="unknown calibration method 'absmean'"):
        calibrate_arrays(VALUES, "absmean")
    with pytest.raises(StatisticsError, match="mean-std: unknown setting 'sigmas'"):
        calibrate_arrays(VALUES, "mean-std", sigmas=3.0)
    with pytest.raises(StatisticsError, match="minmax: unknown setting 'percentile'; it has no settings"):
        calibrate_arrays(VALUES, percentile=99.9)
    with pytest.raises(StatisticsError, match="bits is 1, expected 2 to 16"):
        calibrate_arrays(VALUES, bits=1)
    with pytest.raises(StatisticsError, match="no values were observed"):
        calibrate_arrays([])
    with pytest.raises(StatisticsError, match="holds NaN"):
        calibrate_arrays(np.float32([np.nan]))
