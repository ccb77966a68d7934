"""Verdicts on reports of made-up figures: what each combination of size, speed and quality is called, and what follows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from onnxquant import Report
from onnxquant.calibration.feeds import SampleOrigin
from onnxquant.formats import format_named
from onnxquant.numerics.difference import ErrorFigures
from onnxquant.numerics.score import PartQuality
from onnxquant.plan.activations import DynamicRecord, SampleUse, StaticRecord
from onnxquant.plan.decision import EncodeDecision
from onnxquant.report import words
from onnxquant.report.data import Attempt, Choice, Request, SiteResult
from onnxquant.report.state import State
from onnxquant.report.summary import summary
from onnxquant.validation.accuracy import Accuracy
from onnxquant.validation.contributions import SiteContribution
from onnxquant.validation.latency import QUANTIZED, Interval, Latency
from onnxquant.validation.metric import MetricResult
from onnxquant.validation.outputs import Run, pair_name
from onnxquant.validation.proof import Problem, ProblemKind, Proof

SLOW, EQUAL, FAST, UNCERTAIN = Interval(0.4, 0.5), Interval(0.98, 1.01), Interval(1.94, 1.96), Interval(0.6, 1.4)


def site(form: str = "int4", *, encoded: bool = True) -> SiteResult:
    decision = EncodeDecision(
        name="w", role="matmul", nodes=(), shape=(64, 64), dtype="float32", float_bytes=1 << 14, nbytes=1 << 11,
        reason="", format=format_named(form), target="ort",
    )  # fmt: skip
    return SiteResult(decision if encoded else decision.kept_in_float("too small"))


def errors(sqnr_db: float) -> dict[str, ErrorFigures]:
    return {"y": ErrorFigures(sqnr_db, 0.0, 0.0, 0.0, 0.0, 1.0, 1, 1)}


def report(
    size: int = 25,
    interval: Interval | None = EQUAL,
    sqnr_db: float = 40.0,
    *,
    sites: list[SiteResult] | None = None,
    **options: object,
) -> Report:
    """The report of a file of so many bytes; the original has 100."""
    proof = Proof(feeds=SampleOrigin(source="feeds.npz", samples=4))
    proof.outputs = {
        pair_name(Run.FLOAT, Run.TWIN): errors(math.inf if options.get("activations") else sqnr_db),
        pair_name(Run.FLOAT, Run.DEPLOYED): errors(sqnr_db),
    }
    if interval:
        ratio = math.sqrt(interval.low * interval.high)
        proof.latency = Latency({QUANTIZED: 1.0}, {QUANTIZED: ratio}, 20, 1, {QUANTIZED: interval})
    return Report(
        "a.onnx", "b.onnx", [site()] if sites is None else sites, original_bytes=100, output_bytes=size, proof=proof,
        request=Request([], dict(options)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "interval", "sqnr_db", "state", "words"),
    [
        (25, EQUAL, 40, State.PASSED, "Use it"),
        (25, FAST, 20, State.PASSED, "Use it"),
        (25, UNCERTAIN, 40, State.PASSED, "Use it"),
        (25, None, math.inf, State.PASSED, "Use it"),
        (25, FAST, 15, State.CAUTION, "Measure it"),
        (25, SLOW, 40, State.NOT_FASTER, "where size matters"),
        (25, SLOW, 15, State.NOT_FASTER, "Measure it"),
        (120, FAST, 40, State.NOT_SMALLER, "where speed matters"),
        (100, FAST, 40, State.NOT_SMALLER, "where speed matters"),
        (25, FAST, 0.0, State.FASTER_INACCURATE, "Do not use it"),
        (25, FAST, -math.inf, State.FASTER_INACCURATE, "Do not use it"),
        (25, EQUAL, 9, State.SMALLER_INACCURATE, "Do not use it"),
        (25, SLOW, 0, State.SMALLER_INACCURATE, "Do not use it"),
        (120, SLOW, 40, State.WORSE, "Do not use it"),
        (120, UNCERTAIN, 40, State.WORSE, "Do not use it"),
        (100, None, 0, State.WORSE, "Do not use it"),
    ],
)
def test_size_speed_and_quality_give_the_state(
    size: int, interval: Interval | None, sqnr_db: float, state: State, words: str
) -> None:
    judged = report(size, interval, sqnr_db).verdict
    assert judged.state is state and words in judged.next
    assert ("Use it, and" in judged.next) == (state is State.PASSED)


@pytest.mark.parametrize(
    ("interval", "state"),
    [(EQUAL, State.NOT_FASTER), (UNCERTAIN, State.NOT_FASTER), (FAST, State.PASSED), (None, State.PASSED)],
)
def test_integer_activations_pass_only_where_they_are_faster(interval: Interval | None, state: State) -> None:
    judged = report(25, interval)
    judged.activations = DynamicRecord(integer_kernels=2)
    assert judged.verdict.state is state
    assert ("Use it where size matters" in judged.verdict.next) == (state is State.NOT_FASTER)


@pytest.mark.parametrize(
    ("goal", "interval", "state"),
    [("fast", EQUAL, State.NOT_FASTER), ("fast", FAST, State.PASSED), ("small", EQUAL, State.PASSED)],
)
def test_a_search_for_speed_passes_only_where_it_finds_some(goal: str, interval: Interval, state: State) -> None:
    judged = report(25, interval)
    judged.choice = Choice(goal, "20 dB", True, "int8 weights", (Attempt("int8 weights", {}, 1.0, 25),))
    assert judged.verdict.state is state
    recurrent = replace(judged.sites[0].decision, role="recurrent")
    judged.sites = [SiteResult(recurrent)]
    says = "No other way suits it: recurrent layers other than LSTMs have no operator that computes on integers."
    assert (says in judged.verdict.next) is (state is State.NOT_FASTER)


def test_only_files_of_no_use_fail() -> None:
    failures = {s for s in State if s.is_failure}
    assert failures == {State.WORSE, State.NOTHING_QUANTIZED, State.FAILED, State.ERROR, State.NOT_DONE}
    assert not report(120, SLOW).passed and not report(120, SLOW).to_dict()["passed"]
    assert report(25, SLOW, 0).passed


def test_a_file_without_an_encoded_weight_never_passes() -> None:
    judged = report(99, FAST, math.inf, sites=[site(encoded=False)])
    assert judged.verdict.state is State.NOTHING_QUANTIZED and not judged.passed
    judged.proof = None
    assert judged.verdict.state is State.NOTHING_QUANTIZED


def test_the_users_own_bound_says_what_is_good() -> None:
    assert report(25, EQUAL, 13, min_sqnr=12).verdict.state is State.PASSED
    assert report(25, EQUAL, 0, min_sqnr=-5).verdict.state is State.SMALLER_INACCURATE
    measured = report(25, EQUAL, 8)
    assert measured.proof
    measured.proof.metric = MetricResult("accuracy", 0.9, 0.9, 0.89)
    assert measured.verdict.state is State.PASSED


def test_made_up_samples_do_not_say_that_a_file_is_good() -> None:
    judged = report(25, SLOW)
    assert judged.proof
    judged.proof.feeds = SampleOrigin(source="synthetic", samples=4, seed=0)
    assert "Use it" not in judged.verdict.next and "--data" in judged.verdict.next
    assert "not faster" in judged.verdict.next


def test_every_state_is_one_word_in_the_line_for_scripts() -> None:
    assert summary(report(25, SLOW)).startswith("SLOWER b.onnx 4.00x smaller")
    assert all(s.word.replace(" ", "").isupper() for s in State)
    assert all(" " not in s.word for s in State)


def test_an_uncertain_speed_is_shown_with_its_interval() -> None:
    uncertain, fast = report(25, UNCERTAIN), report(25, FAST)
    assert words.faster(uncertain, uncertain.verdict).startswith(
        "about the same: 0.92x as fast (0.60 to 1.40; rounds differ, the machine is busy)"
    )
    assert words.faster(fast, fast.verdict).startswith("1.95x as fast (")


def static(**fields: object) -> StaticRecord:
    return StaticRecord(code_type="uint8", symmetric=False, method="minmax", integer_kernels=3, **fields)


def test_advice_names_no_option_that_was_taken() -> None:
    judged = report(25, FAST, 15, activations="static", auto_exclude=True)
    judged.activations = static(tried={"minmax": 15.0, "mse": 14.0}, samples=SampleUse(500, 12, apart=True))
    words = judged.verdict.next
    assert not any(w in words for w in ("--auto-exclude", "--calibration-method", "samples", "bits"))
    assert "--exclude" in words and "validate --detailed" in words
    judged = report(25, FAST, 15, activations="static", calibration_method="minmax")
    judged.activations = static(samples=SampleUse(5, 5, apart=False))
    assert "5 were used" in judged.verdict.next and "another --calibration-method than minmax" in judged.verdict.next


def test_advice_after_a_missed_bound_fits_the_file() -> None:
    judged = report(25, FAST, 15, activations="static", auto_exclude=True)
    judged.activations = static(tried={"minmax": 15.0, "mse": 14.0})
    assert judged.proof
    judged.proof.problems = [Problem("output 'y' has 15 dB, the bound is 20", ProblemKind.MISSED_BOUND)]
    judged.proof.contributions = [SiteContribution("w", "weight", 16.0, 1.0, 0.2)]
    words = judged.verdict.next
    assert judged.verdict.state is State.FAILED
    assert "bits" not in words and "--detailed" not in words and "--auto-exclude" not in words


@pytest.mark.parametrize(("form", "more"), [("int4", True), ("int8", False), ("q8_0", False)])
def test_more_bits_are_advised_where_there_are_more(form: str, more: bool) -> None:
    judged = report(25, EQUAL, 15, sites=[site(form)])
    judged.sites = [site(form)]
    object.__setattr__(judged.sites[0].decision, "nbytes", 2048 if form == "int4" else 4224)
    assert ("more bits" in judged.verdict.next) == more


def test_advice_on_speed_fits_the_file() -> None:
    assert "--activations dynamic computes products" in report(25, SLOW).verdict.next
    assert "--compute float" in report(25, SLOW).verdict.next
    folded = report(25, SLOW)
    object.__setattr__(folded.sites[0].decision, "folded", True)
    assert "--compute float" not in folded.verdict.next
    convolutions = report(25, SLOW)
    object.__setattr__(convolutions.sites[0].decision, "role", "conv")
    assert "--activations static, with samples" in convolutions.verdict.next
    assert "--target auto" not in report(25, SLOW).verdict.next
    assert "--target auto" in report(25, SLOW, target="onnx").verdict.next
    integers = report(25, SLOW, activations="static")
    integers.activations = static()
    assert "--activations" not in integers.verdict.next
    assert "--" not in report(25, SLOW, whole_graph=True, format="f16").verdict.next
    assert "leave out --float16" in report(25, SLOW, float16=True).verdict.next


def test_verdict_and_next_step_count_the_answers_of_one_output() -> None:
    """The output with the worst ratio need not be the one with the fewest answers that are the same."""
    judged = report(sqnr_db=15)
    assert judged.proof
    judged.proof.quality = [
        PartQuality("near", sqnr_db=15.0, answer="top classes", same=90, answers=100),
        PartQuality("far", sqnr_db=25.0, answer="top classes", same=80, answers=100),
    ]
    assert (judged.verdict.same, judged.verdict.answers) == (80, 100)
    assert "80 of 100 top classes of far are the same" in judged.verdict.next


def test_without_answers_the_worst_tenth_decides_too() -> None:
    """The places of largest values are no answers: they neither pass a file nor fail it."""
    judged = report()
    assert judged.proof
    unsure = PartQuality("y", 40.0, 14.0, answer="largest values", same=1, answers=100)
    judged.proof.quality = [unsure]
    assert judged.verdict.state is State.CAUTION and "14 dB" in judged.verdict.next
    lines = dict(words.lines(judged, judged.verdict))
    assert "in the same place in 1 of 100 rows" in lines["quality"]
    assert "--judge y" in lines["answers"] and "--metric" in lines["answers"]
    judged.proof.quality = [replace(unsure, worst_tenth_db=18.0)]
    assert judged.verdict.state is State.PASSED
    judged.proof.quality = [unsure, PartQuality("c", 40.0, 14.0, answer="yes/no answers", same=99, answers=100)]
    assert judged.verdict.state is State.PASSED and judged.verdict.same == 99
    assert "answers" not in dict(words.lines(judged, judged.verdict))


def test_uncounted_answers_are_said_beside_samples_of_the_user_alone() -> None:
    judged = report()
    assert judged.proof
    judged.proof.quality = [PartQuality("y", 40.0)]
    assert "--metric" in dict(words.lines(judged, judged.verdict))["answers"]
    judged.proof.metric = MetricResult("f1", 0.9, 0.9, 0.89)
    assert "answers" not in dict(words.lines(judged, judged.verdict))
    judged.proof.metric, judged.proof.feeds = None, SampleOrigin(samples=4, seed=0)
    assert "answers" not in dict(words.lines(judged, judged.verdict))


def test_constants_in_float_are_counted_beside_the_encoded_weights() -> None:
    bias = site(encoded=False)
    judged = report(sites=[site(), bias, bias])
    assert dict(words.lines(judged, judged.verdict))["weights"] == (
        "1 encoded: int4; 2 other constants in float (67% of their bytes): too small"
    )
    assert dict(words.lines(alone := report(sites=[site()]), alone.verdict))["weights"] == "1 encoded: int4"


def test_every_field_of_a_proof_is_in_the_schema(tmp_path: Path) -> None:
    """A saved report is read back, with the accuracy of labelled samples and the work of a decoder's call."""
    judged = report()
    assert judged.proof and judged.proof.latency
    judged.proof.accuracy = Accuracy(9, 8, 10, "logits", "labels.npy", {"cat": 0}, 2)
    judged.proof.no_accuracy = "no output chooses among 3 classes or more"
    judged.proof.latency = replace(judged.proof.latency, call="one token after others")
    judged.save(tmp_path / "r.json")
    proof = Report.load(tmp_path / "r.json").proof
    assert proof and proof.accuracy == judged.proof.accuracy and proof.latency == judged.proof.latency
    assert proof.no_accuracy == judged.proof.no_accuracy
