"""Scores and masks against definitions written out in float64, and formats that keep zeros."""

from dataclasses import replace

import numpy as np
import pytest

from onnxquant.errors import RecipeError
from onnxquant.formats import format_named, formats
from onnxquant.pruning.amounts import Amount, Pattern
from onnxquant.pruning.masks import scores, staying
from onnxquant.pruning.zeros import keeps_zeros
from onnxquant.solvers import Inputs, registry

# Super-blocks with minima, and a table without a zero: no code of theirs stands for zero in every block.
WITHOUT_ZERO = {"q4_1", "q5_1", "q2_k", "q4_k", "q5_k", "iq4_nl"}


def weight_of(rows=12, cols=24, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def test_amounts_are_read_as_users_write_them():
    assert Amount.parse("0.5") == Amount.parse(0.5) == Amount.parse("50%") == Amount(Pattern.WEIGHTS, 0.5)
    assert Amount.parse("2:4") == Amount(Pattern.TWO_OF_FOUR, 0.5)
    assert Amount.parse("channels=0.3") == Amount(Pattern.CHANNELS, 0.3)


@pytest.mark.parametrize("text", ["0", "1", "1.5", "-0.5", "3:4", "half", "channels", "channels=2", "nan", "100%", ""])
def test_an_amount_that_is_none_says_what_was_expected(text):
    with pytest.raises(RecipeError, match=r"expected a part of the weights such as 0\.5, 2:4, or .* channels=0\.3"):
        Amount.parse(text)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.77])
def test_the_smallest_magnitudes_of_a_tensor_are_pruned(part):
    weight = weight_of()
    mask = staying(Amount(Pattern.WEIGHTS, part), scores(weight), by_row=False)
    gone = round(part * weight.size)
    order = sorted(range(weight.size), key=lambda i: abs(float(weight.flat[i])))
    assert set(np.flatnonzero(~mask)) == set(order[:gone])


def test_by_wanda_each_row_loses_the_weights_of_least_magnitude_times_norm():
    weight, inputs = weight_of(), np.random.default_rng(1).standard_normal((2, 200, 24)) * np.geomspace(0.01, 10, 24)
    energy = np.einsum("gnc,gnc->gc", inputs, inputs)
    mask = staying(Amount(Pattern.WEIGHTS, 0.5), scores(weight, energy), by_row=True)
    for row in range(12):
        score = [abs(float(w)) * np.linalg.norm(inputs[row // 6, :, c]) for c, w in enumerate(weight[row])]
        assert set(np.flatnonzero(~mask[row])) == set(np.argsort(score)[:12])
    assert (mask != staying(Amount(Pattern.WEIGHTS, 0.5), scores(weight), by_row=True)).any()


@pytest.mark.parametrize("taps", [1, 3])
def test_two_of_each_four_inputs_at_one_position_stay(taps):
    weight = weight_of(5, 8 * taps)
    mask = staying(Amount.parse("2:4"), scores(weight), by_row=False, taps=taps)
    for row in range(5):
        for first in (0, 4):
            for tap in range(taps):
                columns = [(first + i) * taps + tap for i in range(4)]
                best = sorted(columns, key=lambda c: -abs(float(weight[row, c])))[:2]
                assert [c for c in columns if mask[row, c]] == sorted(best)


def test_of_equal_scores_the_first_go_and_the_part_is_exact():
    mask = staying(Amount(Pattern.WEIGHTS, 0.5), np.ones((2, 6)), by_row=True)
    np.testing.assert_array_equal(mask, [[False] * 3 + [True] * 3] * 2)


def test_every_format_with_a_zero_keeps_zeros_and_the_others_are_known():
    kept = {form.name: keeps_zeros(form) for form in formats()}
    assert {name for name, keeps in kept.items() if not keeps} == WITHOUT_ZERO
    assert all(keeps_zeros(format_named(f"int{bits}", symmetric=False)) for bits in (2, 3, 4, 5, 6, 8))


@pytest.mark.parametrize("solver", sorted(registry()))
@pytest.mark.parametrize("name", ["int4", "q4_0", "nf4"])
def test_solvers_keep_zeros_and_lose_little_by_it(solver, name):
    form = format_named(name, **({"block_size": 32, "symmetric": False} if name == "int4" else {}))
    instance = replace(registry()[solver], keeps_zeros=True)
    weight = weight_of(16, 64)
    weight[np.random.default_rng(3).random(weight.shape) < 0.5] = 0
    x = np.random.default_rng(4).standard_normal((256, 64)) @ np.random.default_rng(5).standard_normal((64, 64))
    inputs = Inputs((x.T @ x)[None], len(x))
    if reason := instance.refusal(form):
        pytest.skip(reason)
    decoded = form.decode(instance.solve(form, weight, inputs))
    assert not decoded[weight == 0].any()
    nearest = form.decode(form.encode(weight))
    loss, other = (np.square(x @ (d - weight).T).sum() for d in (decoded, nearest))
    assert loss <= other or not instance.needs_inputs
