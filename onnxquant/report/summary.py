"""A report in one line that a script can take apart."""

from __future__ import annotations

import math
import re

from onnxquant.report.data import ReportData
from onnxquant.report.verdict import verdict_of

# The form of the line, for scripts.
LINE = re.compile(
    r"(?P<verdict>[A-Z]+) (?P<name>.+) (?P<smaller>[\d.]+|-)x smaller (?P<sqnr>-?[\d.]+|-?inf|nan|-) dB "
    r"(?P<faster>[\d.]+|-)x faster"
)


def line(verdict: str, name: str, smaller: float | None, sqnr_db: float | None, faster: float | None) -> str:
    """The line; ``-`` stands for a figure that is not known.

    >>> line("PASSED", "model.int8.onnx", 3.741, 41.23, None)
    'PASSED model.int8.onnx 3.74x smaller 41.2 dB -x faster'
    """
    decibels = "-" if sqnr_db is None else f"{sqnr_db:.1f}" if math.isfinite(sqnr_db) else str(sqnr_db)
    ratios = ["-" if value is None else f"{value:.2f}" for value in (smaller, faster)]
    return f"{verdict} {' '.join(name.split())} {ratios[0]}x smaller {decibels} dB {ratios[1]}x faster"


def summary(report: ReportData) -> str:
    """A report in one line."""
    verdict = verdict_of(report)
    name = str(report.output or report.source)
    return line(verdict.state.word, name, verdict.smaller, verdict.worst_sqnr_db, verdict.faster)
