"""The bound on quality that a chosen file keeps: the user's, or else the usual one."""

from __future__ import annotations

import math

from onnxquant.numerics.score import GOOD_DB, GOOD_TENTH_DB, LOW_DB
from onnxquant.recipe.options import Options
from onnxquant.report.report import Report
from onnxquant.report.state import State
from onnxquant.report.verdict import counts_answers, has_poor_tenth
from onnxquant.validation.proof import ProblemKind

# The part of the answers that stays the same, where an output has answers.
SAME_ANSWERS = 0.99
# Decibels by which a file that is made again may lose more.
_SLACK = 0.2


def missed_bound(report: Report, settings: Options) -> str:
    """The bound that a file misses, of the user's or else of the usual one, in few words; empty where it keeps them."""
    verdict, proof, ratio = report.verdict, report.proof, report.verdict.worst_sqnr_db
    if verdict.state.is_failure:
        return _missed_by_failure(report, settings)
    if settings.metric is not None or settings.min_sqnr is not None or settings.max_mse is not None:
        return ""  # nothing was missed
    if ratio is not None and ratio < GOOD_DB:
        return f"below {GOOD_DB:g} dB"
    # Of fewer than a hundred answers one may differ: it tells nothing of a part of a hundred.
    least = min(SAME_ANSWERS * verdict.answers, verdict.answers - 1) if verdict.answers else 0
    if proof is not None and not counts_answers(proof):
        return f"below {GOOD_TENTH_DB:g} dB in the worst tenth" if has_poor_tenth(proof) else ""
    return "" if verdict.same is None or verdict.same >= least else "answers change"


def _missed_by_failure(report: Report, settings: Options) -> str:
    """The bound that a file misses whose state is a failure."""
    proof, state = report.proof, report.verdict.state
    if state is not State.FAILED or proof is None:
        return str(state)
    if any(problem.kind is not ProblemKind.MISSED_BOUND for problem in proof.problems):
        return "its proof failed"
    if proof.metric is not None and not proof.metric.passed:
        return f"{proof.metric.name} falls too far"
    ratio, least = report.verdict.worst_sqnr_db, LOW_DB if settings.min_sqnr is None else settings.min_sqnr
    return f"below {least:g} dB" if ratio is not None and ratio < least else "mean squared error above the bound"


def is_near_bound(report: Report, settings: Options) -> bool:
    """Whether other samples may miss the bound that these keep: their figure lies too close above it."""
    ratio, is_ratio = report.verdict.worst_sqnr_db, settings.min_sqnr is not None or settings.max_mse is None
    if ratio is None or settings.metric is not None or not is_ratio:
        return False
    return ratio - margin_db(report) < (GOOD_DB if settings.min_sqnr is None else settings.min_sqnr)


def margin_db(report: Report) -> float:
    """Decibels by which other samples may keep less than these; 0 where these are too few to tell."""
    unseen, ratio = report.verdict.unseen, report.verdict.worst_sqnr_db
    if unseen is None or unseen.kept_db is None or ratio is None:
        return 0.0
    return max(0.0, ratio - unseen.kept_db)


def option_that_takes(report: Report, settings: Options) -> str:
    """The option that makes the bound one which a file keeps; empty where no sensible bound does.

    Args:
        report: report on a file that misses the bound.
        settings: options of the run.
    """
    proof = report.proof
    if proof is None or any(problem.kind is not ProblemKind.MISSED_BOUND for problem in proof.problems):
        return ""
    if settings.metric is not None:
        metric = proof.metric if settings.min_sqnr is None else None
        return f"--max-drop {math.ceil(1e3 * (metric.original - metric.quantized)) / 1e3:g}" if metric else ""
    ratio = report.verdict.worst_sqnr_db
    if ratio is None or not math.isfinite(ratio) or settings.max_mse is not None:
        return ""
    least = math.floor(ratio - margin_db(report) - _SLACK)
    return f"--min-sqnr {least}" if least >= LOW_DB else ""


def bound_in_words(settings: Options, *, has_answers: bool) -> str:
    """The bound in words.

    Args:
        settings: options of the run.
        has_answers: whether outputs have answers that are counted.
    """
    parts = []
    if settings.min_sqnr is not None:
        parts.append(f"every output keeps {settings.min_sqnr:g} dB")
    if settings.max_mse is not None:
        parts.append(f"no mean squared error above {settings.max_mse:g}")
    if settings.metric is not None:
        parts.append(f"the metric falls by at most {settings.max_drop}")
    answers = "99 % of the answers stay the same (of fewer than 100 all but one)"
    tenth = f"{GOOD_TENTH_DB:g} dB in the worst tenth of samples; the model gives no answers that could be counted"
    return " and ".join(parts) or f"the worst output keeps {GOOD_DB:g} dB, and {answers if has_answers else tenth}"
