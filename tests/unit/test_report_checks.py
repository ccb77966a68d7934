"""The two quick checks of a decoded weight: quiet on honest rounding in every format, loud where columns changed places."""

from __future__ import annotations

import math
from pathlib import Path

import graphs
import numpy as np
import pytest

import onnxquant
from onnxquant.formats import Format, formats
from onnxquant.validation import checks

EVERY = [pytest.param(f, id=f.name) for f in formats()]
ROWS, COLS = 96, 256


def plain(seed: int = 1) -> graphs.Array:
    return graphs.rng(seed).standard_normal((ROWS, COLS)).astype(np.float32)


def checked(weight: graphs.Array, other: graphs.Array) -> checks.WeightChecks:
    result = checks.check(weight, other)
    assert result is not None
    return result


def decoded(form: type[Format] | Format, weight: graphs.Array) -> graphs.Array:
    form = form() if isinstance(form, type) else form
    return np.asarray(form.decode(form.encode(weight)))


@pytest.mark.parametrize("form", EVERY)
def test_rounding_is_no_misplacement(form: Format) -> None:
    outliers = plain(2) * np.exp(2 * graphs.rng(3).standard_normal(COLS)).astype(np.float32)
    alike = (1 + 0.1 * plain(4)).astype(np.float32)
    few = (graphs.rng(5).standard_normal((ROWS, 3)) @ graphs.rng(6).standard_normal((3, COLS))).astype(np.float32)
    sparse = np.where(graphs.rng(7).random((ROWS, COLS)) < 0.05, plain(8), 0).astype(np.float32)
    for weight in (plain(), graphs.weight(ROWS, COLS), outliers, alike, few, sparse):
        result = checked(weight, decoded(form, weight))
        assert result.gradient_test.misplaced == ()
        assert result.complaint is None
    result = checked(plain(), decoded(form, plain()))
    assert result.doubt is None
    assert result.gradient_test.z < 6  # of 256 normal numbers the largest is about 3.3


@pytest.mark.parametrize("form", EVERY)
def test_columns_and_rows_that_changed_places_are_found(form: Format) -> None:
    weight = plain()
    honest = decoded(form, weight)
    swapped = honest.copy()
    swapped[:, [5, 77]] = honest[:, [77, 5]]
    assert checked(weight, swapped).gradient_test.misplaced == (("column", 5, 77), ("column", 77, 5))
    if form.name not in ("tq1_0", "tq2_0"):  # rows of ternary blocks of 256 keep less than 3 dB of a normal weight
        swapped = honest.copy()
        swapped[[3, 9]] = honest[[9, 3]]
        assert checked(weight, swapped).gradient_test.misplaced == (("row", 3, 9), ("row", 9, 3))
    blocks = honest.copy()
    blocks[:, :32], blocks[:, 64:96] = honest[:, 64:96], honest[:, :32]
    result = checked(weight, blocks)
    assert result.gradient_test.misplaced_count >= 32
    assert "misplaced: column" in str(result.complaint)



@pytest.mark.parametrize(("rounding", "count"), [(0.15, 0), (0.01, 2)])
def test_columns_that_are_alike_count_where_rounding_is_far_smaller_than_their_difference(
    rounding: float, count: int
) -> None:
    """Neighbouring taps of a filter bank; coarse codes may bring each nearer to the other one than to itself."""
    weight = plain()
    weight[:, 26] = weight[:, 25] + 0.2 * plain(2)[:, 0]
    swapped = weight + rounding * plain(3)
    swapped[:, [25, 26]] = swapped[:, [26, 25]]
    assert checked(weight, swapped).gradient_test.misplaced_count == count


def test_figures_follow_their_formulas() -> None:
    weight = plain().astype(np.float64)
    other = weight + 0.01 * plain(9)
    result = checked(weight, other)
    error = other.astype(np.float32).astype(np.float64) - weight.astype(np.float32)
    x = np.random.default_rng(0).standard_normal(COLS, np.float32).astype(np.float64)
    relative = np.linalg.norm(error @ x) / np.linalg.norm(weight @ x)
    assert result.sum_test.relative_error == pytest.approx(relative, rel=1e-3)
    rms = np.sqrt((error**2).mean())
    z = np.linalg.norm(error @ x) / (rms * math.sqrt(ROWS) * np.linalg.norm(x))
    assert result.sum_test.z == pytest.approx(z, rel=1e-3)
    down, across = (np.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in (ROWS, COLS))
    columns = np.abs(down @ error).max() / np.linalg.norm(down)
    largest = max(columns, np.abs(error @ across).max() / np.linalg.norm(across)) / rms
    assert result.gradient_test.z == pytest.approx(largest, rel=1e-3)


def test_a_lost_product_is_doubted() -> None:
    result = checked(plain(), -plain())
    assert result.sum_test.relative_error == pytest.approx(2, rel=1e-5)
    assert "more error than signal (2.00" in str(result.doubt)


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (1, 40), (3, 1)])
def test_weights_too_small_to_judge_are_let_through(shape: tuple[int, int]) -> None:
    weight = graphs.weight(*shape)
    result = checks.check(weight, weight * 0.9)
    assert result is None or result.complaint is None


def test_extreme_values_are_no_reason_to_stop() -> None:
    huge = plain() * np.float32(1e37)
    assert checks.check(huge, np.where(huge > 0, np.inf, huge)) is None
    tiny = plain() * np.float32(1e-38)
    for weight in (huge / 100, tiny):
        swapped = weight[:, [1, 0, *range(2, COLS)]]
        assert checked(weight, swapped).gradient_test.misplaced_count in (0, 2)
    assert checked(huge / 100, huge[:, [1, 0, *range(2, COLS)]] / 100).gradient_test.misplaced_count == 2


def test_the_proof_fails_a_file_whose_columns_changed_places(tmp_path: Path) -> None:
    source = graphs.save(graphs.matmul(256, 96), tmp_path / "model.onnx")
    model = onnxquant.Model(source)
    weight = model.weight("w")
    order = [1, 0, *range(2, weight.shape[1])]
    model.set("w", onnxquant.encode(np.ascontiguousarray(weight[:, order]), "int4"))
    model.save(tmp_path / "bad.onnx")
    report = onnxquant.validate(source, tmp_path / "bad.onnx", samples=1)
    assert [p for p in report.problems if "misplaced: column 0 holds what belongs to column 1" in p]
    assert report.verdict.state == "FAILED"
    assert "Do not use this file" in report.verdict.next
