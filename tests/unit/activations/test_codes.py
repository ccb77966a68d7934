"""Scales and zero points against exact arithmetic."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from onnxquant.observers.codes import Codes

KINDS = [Codes(bits, signed, symmetric) for bits in (8, 16) for signed in (False, True) for symmetric in (False, True)]
RANGES = [
    (-1.0, 3.0), (0.0, 6.0), (-2.5, 0.0), (0.5, 4.0), (-4.0, -0.5), (-1e-3, 1e4), (-3e38, 3e38), (0.0, 1e-30), (-7.0, 7.0),
]  # fmt: skip


@pytest.mark.parametrize("codes", KINDS, ids=str)
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_zero_is_exact_and_every_value_within_half_a_step(codes: Codes, low: float, high: float) -> None:
    scale, zero = codes.parameters(low, high)
    assert scale.dtype == np.float32 and zero.dtype == codes.dtype and np.isfinite(scale) and scale > 0
    step, z = Fraction(float(scale)), int(zero)
    assert codes.lowest <= z <= codes.highest
    values = np.linspace(min(low, 0.0) / 2, max(high, 0.0) / 2, 513) * 2
    worst = Fraction(0)
    for value in map(Fraction, values.tolist()):
        code = min(max(round(value / step) + z, codes.lowest), codes.highest)
        worst = max(worst, abs((code - z) * step - value))
    # Half a step inside; at the ends the rounded zero point may cost another half. And no exact representation either.
    assert worst <= step * Fraction(1002, 1000)
    assert worst >= step / 4
    assert (z - z) * step == 0


@pytest.mark.parametrize("codes", KINDS, ids=str)
def test_the_ends_of_a_range_have_the_outermost_codes(codes: Codes) -> None:
    for low, high in RANGES:
        scale, zero = codes.parameters(low, high)
        ends = [(e - int(zero)) * float(scale) for e in (codes.lowest, codes.highest)]
        span = max(high, 0.0) - min(low, 0.0)
        if codes.symmetric:
            assert int(zero) == (0 if codes.signed else 1 << (codes.bits - 1))
            largest = max(-low, high)
            assert max(map(abs, ends)) == pytest.approx(largest, rel=1.01 / (codes.highest - codes.lowest) * 2)
        else:
            assert ends[1] - ends[0] == pytest.approx(span, rel=1e-6)
            # No type holds more codes than these, so that a smaller step could not hold the range.
            assert float(scale) == pytest.approx(span / (codes.highest - codes.lowest), rel=1e-6)


def test_a_tensor_that_is_always_zero_has_a_scale() -> None:
    for codes, (low, high) in itertools.product(KINDS, [(0.0, 0.0), (-1e-44, 1e-44), (0.0, 1e-39)]):
        scale, zero = codes.parameters(low, high)
        assert scale == 1.0
        assert codes.lowest <= int(zero) <= codes.highest


def test_the_values_of_the_outermost_codes_are_those_that_onnxruntime_decodes() -> None:
    assert Codes().bounds(-1.0, 1.0) == pytest.approx((-127 * 2 / 255, 128 * 2 / 255), rel=1e-6)
    assert Codes().bounds(0.0, 6.0) == (0.0, 6.0)
