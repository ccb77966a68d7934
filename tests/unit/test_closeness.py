"""The score that candidates are chosen by, against float64 by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from onnxquant.errors import RecipeError
from onnxquant.numerics.classes import Heads
from onnxquant.numerics.difference import Difference
from onnxquant.numerics.score import Judge, Score

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(0, 3, (6, 1, 10))
OWN = np.random.default_rng(4)
NOISE = RNG.normal(0, 0.1, LOGITS.shape)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    return float(10 * np.log10((signal**2).sum() / (noise**2).sum()))


def samples(values: np.ndarray, name: str = "y") -> list[dict[str, np.ndarray]]:
    return [{name: v.astype(np.float32)} for v in values]


def closeness(reference: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> Score:
    """The score of some samples' outputs, where all of them matter; without the ratios of single samples."""
    return Judge(reference).score(outputs)._replace(samples=())


def test_plain_outputs() -> None:
    expected = decibels(LOGITS, NOISE)
    assert closeness(samples(LOGITS), samples(LOGITS + NOISE))[:2] == pytest.approx((expected, expected), abs=1e-3)


def test_probabilities_are_judged_as_logits() -> None:
    a, b = softmax(LOGITS), softmax(LOGITS + NOISE)
    score = closeness(samples(a), samples(b))
    centred, noise = (v - v.mean(-1, keepdims=True) for v in (LOGITS, NOISE))
    assert score.criterion == pytest.approx(decibels(centred, noise), abs=1e-2)
    assert score.total == pytest.approx(decibels(a, b - a), abs=1e-3)


def test_one_uncertain_sample_does_not_decide() -> None:
    """Sixty-three sure samples say which candidate is better; the total says what the unsure one happens to like."""
    logits = np.zeros((64, 1, 2))
    logits[:, 0, 0] = 12
    logits[0] = 0
    noise = np.zeros_like(logits)
    noise[:, 0, 0] = 0.01
    good, bad = noise.copy(), 20 * noise
    good[0, 0, 0], bad[0, 0, 0] = 0.02, 0.01
    scores = [closeness(samples(softmax(logits)), samples(softmax(logits + n))) for n in (good, bad)]
    assert scores[0].total < scores[1].total
    assert scores[0].criterion > scores[1].criterion + 20


def test_ratios_of_samples_are_those_of_their_worst_outputs() -> None:
    two = [{"a": np.float32([[3.0, 4.0]]), "b": np.float32([[1.0, -1.0]])}] * 2
    got = [{"a": np.float32([[3.0, 4.5]]), "b": two[0]["b"]}, {"a": two[0]["a"], "b": np.float32([[1.0, -1.5]])}]
    assert Judge(two).score(got).samples == pytest.approx((20.0, 10 * math.log10(2 / 0.25)), abs=1e-6)


@pytest.mark.parametrize(
    ("ratios", "wins"),
    [
        ((21, 21, 9, 9, 11, 11), True),  # better on two sources of three
        ((30, 30, 9, 9, 9, 9), False),  # one source alone makes the mean
        ((19, 23, 9, 9, 11, 11), True),  # crops of one source have one voice
        ((20, 20, 10, 10, 10, 10), False),
    ],
)
def test_most_sources_have_to_agree(ratios: tuple[float, ...], wins: bool) -> None:
    other = Score(10.0, 10.0, (20.0, 20.0, 10.0, 10.0, 10.0, 10.0))
    assert Score(11.0, 11.0, ratios).wins_on_most(other, ["a", "a", "b", "b", "c", "c"]) is wins


def test_the_worst_output_counts() -> None:
    two = [{"a": np.float32([[3.0, 4.0]]), "b": np.float32([[1.0, -1.0]]), "n": np.int64([1])}]
    got = [{"a": np.float32([[3.0, 4.1]]), "b": np.float32([[1.0, -1.5]]), "n": np.int64([2])}]
    assert closeness(two, got).total == pytest.approx(10 * math.log10(2 / 0.25))


def test_what_cannot_be_compared() -> None:
    best = Score(math.inf, math.inf)
    same = samples(LOGITS)
    assert closeness(same, same) == best
    assert closeness(samples(0 * LOGITS), samples(NOISE)) == best
    assert closeness([{"n": np.int64([1])}], [{"n": np.int64([2])}]) == best
    assert closeness(same, samples(LOGITS + np.inf)) == Score(-math.inf, -math.inf)
    assert closeness(same, samples(LOGITS * np.nan)) == Score(-math.inf, -math.inf)


def test_overflow_beside_that_of_the_original_is_left_out() -> None:
    a, b = LOGITS.copy(), LOGITS + NOISE
    a[0, 0, 0], b[0, 0, 1] = np.nan, np.inf
    expected = decibels(LOGITS.reshape(-1)[2:], NOISE.reshape(-1)[2:])
    assert closeness(samples(a), samples(b)).total == pytest.approx(expected, abs=1e-3)
    difference = Difference()
    difference.add(a, b)
    assert difference.figures().not_finite is None and difference.sqnr_db == pytest.approx(expected, abs=1e-3)
    clean = Difference()
    clean.add(LOGITS, b)
    assert clean.figures().not_finite == 1 and clean.sqnr_db == -math.inf


def test_infinite_values_of_the_original_are_left_out() -> None:
    a, b = LOGITS.copy(), LOGITS + NOISE
    a[0, 0, 0] = -np.inf
    expected = decibels(np.delete(LOGITS.reshape(-1), 0), np.delete(NOISE.reshape(-1), 0))
    assert closeness(samples(a), samples(b)).total == pytest.approx(expected, abs=1e-3)


def test_scores_beside_boxes_are_judged_by_themselves() -> None:
    boxes, scores = RNG.uniform(50, 600, (3, 1, 4, 60)), RNG.uniform(0, 1, (3, 1, 6, 60)) ** 20
    scores[:, :, 5] *= 1e-4  # a class that no sample shows is no kind of its own
    reference = samples(np.concatenate([boxes, scores], 2))
    noise = RNG.normal(0, 0.05, scores.shape)
    got = samples(np.concatenate([boxes, scores + noise], 2))
    worst, best = Judge(reference).quality(got)
    assert (worst.output, best.output) == ("y[:, 4:10]", "y[:, 0:4]")
    assert worst.sqnr_db == pytest.approx(decibels(scores, noise), abs=0.1)
    assert best.sqnr_db == math.inf
    assert closeness(reference, got).total == pytest.approx(worst.sqnr_db)


@pytest.mark.parametrize(
    "values",
    [
        RNG.normal(0, 1, (2, 1, 16, 30)) * np.exp(RNG.normal(0, 0.7, 16))[:, None],  # features
        np.concatenate([RNG.normal(0, 1, (2, 1, 499, 8)), RNG.normal(0, 90, (2, 1, 1, 8))], 2),  # one outlier channel
        RNG.normal(0, 1, (2, 1, 3, 20, 20))
        * np.where(np.arange(20) < 10, 1, 1e-3)[:, None],  # a picture with a dark part
        RNG.uniform(0, 1, (2, 1, 80, 40)) ** 30,  # scores alone
        LOGITS,
    ],
    ids=["features", "outlier", "picture", "scores", "logits"],
)
def test_outputs_of_one_kind_are_judged_whole(values: np.ndarray) -> None:
    assert [p.output for p in Judge(samples(values)).quality(samples(values))] == ["y"]


def test_only_the_named_parts_count() -> None:
    reference = [{"a": np.ones((1, 4), np.float32), "b:0": np.ones((1, 6), np.float32)}]
    got = [{"a": np.zeros((1, 4), np.float32), "b:0": np.float32([[1, 1, 1.1, 1, 1, 1]])}]
    assert Judge(reference, ["b:0"]).score(got).total == pytest.approx(10 * math.log10(6 / 0.01), abs=1e-3)
    assert Judge(reference, ["b:0:[:, 2]"]).score(got).total == pytest.approx(20, abs=1e-3)
    assert Judge(reference, ["b:0:[:, 3:]"]).score(got).total == math.inf
    assert Judge(reference, ["a:0:1"]).score(got).total == pytest.approx(0)
    with pytest.raises(RecipeError, match="judge 'bb': no output of that name; known: a, b:0"):
        Judge(reference, ["bb"])
    with pytest.raises(RecipeError, match="'x' is no slice"):
        Judge(reference, ["a:[x]"])


def boxes(count: int, seed: int = 5) -> np.ndarray:
    corner = np.random.default_rng(seed).permutation(400)[:count, None] * 10
    return np.concatenate([corner, corner, corner + 8, corner + 8], 1).astype(np.float32)


def test_boxes_are_matched_by_overlap() -> None:
    reference = boxes(9)
    scores, labels = np.linspace(0.9, 0.5, 9, dtype=np.float32), np.arange(9)
    order = np.array([3, 0, 1, 2, 4, 5, 6, 8])  # one is lost, others change places
    got = {"boxes": reference[order] + 0.1, "scores": scores[order], "labels": labels[order].copy()}
    got["labels"][0] = 7  # and one has another label
    quality = {p.output: p for p in Judge([{"boxes": reference, "scores": scores, "labels": labels}]).quality([got])}
    assert (quality["boxes"].same, quality["boxes"].answers, quality["boxes"].answer) == (7, 9, "boxes")
    assert quality["boxes"].sqnr_db == pytest.approx(decibels(reference[order], np.full((8, 4), 0.1)), abs=0.1)
    assert quality["scores"].sqnr_db == math.inf and quality["boxes"].shape == "matched by boxes"


@pytest.mark.parametrize(
    "form",
    [
        lambda corners: corners,
        lambda corners: np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1),
        lambda corners: np.concatenate([0 * corners[:, :1], corners, 0 * corners[:, :2] + 0.9], 1),
        lambda corners: corners[None],
        lambda corners: corners / 4096,
    ],
    ids=["corners", "center", "sample first", "axis of samples", "relative"],
)
def test_boxes_of_every_form_are_matched(form: Callable[[np.ndarray], np.ndarray]) -> None:
    reference = boxes(6)
    parts = Judge([{"boxes": form(reference)}]).quality([{"boxes": form(reference[[5, 4, 2, 1, 0]])}])
    assert {(p.same, p.answers, p.sqnr_db) for p in parts} == {(5, 6, math.inf)}


def test_boxes_in_a_fixed_number_of_rows_may_change_places() -> None:
    table = np.zeros((1, 20, 6), np.float32)
    table[0, :9, :4], table[0, :9, 4] = boxes(9), np.linspace(0.9, 0.5, 9)
    moved = table.copy()
    moved[0, :9] = table[0, [1, 0, *range(2, 9)]]
    parts = Judge([{"y": table}]).quality([{"y": moved}])
    assert all((p.same, p.answers) == (9, 9) and p.sqnr_db == math.inf for p in parts)


def test_no_boxes_on_one_side() -> None:
    some, none = {"y": boxes(3)}, {"y": np.zeros((0, 4), np.float32)}
    for a, b in ((some, none), (none, some), (none, none)):
        score = Judge([a]).score([b])
        assert not math.isnan(score.total) and Judge([a]).quality([b])


def test_other_lengths_are_compared_where_both_have_values() -> None:
    wave = RNG.normal(0, 1, (1, 1, 100)).astype(np.float32)
    (part,) = Judge([{"y": wave}]).quality([{"y": wave[..., :90] + np.float32(0.01)}])
    assert part.sqnr_db == pytest.approx(decibels(wave[..., :90], np.full(90, 0.01)), abs=0.05)
    assert part.shape and "common beginnings" in part.shape
    (part,) = Judge([{"y": wave}]).quality([{"y": wave[0]}])
    assert part.shape == "not compared: [1, 100] instead of [1, 1, 100]"


def test_parts_of_a_shorter_output_are_those_that_it_has() -> None:
    wave = np.ones((1, 1, 100), np.float32)
    wave[..., 25] = 1e-3
    parts = Judge([{"y": wave}]).quality([{"y": wave[..., :20]}])
    assert len(parts) == 2 and {part.sqnr_db for part in parts} == {math.inf}


def test_indices_of_boxes_are_compared_as_a_set() -> None:
    rows = np.int64([[0, 0, 5], [0, 1, 9], [0, 1, 3]])
    (part,) = Judge([{"y": rows}]).quality([{"y": rows[[2, 0]]}])
    assert (part.same, part.answers, part.sqnr_db) == (2, 3, None)


def test_the_worst_tenth_counts() -> None:
    values = RNG.normal(0, 1, (20, 1, 50))
    even, uneven = np.full(values.shape, 0.1), np.full(values.shape, 0.08)
    uneven[[3, 12]] = 0.22
    reference = samples(values, "embedding")
    scores = [closeness(reference, samples(values + noise, "embedding")) for noise in (even, uneven)]
    assert abs(scores[0].total - scores[1].total) < 0.6 and scores[0].criterion > scores[1].criterion + 2
    (part,) = Judge(reference).quality(samples(values + uneven, "embedding"))
    ratios = [decibels(v, n) for v, n in zip(values, uneven, strict=True)]
    assert part.worst_tenth_db == pytest.approx(sum(sorted(ratios)[:2]) / 2, abs=0.01)
    assert (part.worst_sample, part.worst_sample_db) == (np.argmin(ratios), pytest.approx(min(ratios), abs=0.01))


def test_silence_is_not_the_worst_sample() -> None:
    values = RNG.normal(0, 1, (12, 1, 50))
    values[4] = 0
    noise = np.full(values.shape, 0.1)
    noise[4] = 1e-3
    (part,) = Judge(samples(values, "wave")).quality(samples(values + noise, "wave"))
    assert part.worst_sample != 4 and part.worst_tenth_db and part.worst_tenth_db > 15


@pytest.mark.parametrize(
    ("name", "values", "counted"),
    [
        ("y", LOGITS, "largest values"),
        ("y", softmax(LOGITS), True),
        ("logits", RNG.normal(0, 1, (6, 1, 4, 10)), True),
        ("y", OWN.normal(0, 1, (6, 1, 1000)), True),
        ("forecast", LOGITS, False),
        ("predictions", LOGITS, "largest values"),
        ("y", RNG.normal(0, 1, (6, 1, 4, 10)), False),
        ("embedding", LOGITS, False),
        ("y", LOGITS / np.linalg.norm(LOGITS, axis=-1, keepdims=True), False),
        ("y", RNG.normal(0, 1, (6, 1, 3, 8, 8)), False),
        ("y", OWN.normal(0, 1, (6, 1, 40, 59)), "largest values"),
        ("y", OWN.normal(0, 1, (6, 1, 4, 1003)), True),
        ("y", np.log(softmax(OWN.normal(0, 1, (6, 1, 4, 10)))), True),
        ("y", OWN.normal(0, 1, (6, 1, 40, 64)), False),
        ("y", OWN.random((6, 1, 40, 59)), False),
        ("y", OWN.normal(0, 1, (6, 1, 384)), False),
        ("logits", OWN.normal(0, 1, (6, 1, 384)), True),
        ("y", OWN.normal(0, 1, (6, 3, 4)).cumsum(-1) ** 2, "largest values"),
        ("y", np.sort(OWN.random((6, 3, 4))), False),
        ("masked_lm_logits", OWN.normal(0, 1, (6, 1, 384)), True),
        ("pred_boxes", OWN.normal(0, 1, (6, 3, 4)), False),
        ("hn", OWN.normal(0, 1, (6, 1, 40, 59)), False),
        ("y", OWN.normal(0, 3, (12, 1, 10)) + 16 * np.eye(10)[3], False),
        ("logits", OWN.normal(0, 3, (12, 1, 10)) + 16 * np.eye(10)[3], True),
        ("y", RNG.normal(0, 1, (6, 1, 1)), False),
    ],
)
def test_top_classes_are_counted_where_there_are_classes(name: str, values: np.ndarray, counted: str | bool) -> None:
    """Where nothing says that columns are classes, the places of the largest values are counted, which judge nothing."""
    moved = values.copy()
    moved[0] = -values[0]
    (part,) = Judge(samples(values, name)).quality(samples(moved, name))
    rows = values[..., 0].size
    assert part.answers == (rows if counted else None)
    assert not counted or part.same == rows - values[0, ..., 0].size
    assert part.judges is (counted is True) and part.answer == (
        counted if isinstance(counted, str) else "top classes" if counted else None
    )


def test_facts_of_the_graph_make_classes_of_columns() -> None:
    """An ArgMax behind an output, labels beside the samples, or the user say that columns are classes."""
    reference = samples(LOGITS)
    kinds = [
        Judge(reference, names, heads).quality(reference)[0].answer
        for names, heads in (((), Heads(classes=frozenset({"y"}))), ((), Heads(has_labels=True)), (("y",), Heads()))
    ]
    assert kinds == ["top classes"] * 3


@pytest.mark.parametrize(
    ("name", "heads", "low", "high"),
    [
        ("p", Heads(), 0.0, 1.0),
        ("logits", Heads(sigmoids=frozenset({"logits"})), 0.0, 1.0),
        ("logit", Heads(), -1.0, 1.0),
        ("y", Heads(logits=frozenset({"y"})), -1.0, 1.0),
    ],
)
def test_one_number_for_each_row_is_a_yes_or_no(name: str, heads: Heads, low: float, high: float) -> None:
    """Two of twenty rows cross the middle."""
    values = np.linspace(low, high, 20).reshape(20, 1, 1)
    moved = values.copy()
    moved[[9, 10]] = moved[[10, 9]]
    (part,) = Judge(samples(values, name), (), heads).quality(samples(moved, name))
    assert (part.answer, part.same, part.answers, part.judges) == ("yes/no answers", 18, 20, True)
    assert part.worst_tenth_db is None  # the ratio of a small number says that it is small
    changed = [q for q in Judge(samples(values, name), (), heads).samples(samples(moved, name)) if q.changed]
    assert [q.sample for q in changed] == [9, 10] and changed[0].expected == f"{values[9, 0, 0]:.3g}"


@pytest.mark.parametrize(("name", "factor"), [("y", 3.0), ("depth", 1.0)])
def test_other_numbers_are_no_yes_or_no(name: str, factor: float) -> None:
    values = factor * np.linspace(0, 1, 20).reshape(20, 1, 1)
    (part,) = Judge(samples(values, name)).quality(samples(values, name))
    assert part.answers is None and not part.judges


def test_labels_are_counted_where_either_side_gives_them() -> None:
    """Of four labels the first sample has two, the second one; the file takes one away and gives another."""
    reference = np.float32([[[0.9, 0.8, 0.1, 0.2]], [[0.1, 0.2, 0.3, 0.7]], [[0.1, 0.1, 0.1, 0.1]]])
    moved = np.float32([[[0.9, 0.4, 0.1, 0.2]], [[0.1, 0.2, 0.6, 0.7]], [[0.2, 0.1, 0.1, 0.1]]])
    (part,) = Judge(samples(reference), (), Heads(sigmoids=frozenset({"y"}))).quality(samples(moved))
    assert (part.answer, part.same, part.answers) == ("labels", 2, 4)


def test_a_row_without_answers_beside_answers_does_not_hide_them() -> None:
    reference = [{"pose": row, "scores": row} for row in LOGITS]
    parts = {part.output: part.judges for part in Judge(reference).quality(reference)}
    assert parts == {"pose": False, "scores": True}


def test_beside_probabilities_other_outputs_hold_no_classes() -> None:
    """The boxes and landmarks of a detector are no logits; named by the user, they may be."""
    reference = [{"scores": row, "points": RNG.normal(0, 1, (1, 4))} for row in softmax(LOGITS)]
    answers = {part.output: part.answers for part in Judge(reference).quality(reference)}
    assert answers == {"scores": LOGITS[..., 0].size, "points": None}
    (part,) = Judge(reference, ["points"]).quality(reference)
    assert part.answers == len(LOGITS)


def test_positions_of_other_numbers_have_top_classes_and_widths_that_vary_have_none() -> None:
    """A tagger's output has a row for each word; scores of words are no classes, unless called so."""
    tags = [{"y": OWN.normal(0, 1, (1, n, 5))} for n in (3, 7, 4)]
    assert [part.answers for part in Judge(tags).quality(tags)] == [14]
    starts = [{"y": OWN.normal(0, 1, (1, n))} for n in (3, 7, 4)]
    assert [part.answers for part in Judge(starts).quality(starts)] == [None]
    logits = [{"start_logits": row["y"]} for row in starts]
    assert [part.answers for part in Judge(logits).quality(logits)] == [3]


def test_rows_of_one_number_have_no_top_class() -> None:
    """An output that is always zero says nothing, whatever becomes of the model."""
    (part,) = Judge(samples(np.zeros((6, 1, 10)), "logits")).quality(samples(np.zeros((6, 1, 10)), "logits"))
    assert part.answers is None
    values = LOGITS.copy()
    values[2] = 7
    (part,) = Judge(samples(values, "logits")).quality(samples(values, "logits"))
    assert part.answers == part.same == values[..., 0].size - values[2, ..., 0].size


def test_whole_numbers_are_counted() -> None:
    (part,) = Judge([{"y": np.int64([[1, 2, 3, 4]])}]).quality([{"y": np.int64([[1, 2, 3, 5]])}])
    assert (part.same, part.answers, part.answer, part.sqnr_db) == (3, 4, "values", None)


def test_entries_of_sequences_are_outputs() -> None:
    (part,) = Judge([{"y": [{0: 0.5, 1: 0.25}]}]).quality([{"y": [{0: 0.5, 1: 0.3}]}])
    assert part.output == "y[0]" and part.sqnr_db == pytest.approx(10 * math.log10(0.3125 / 0.0025))
