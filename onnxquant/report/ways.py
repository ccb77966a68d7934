"""Rows of the tables of ways that were tried as whole files."""

from __future__ import annotations

from onnxquant.report.data import Attempt, Choice, ReportData, Verdict
from onnxquant.report.units import decibels, size, speed, times

# Titles of columns; ">" stands before those of numbers, "~" before those of sentences, "+" before those that stay.
ATTEMPTS = ("way", "outcome", ">size", ">smaller", ">faster", ">worst output", ">same answers", ">seconds")
WAYS = ("way", "+>faster", ">quality", ">size", ">same", "+outcome", "~why")


def attempts(report: ReportData) -> list[list[str]]:
    """Ways that were tried as whole files, with the columns of ``ATTEMPTS``."""
    if report.choice is None:
        return []
    lines = [_attempt(attempt, report.choice.chosen) for attempt in report.choice.attempts]
    return lines + [[way, _untried(report.choice), "", "", "", "", "", ""] for way in report.choice.skipped]


def _untried(choice: Choice) -> str:
    """The outcome of ways that were skipped."""
    return "not tried" if choice.interrupted else "no time"


def _attempt(attempt: Attempt, chosen: str) -> list[str]:
    verdict = attempt.verdict
    if verdict is None or attempt.nbytes is None:
        return [attempt.way, f"refused: {attempt.objection}", "", "", "", "", "", ""]
    return [
        attempt.way,
        "chosen" if attempt.way == chosen else attempt.objection,
        size(attempt.nbytes),
        f"{verdict.smaller:.2f}x" if verdict.smaller else "",
        _faster(verdict),
        "" if verdict.worst_sqnr_db is None else decibels(verdict.worst_sqnr_db),
        verdict.judged_answers,
        f"{attempt.seconds:.0f}",
    ]


def shortened(choice: Choice) -> list[list[str]]:
    """The ways in few columns, those of ``WAYS``: the chosen one first, then those that keep the bound."""
    order = {"chosen": 0, "refused": 2, "no time": 3, "not tried": 3}
    lines = [_way(attempt, choice.chosen) for attempt in choice.attempts]
    lines += [[way, "", "", "", "", _untried(choice), ""] for way in choice.skipped]
    return sorted(lines, key=lambda line: order.get(line[-2], 1))


def _way(attempt: Attempt, chosen: str) -> list[str]:
    verdict = attempt.verdict
    if verdict is None or attempt.nbytes is None:
        return [attempt.way, "", "", "", "", "refused", attempt.objection]
    return [
        attempt.way,
        times(verdict.faster),
        "" if verdict.worst_sqnr_db is None else decibels(verdict.worst_sqnr_db),
        size(attempt.nbytes),
        verdict.judged_answers,
        "chosen" if attempt.way == chosen else attempt.objection,
        "",
    ]


def _faster(verdict: Verdict) -> str:
    """The ratio of speeds, with its interval where that is known."""
    if verdict.faster is None:
        return ""
    return speed(verdict.faster, verdict.faster_interval) if verdict.faster_interval else f"{verdict.faster:.2f}x"
