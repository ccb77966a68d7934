"""A report in one line that a script can take apart, and the figures that it is made of."""

from __future__ import annotations

import math
import re

from onnxquant.report.data import Report
from onnxquant.report.verdict import FAILED, PASSED, PLANNED, UNPROVEN

# FAILED: written, but the proof or a bound failed.
WORDS = {PASSED: "PASSED", FAILED: "FAILED", UNPROVEN: "WRITTEN", PLANNED: "PLANNED"}
# What a summary matches, for whoever reads it.
LINE = re.compile(
    r"(?P<verdict>[A-Z]+) (?P<name>.+) (?P<smaller>[\d.]+|-)x smaller (?P<sqnr>-?[\d.]+|-?inf|nan|-) dB "
    r"(?P<faster>[\d.]+|-)x faster"
)


def line(verdict: str, name: str, smaller: float | None, sqnr_db: float | None, faster: float | None) -> str:
    """The line; ``-`` stands for what is not known.

    >>> line("PASSED", "model.int8.onnx", 3.741, 41.23, None)
    'PASSED model.int8.onnx 3.74x smaller 41.2 dB -x faster'
    """
    decibels = "-" if sqnr_db is None else f"{sqnr_db:.1f}" if math.isfinite(sqnr_db) else str(sqnr_db)
    times = ["-" if value is None else f"{value:.2f}" for value in (smaller, faster)]
    return f"{verdict} {' '.join(name.split())} {times[0]}x smaller {decibels} dB {times[1]}x faster"


def summary(report: Report) -> str:
    """A report in one line."""
    found = report.verdict
    return line(
        WORDS[found.state], str(report.output or report.source), found.smaller, found.worst_sqnr_db, found.faster
    )
