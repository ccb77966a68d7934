"""The verdict on a report, the same in every form of it: the result in figures, and in one sentence what to do next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

from onnxquant.calibration.feeds import Assumption
from onnxquant.numerics.align import BY_BOXES
from onnxquant.numerics.score import GOOD_DB, GOOD_TENTH_DB, LOW_DB, PartQuality
from onnxquant.recipe.values import Goal
from onnxquant.report import advice
from onnxquant.report.data import ReportData, Verdict
from onnxquant.report.state import State
from onnxquant.validation.latency import QUANTIZED, Latency
from onnxquant.validation.proof import ProblemKind, Proof

# A bound of the user's may be lower than these. An output that keeps less than this is lost whatever the bound says.
_LEAST_DB = 3.0
# Parts of the answers that are the same: a good one, and one that is lost where there are many answers.
_GOOD_SHARE, _LOST_SHARE, _MANY_ANSWERS = 0.9, 0.5, 10
# Speeds that differ by less are the same.
_SAME_SPEED = 0.03
# A file that is not smaller by this factor is hardly smaller.
NEGLIGIBLE_GAIN = 1.05
_GIVE_SAMPLES = (
    "Give samples that the model will see with --data: made-up ones find defects, but they do not judge accuracy."
)


class Quality(Enum):
    """Levels of the outputs' quality."""

    GOOD = auto()
    DOUBTFUL = auto()
    LOST = auto()


@dataclass(frozen=True)
class _Gains:
    """Gains of a file over the original.

    Attributes:
        smaller: whether it takes less space.
        faster: whether it certainly takes less time.
        slower: whether it certainly takes more time; no less suffices of integer activations and in a search for speed.
        quality: level of its outputs.
    """

    smaller: bool
    faster: bool
    slower: bool
    quality: Quality


def verdict_of(report: ReportData) -> Verdict:
    """The verdict on a report, as it was saved with it or as it follows from its fields."""
    if report.judgement is not None:
        return report.judgement.verdict
    proof, after = report.proof, report.final_bytes
    ratios = ratios_of_outputs(proof) if proof else {}
    name = min(ratios, key=lambda n: ratios[n], default=None)
    encoded = len(report.encoded) or (len(proof.weights) if proof else 0)
    state, step = _result(report)
    answers = _fewest_answers(proof)
    assumption = proof.feeds.assumption if proof and proof.feeds else None
    tenths = {part.output: part.worst_tenth_db for part in (proof.quality if proof else None) or []}
    return Verdict(
        state=state,
        smaller=report.original_bytes / after if after else None,
        faster=proof.latency.ratio[QUANTIZED] if proof and proof.latency else None,
        faster_interval=proof.latency.certain(QUANTIZED) if proof and proof.latency else None,
        worst_sqnr_db=None if name is None else ratios[name],
        worst_output=name,
        encoded=encoded,
        weights=len(report.sites) or encoded,
        next=_remark_on_choice(report) + _remark_on_samples(assumption) + step,
        worst_tenth_db=None if name is None else tenths.get(name),
        same=answers.same if answers else None,
        answers=answers.answers if answers else None,
        answer=answers.answer if answers else None,
        answers_of=answers.output if answers and proof and len(proof.quality or ()) > 1 else None,
        unseen=proof.unseen if proof else None,
        assumption=assumption,
    )


def _remark_on_choice(report: ReportData) -> str:
    """A remark where the search for the best file was interrupted."""
    if report.choice is None or not report.choice.interrupted:
        return ""
    count = sum(attempt.nbytes is not None for attempt in report.choice.attempts)
    return f"The search was interrupted: this is the best of the {count} files that it had made. "


def _remark_on_samples(assumption: Assumption | None) -> str:
    """A remark where samples were prepared as nothing tells for certain: every figure of quality rests on it."""
    if assumption is None:
        return ""
    source = "guessed" if assumption.is_guess else "ASSUMED"
    return f"Confirm first that the model takes {assumption.what}, which was {source}: {assumption.option} says so. "


def _fewest_answers(proof: Proof | None) -> PartQuality | None:
    """The part of the outputs of which the fewest answers are the same."""
    parts = [part for part in (proof.quality if proof else None) or [] if part.answers]
    return min(parts, key=lambda part: (not part.judges, _share(part)), default=None)


def _share(part: PartQuality) -> float:
    """The part of the answers that are the same."""
    return (part.same or 0) / (part.answers or 1)


def _result(report: ReportData) -> tuple[State, str]:
    """The state, and the next step."""
    proof = report.proof
    if proof is None and report.planned:
        return State.PLANNED, "Run it without --dry-run to write and prove the file."
    is_smaller = report.final_bytes is not None and report.final_bytes * NEGLIGIBLE_GAIN < report.original_bytes
    if (
        report.sites and not report.encoded and not is_smaller and report.pruning is None and not report.kept_codes
    ):  # smaller: codes that the graph computed itself are stored
        return (
            State.NOTHING_QUANTIZED,
            "Do not use it: every weight stays in float. The reasons stand beside the weights.",
        )
    if proof is None:
        return State.WRITTEN, "Prove it with onnxquant validate before you use it."
    if proof.problems:
        return (State.NOT_JUDGED if _is_not_judged(report, proof) else State.FAILED), advice.repair(report, proof)
    gains = _gains(report, proof)
    state = _state(gains)
    if state is State.PASSED and _is_at_chance(proof):
        state = State.CAUTION
    return state, _step(report, proof, state, gains)


def _is_not_judged(report: ReportData, proof: Proof) -> bool:
    """Whether made-up samples are all that is wrong: no bound needs them, and their lengths are not the user's."""
    options = report.request.options if report.request else {}
    return {p.kind for p in proof.problems} == {ProblemKind.NOT_COMPARED} and not any(
        options.get(name) for name in ("min_sqnr", "max_mse", "dim")
    )


def _gains(report: ReportData, proof: Proof) -> _Gains:
    faster, slower = _speed(proof.latency)
    is_for_speed = report.activations is not None or (report.choice is not None and report.choice.goal == Goal.FAST)
    slower |= is_for_speed and proof.latency is not None and not faster
    is_smaller = report.original_bytes > (report.final_bytes or 0) or _is_smaller_compressed(report)
    is_smaller |= report.kept_codes is not None  # it takes no codes anew, and need not be smaller
    return _Gains(is_smaller, faster, slower, _quality(report, proof))


def _is_smaller_compressed(report: ReportData) -> bool:
    """Whether a pruned file takes less space when it is compressed."""
    sizes = report.pruning.compressed if report.pruning else None
    return sizes is not None and sizes.output < sizes.original


def _speed(latency: Latency | None) -> tuple[bool, bool]:
    """Whether the file is certainly faster, and whether it is certainly slower; an interval that holds 1 says neither."""
    if latency is None:
        return False, False
    ratio, interval = latency.ratio[QUANTIZED], latency.certain(QUANTIZED)
    return interval.low > 1 and ratio >= 1 + _SAME_SPEED, interval.high < 1 and ratio <= 1 - _SAME_SPEED


def _quality(report: ReportData, proof: Proof) -> Quality:
    """The level of the worst output; an output within the user's own bound is good."""
    answers = max((_quality_of_answers(part) for part in proof.quality or []), key=_order, default=Quality.GOOD)
    return max(answers, _quality_of_ratios(report, proof), key=_order)


def _order(quality: Quality) -> int:
    return list(Quality).index(quality)


def ratios_of_outputs(proof: Proof) -> dict[str, float]:
    """Signal to noise ratio of each part of the outputs that users get; of old reports, of each output."""
    if proof.quality is None:
        return {n: e.sqnr_db for n, e in proof.deployed.items()}
    return {part.output: part.sqnr_db for part in proof.quality if part.sqnr_db is not None}


def counts_answers(proof: Proof) -> bool:
    """Whether there are answers that judge a file."""
    return any(part.judges for part in proof.quality or ())


def has_poor_tenth(proof: Proof) -> bool:
    """Whether the worst samples lose too much, where no answers say that they are as good as the others."""
    tenths = [p.worst_tenth_db for p in proof.quality or () if p.worst_tenth_db is not None and not p.shape]
    return not counts_answers(proof) and min(tenths, default=math.inf) < GOOD_TENTH_DB


def _quality_of_answers(part: PartQuality) -> Quality:
    """The level of a part by the number of answers that are the same."""
    if not part.judges or not part.answers or part.same is None:
        return Quality.GOOD
    share = _share(part)
    if part.answers < _MANY_ANSWERS:
        return Quality.GOOD if share >= _LOST_SHARE else Quality.DOUBTFUL
    return Quality.GOOD if share >= _GOOD_SHARE else Quality.DOUBTFUL if share >= _LOST_SHARE else Quality.LOST


def _quality_of_ratios(report: ReportData, proof: Proof) -> Quality:
    """The level of the worst part by its ratio of signal and noise."""
    ratios = ratios_of_outputs(proof)
    worst = min(ratios.values(), default=math.inf)
    cut = {part.output for part in proof.quality or [] if part.shape and part.shape != BY_BOXES}
    bound = report.request.options.get("min_sqnr") if report.request else None
    good = bound if isinstance(bound, (int, float)) else _LEAST_DB if proof.metric else GOOD_DB
    if worst >= max(good, _LEAST_DB):
        if not isinstance(bound, (int, float)) and not proof.metric and has_poor_tenth(proof):
            return Quality.DOUBTFUL
        return Quality.DOUBTFUL if proof.unseen and proof.unseen.low_db < good else Quality.GOOD
    # What lies behind the place where two outputs of other lengths part says nothing about either.
    worst = min((ratio for name, ratio in ratios.items() if name not in cut), default=LOW_DB)
    if proof.unseen:
        worst = max(worst, proof.unseen.sqnr_db)
    return Quality.DOUBTFUL if worst >= LOW_DB else Quality.LOST


def _state(gains: _Gains) -> State:
    """The state of a file that the proof has nothing against."""
    if not gains.smaller and not gains.faster:
        return State.WORSE
    if gains.quality is Quality.LOST:
        return State.FASTER_INACCURATE if gains.faster else State.SMALLER_INACCURATE
    if not gains.smaller:
        return State.NOT_SMALLER
    if gains.slower:
        return State.NOT_FASTER
    return State.PASSED if gains.quality is Quality.GOOD else State.CAUTION


def _step(report: ReportData, proof: Proof, state: State, gains: _Gains) -> str:
    """The next step with a file that the proof has nothing against."""
    if state is State.WORSE:
        return f"Do not use it: it is not smaller, and not faster. {advice.smaller(report)}"
    if proof.feeds and proof.feeds.is_synthetic:
        trade = {
            State.NOT_FASTER: f"It is not faster. {advice.faster(report, proof)} ",
            State.NOT_SMALLER: "It saves no space. ",
        }
        return f"{trade.get(state, '')}{_GIVE_SAMPLES}"
    if gains.quality is Quality.LOST:
        return f"Do not use it yet: {advice.more_accurate(report, proof)}."
    if _is_at_chance(proof):
        return advice.other_samples(proof)
    check = "Measure it on the task it is for before you use it"
    if gains.quality is Quality.DOUBTFUL:
        return f"{check}: {_doubt(proof)}. If they are: {advice.more_accurate(report, proof)}."
    if report.kept_codes is not None and state is State.PASSED:
        return "Its codes and scales are those of the original: use it in the place of that."
    if state is State.NOT_SMALLER:
        return "Use it where speed matters; it saves no space."
    if state is State.NOT_FASTER:
        return f"Use it where size matters. {advice.faster(report, proof)}"
    if _is_hardly_smaller(report):
        return f"It is hardly smaller. {advice.smaller(report)}"
    return "Use it, and measure it on the task it is for."


def _is_at_chance(proof: Proof) -> bool:
    """Whether the original itself fails on the samples, so that they say nothing about the file."""
    return proof.accuracy is not None and proof.accuracy.is_at_chance


def _doubt(proof: Proof) -> str:
    """The reason why a file may not be good enough."""
    parts = [p for p in proof.quality or [] if _quality_of_answers(p) is not Quality.GOOD]
    if parts:
        worst = min(parts, key=_share)
        output = f" of {worst.output}" if len(proof.quality or ()) > 1 else ""
        return f"{worst.same} of {worst.answers} {worst.answer}{output} are the same, others may be wrong"
    ratio = min(ratios_of_outputs(proof).values(), default=0.0)
    if ratio >= GOOD_DB and has_poor_tenth(proof):
        tenth = min(p.worst_tenth_db for p in proof.quality or () if p.worst_tenth_db is not None)
        return f"outputs of the worst tenth of samples keep {tenth:.0f} dB, and no answers say whether that is enough"
    if proof.unseen and ratio >= GOOD_DB:
        return f"on samples of other sources outputs may keep no more than {proof.unseen.low_db:.0f} dB"
    return f"answers of outputs that keep less than {GOOD_DB:.0f} dB may be wrong"


def _is_hardly_smaller(report: ReportData) -> bool:
    return bool(report.output_bytes) and report.original_bytes < NEGLIGIBLE_GAIN * (report.output_bytes or 0)
