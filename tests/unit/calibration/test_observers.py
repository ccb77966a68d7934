"""Observers against float64 numpy on known distributions, and the algebra of merging."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from onnxquant.errors import StatisticsError
from onnxquant.numerics.exact_sum import ExactSum
from onnxquant.observers import ActivationGrid, accumulator_key, make, observer_named, ranging, registry
from onnxquant.observers.entropy import divergences
from onnxquant.observers.histogram import HALF, Histogram
from onnxquant.observers.mean_std import MeanStd, best_k
from onnxquant.observers.percentile import Percentile

RNG = np.random.default_rng(7)
DATA: dict[str, NDArray[np.float32]] = {
    "uniform": RNG.uniform(-1, 3, 200_000).astype(np.float32),
    "normal": RNG.normal(0.3, 2, 200_000).astype(np.float32),
    "laplace": np.concatenate([RNG.laplace(size=200_000), [60.0, -35.0]]).astype(np.float32),
    "relu": np.maximum(RNG.normal(size=200_000), 0).astype(np.float32),
    "lopsided": np.append(RNG.normal(size=200_000), [90.0]).astype(np.float32),
    "negative": -RNG.exponential(5, 200_000).astype(np.float32),
    "relu6": np.clip(RNG.normal(2, 3, 200_000), 0, 6).astype(np.float32),
}
GRIDS = [ActivationGrid(8, True), ActivationGrid(8, False), ActivationGrid(4, True), ActivationGrid(4, False)]
each_data = pytest.mark.parametrize("name", DATA)
each_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


def ranges(method: str, values: NDArray[Any], grid: ActivationGrid, **parameters: Any) -> tuple[float, float]:
    observer = observer_named(method)(**parameters)
    for part in np.array_split(values, 7):
        observer.update(part)
    return observer.range(grid)


def squared_error(values: NDArray[Any], low: float, high: float, grid: ActivationGrid) -> float:
    """Mean squared error of really quantizing, in float64."""
    x = values.astype(np.float64)
    if grid.symmetric:
        top = 2 ** (grid.bits - 1) - 1
        step = high / top
        return float(np.mean((np.clip(np.round(x / step), -top, top) * step - x) ** 2))
    step = (high - low) / (2**grid.bits - 1)
    zero = np.round(-low / step)
    return float(np.mean(((np.clip(np.round(x / step) + zero, 0, 2**grid.bits - 1) - zero) * step - x) ** 2))


def test_every_observer_is_registered() -> None:
    assert sorted(registry()) == sorted(
        ["absmean", "entropy", "gram", "mean-std", "minmax", "moving-average", "mse", "percentile"]
    )
    assert sorted(set(registry()) - set(ranging())) == ["absmean", "gram"]


@each_data
def test_minmax_is_exact(name: str) -> None:
    x = DATA[name]
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    assert ranges("minmax", x, ActivationGrid()) == (low, high)
    bound = max(-low, high)
    assert ranges("minmax", x, ActivationGrid(symmetric=True)) == (-bound, bound)


@each_data
@pytest.mark.parametrize("percentile", [50, 90, 99.9, 99.99, 100])
def test_percentile_is_within_a_bin_of_numpy(name: str, percentile: float) -> None:
    x = DATA[name].astype(np.float64)
    width = 2.0 ** (math.frexp(np.abs(x).max())[1] - 12)
    cut = (1 - percentile / 100) / 2
    want = [min(0.0, np.quantile(x, cut)), max(0.0, np.quantile(x, 1 - cut))]
    got = ranges("percentile", x, ActivationGrid(), percentile=percentile)
    # In the tails neighbours may be further apart than a bin: the quantile is then anywhere between two of them.
    ordered = np.sort(x)
    for g, w, share in zip(got, want, (cut, 1 - cut), strict=True):
        at = round(share * (len(x) - 1))
        gap = ordered[min(at + 1, len(x) - 1)] - ordered[max(at - 1, 0)]
        assert abs(g - w) <= width + gap
    bound = np.quantile(np.abs(x), percentile / 100)
    low, high = ranges("percentile", x, ActivationGrid(symmetric=True), percentile=percentile)
    assert low == -high
    at = round(percentile / 100 * (len(x) - 1))
    magnitudes = np.sort(np.abs(x))
    assert abs(high - bound) <= width + magnitudes[min(at + 1, len(x) - 1)] - magnitudes[max(at - 1, 0)]


@each_data
@pytest.mark.parametrize("k", [1.0, 3.0, None])
def test_mean_std_is_that_of_float64(name: str, k: float | None) -> None:
    x = DATA[name].astype(np.float64)
    reach = (best_k(8) if k is None else k) * x.std()
    want = min(0.0, max(x.min(), x.mean() - reach)), max(0.0, min(x.max(), x.mean() + reach))
    assert ranges("mean-std", DATA[name], ActivationGrid(), k=k) == pytest.approx(want, rel=1e-9)


def test_mean_std_has_no_cancellation() -> None:
    observer = MeanStd()
    for value in (-1, 0, 1, 0):
        observer.update(np.full(1000, 4e6 + value, np.float32))
    assert observer.accumulated.std == pytest.approx(math.sqrt(0.5), rel=1e-12)


def test_the_default_k_is_the_known_optimum() -> None:
    """Banner et al. 2019 give these standard deviations for 2 to 8 bits."""
    known = [1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92]
    assert [best_k(bits) for bits in range(2, 9)] == pytest.approx(known, abs=0.015)


@each_data
@each_grid
def test_mse_is_the_best_of_a_fine_search(name: str, grid: ActivationGrid) -> None:
    """Two-sided: no worse than brute force by more than 2 %, and not better by more than its coarseness explains."""
    x = DATA[name][-50_000:]
    low, high = ranges("mse", x, grid)
    seen_low, seen_high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    found = squared_error(x, low, high, grid)
    if grid.symmetric:
        bound = max(-seen_low, seen_high)
        tried = [squared_error(x, -bound * f, bound * f, grid) for f in np.geomspace(0.02, 1, 120)]
    else:
        fractions = np.geomspace(0.05, 1, 20)
        lows = seen_low * fractions if seen_low else [0.0]
        highs = seen_high * fractions if seen_high else [0.0]
        tried = [squared_error(x, a, b, grid) for a in lows for b in highs]
    assert min(tried) * 0.7 <= found <= min(tried) * 1.02
    assert found <= squared_error(x, *ranges("minmax", x, grid), grid) * 1.0001


def test_mse_of_a_normal_distribution_is_the_known_optimum() -> None:
    """3.92 and 2.55 standard deviations for 8 and 4 bits (Banner et al. 2019)."""
    x = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    assert ranges("mse", x, ActivationGrid(8, True))[1] == pytest.approx(3.92, abs=0.1)
    assert ranges("mse", x, ActivationGrid(4, True))[1] == pytest.approx(2.5, abs=0.1)


def kl_as_written(counts: NDArray[np.float64], start: int, end: int, groups: int) -> float:
    """The pseudocode of the slides, bin by bin."""
    p = counts[start:end].copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[end:].sum()
    q = np.zeros_like(p)
    edges = [(g * (end - start)) // groups for g in range(groups + 1)]
    for a, b in pairwise(edges):
        part = counts[start + a : start + b]
        filled = part > 0
        if filled.any():
            q[a:b][filled] = part.sum() / filled.sum()
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    if ((p > 0) & (q == 0)).any():
        return math.inf
    used = p > 0
    return float((p[used] * np.log(p[used] / q[used])).sum())


@pytest.mark.parametrize("seed", range(4))
def test_divergences_are_those_of_the_pseudocode(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(np.exp(rng.normal(0, 2, 300))).astype(np.float64) * (rng.random(300) > 0.3)
    starts = rng.integers(0, 120, 60)
    ends = starts + rng.integers(16, 180, 60)
    got = divergences(counts, starts, ends, 16)
    want = [kl_as_written(counts, int(a), int(b), 16) for a, b in zip(starts, ends, strict=True)]
    assert np.isfinite(want).any()
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["normal", "laplace", "relu"])
def test_entropy_is_the_best_candidate_of_the_slides(name: str) -> None:
    x = np.abs(DATA[name].astype(np.float64))
    width = 2.0 ** (math.frexp(x.max())[1] - 11)
    counts = np.bincount((x[x > 0] / width).astype(np.int64), minlength=2048).astype(np.float64)
    last = int(np.flatnonzero(counts)[-1]) + 1
    values = [kl_as_written(counts, 0, i, 128) for i in range(128, last + 1)]
    want = min((128 + int(np.argmin(values))) * width, x.max())
    low, high = ranges("entropy", DATA[name], ActivationGrid(8, True))
    assert (low, high) == (-want, want)


@each_data
@pytest.mark.parametrize("method", ["entropy", "mse", "percentile", "mean-std", "minmax", "moving-average"])
@each_grid
def test_ranges_contain_zero_and_lie_within_the_values_seen(name: str, method: str, grid: ActivationGrid) -> None:
    x = DATA[name]
    low, high = ranges(method, x, grid)
    assert low <= 0 <= high
    assert low < high
    largest = float(np.abs(x).max())
    if grid.symmetric:
        assert low == -high
        assert 0.01 * largest < high <= largest
    else:
        beyond = (high - low) / grid.steps if method == "mse" else 0.0
        assert low >= min(float(x.min()), 0.0) - beyond
        assert high <= max(float(x.max()), 0.0) + beyond


def test_moving_average_is_its_recurrence() -> None:
    samples = [RNG.normal(size=50) * (i + 1) for i in range(9)]
    low, high = samples[0].min(), samples[0].max()
    for x in samples[1:]:
        low, high = low + 0.01 * (x.min() - low), high + 0.01 * (x.max() - high)
    observer = observer_named("moving-average")()
    for x in samples:
        observer.update(x)
    assert observer.range(ActivationGrid()) == pytest.approx((low, high), rel=1e-12)


def test_moving_averages_merge_by_samples() -> None:
    one, other = observer_named("moving-average")(), observer_named("moving-average")()
    one.update(np.array([1.0]))
    for _ in range(3):
        other.update(np.array([5.0]))
    one.merge(other)
    assert one.range(ActivationGrid()) == (0.0, 4.0)


def test_channels_and_gram_are_those_of_float64() -> None:
    x = RNG.normal(size=(3, 5, 4, 6)).astype(np.float32)
    observers = make(["absmean:1", "absmean", "gram"])
    for part in x:
        for observer in observers.values():
            observer.update(part[None])
    first, last, gram = (observers[n] for n in ("absmean:1", "absmean", "gram"))
    np.testing.assert_allclose(first.absmean, np.abs(x.astype(np.float64)).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_array_equal(first.absmax, np.abs(x).max((0, 2, 3)))
    np.testing.assert_array_equal(last.absmax, np.abs(x).max((0, 1, 2)))
    rows = x.reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(gram.matrix, rows.T @ rows, rtol=1e-12, atol=1e-12)
    assert gram.count == len(rows)


@pytest.mark.parametrize(("axis", "name"), [(-1, "gram"), (1, "gram:1"), (2, "gram:2"), (0, "gram:-3")])
def test_mean_and_covariance_are_those_of_float64(axis: int, name: str) -> None:
    """Of correlated channels with means many times their deviation; merged from parts."""
    x = (RNG.normal(size=(4, 5, 6)) @ RNG.normal(size=(6, 6)) + 50 * RNG.normal(size=(4, 5, 1))).astype(np.float32)
    parts = np.array_split(x, 2, axis=2 if axis == 0 else 0)
    observer, other = make([name])[name], make([name])[name]
    observer.update(parts[0])
    other.update(parts[1])
    observer.merge(other)
    rows = np.moveaxis(x.astype(np.float64), axis, 0).reshape(x.shape[axis], -1)
    assert observer.count == rows.shape[1]
    np.testing.assert_allclose(observer.matrix, rows @ rows.T, rtol=1e-12)
    np.testing.assert_allclose(observer.mean, rows.mean(1), rtol=1e-12)
    np.testing.assert_allclose(observer.covariance, np.cov(rows, bias=True), rtol=1e-9, atol=1e-9)


def test_gram_of_files_without_sums_still_has_its_matrix() -> None:
    observer = make(["gram"])["gram"]
    with pytest.raises(StatisticsError, match="no values"):
        _ = observer.mean
    observer.update(np.ones((2, 3)))
    old = {part: observer.state()[part] for part in ("rows", "matrix")}
    for loaded, other in ((type(observer).from_state(old), observer), (observer, type(observer).from_state(old))):
        loaded.merge(other)
        assert loaded.count == 4
        np.testing.assert_array_equal(loaded.matrix, np.full((3, 3), 4.0))
        with pytest.raises(StatisticsError, match="no sums of rows; calibrate again"):
            _ = loaded.covariance


def test_gram_takes_rows_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxquant.observers.gram._BLOCK", 32)
    x = RNG.normal(size=(37, 6)).astype(np.float32)
    observer = make(["gram"])["gram"]
    observer.update(x)
    np.testing.assert_allclose(observer.matrix, x.astype(np.float64).T @ x.astype(np.float64), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(observer.mean, x.mean(0, dtype=np.float64), rtol=1e-12, atol=1e-12)


def test_misfitting_channels_are_refused() -> None:
    observers = make(["absmean:2", "gram"])
    with pytest.raises(StatisticsError, match=r"axis 2 of a tensor of shape \[2, 2\]"):
        observers["absmean:2"].update(np.ones((2, 2)))
    observers["gram"].update(np.ones((2, 3)))
    with pytest.raises(StatisticsError, match="gram: 4 channels on axis -1, 3 before"):
        observers["gram"].update(np.ones((2, 4)))
    with pytest.raises(StatisticsError, match=r"gram: axis 2 of a tensor of shape \[2, 2\]"):
        make(["gram:2"])["gram:2"].update(np.ones((2, 2)))
    with pytest.raises(StatisticsError, match="axis 1 cannot be merged with axis -1"):
        observers["gram"].merge(make(["gram:1"])["gram:1"])
    with pytest.raises(StatisticsError, match="takes no axis"):
        make(["mse:1"])
    with pytest.raises(StatisticsError, match="no whole number"):
        make(["absmean:x"])
    with pytest.raises(StatisticsError, match="did you mean 'entropy'"):
        make(["entrophy"])


@pytest.mark.parametrize("name", ["minmax", "mse", "moving-average", "absmean", "gram"])
@pytest.mark.parametrize(("bad", "words"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_values_that_are_not_finite_are_refused(name: str, bad: float, words: str) -> None:
    observer = make([name])[name]
    with pytest.raises(StatisticsError, match=words):
        observer.update(np.array([[1.0, bad]], np.float32))
    with pytest.raises(StatisticsError, match="int64"):
        observer.update(np.array([[1]]))


@pytest.mark.parametrize("name", ranging())
def test_an_empty_observer_has_no_range_and_zeros_have_an_empty_one(name: str) -> None:
    observer = observer_named(name)()
    observer.update(np.zeros((0, 3), np.float32))
    with pytest.raises(StatisticsError, match="no values"):
        observer.range(ActivationGrid())
    observer.update(np.zeros(3, np.float32))
    assert observer.range(ActivationGrid()) == (0.0, 0.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_are_observed(dtype: str) -> None:
    import ml_dtypes

    x = DATA["normal"][:1000].astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    other, plain = Histogram(), Histogram()
    other.update(x)
    plain.update(x.astype(np.float32))
    np.testing.assert_array_equal(other.counts, plain.counts)


def test_bad_parameters_are_refused() -> None:
    for percentile in (0, -1, 101, math.nan):
        with pytest.raises(StatisticsError, match="percentile"):
            Percentile(percentile=percentile)
    for k in (0, -1, math.inf, math.nan):
        with pytest.raises(StatisticsError, match="k is"):
            MeanStd(k=k)


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
parts_ = st.lists(hnp.arrays(np.float32, st.integers(0, 40), elements=floats), min_size=1, max_size=6)


def same(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kind", ["minmax", "mse", "moving-average"])
@settings(max_examples=80, deadline=None)
@given(parts=parts_, data=st.data())
def test_merging_is_exact_in_any_order(kind: str, parts: list[NDArray[np.float32]], data: st.DataObject) -> None:
    cls = observer_named(kind).accumulator
    states = []
    for part in parts:
        one = cls()
        one.update(part)
        states.append(one.state())

    def merged(order: list[int], split: int) -> dict[str, NDArray[Any]]:
        """The first ``split`` merged, the others merged, then both: another bracketing for each split."""
        sides = []
        for side in (order[:split], order[split:]):
            total = cls()
            for i in side:
                total.merge(cls.from_state(states[i]))
            sides.append(total)
        sides[0].merge(sides[1])
        return sides[0].state()

    forward = merged(list(range(len(parts))), 0)
    order = data.draw(st.permutations(range(len(parts))))
    assert same(forward, merged(order, data.draw(st.integers(0, len(parts)))))
    if kind != "moving-average":
        total = cls()
        for part in parts:
            total.update(part)
        if kind == "mse" or all(len(p) for p in parts):
            assert same(forward, total.state())


@settings(max_examples=150, deadline=None)
@given(values=hnp.arrays(np.float32, st.integers(1, 60), elements=floats))
def test_histogram_counts_are_exact_for_any_values(values: NDArray[np.float32]) -> None:
    """Against integer arithmetic: bin k of value n / d is the whole part of its magnitude over the width."""
    histogram = Histogram()
    for value in values:  # one at a time: it grows on the way
        histogram.update(np.array([value]))
    largest = max(abs(float(v)) for v in values)
    exponent = max(math.frexp(largest)[1] - 12, -100) if largest else -100
    assert histogram.exponent == exponent
    want = np.zeros(2 * HALF, np.int64)
    for value in values:
        n, d = abs(float(value)).as_integer_ratio()
        k = (n << max(-exponent, 0)) // (d << max(exponent, 0))
        want[HALF + (~k if value < 0 else k)] += 1
    np.testing.assert_array_equal(histogram.counts, want)
    assert histogram.zeros == np.count_nonzero(values == 0)


def test_growing_keeps_counts_of_extreme_values() -> None:
    tiny = np.array([-1e-45, 1e-45, -1e-30, 1e-30, -0.0, 0.0], np.float32)
    grown, at_once = Histogram(), Histogram()
    grown.update(tiny)
    grown.update(np.array([3e38], np.float32))
    at_once.update(np.append(tiny, np.float32(3e38)))
    np.testing.assert_array_equal(grown.counts, at_once.counts)
    assert grown.zeros == 2
    assert grown.counts[HALF - 1] == 2


@pytest.mark.parametrize("name", [*registry(), "absmean:0", "gram:0"])
def test_states_round_trip(name: str) -> None:
    observer = make([name])[name]
    x = RNG.normal(size=(4, 3)).astype(np.float32)
    observer.update(x)
    back = type(observer).from_state(observer.state())
    assert same(observer.state(), back.state())
    observer.update(2 * x)
    back.update(2 * x)
    assert same(observer.state(), back.state())


def test_methods_share_their_statistic() -> None:
    observers = make(["mse", "entropy", "percentile", "minmax", "mean-std", "absmean", "absmean:1", "gram", "gram:1"])
    assert len({id(o.accumulated) for o in observers.values()}) == 6
    assert accumulator_key("mse") == accumulator_key("entropy") == "histogram"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), max_size=20))
def test_exact_sums_round_once(values: list[float]) -> None:
    from fractions import Fraction

    total = ExactSum()
    for value in values:
        total.add(value)
    exact = sum((Fraction(v) for v in values), Fraction(0))
    assert Fraction(total.units, 1 << 1074) == exact
    assert ExactSum.from_state(total.state()).units == total.units


def test_sums_that_overflow_are_refused() -> None:
    with pytest.raises(StatisticsError, match="overflows"), np.errstate(over="ignore"):
        make(["mean-std"])["mean-std"].update(np.array([1e200]))
