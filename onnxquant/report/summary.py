"""A report in one line that a script can take apart, and the figures that it is made of."""

from __future__ import annotations

import math
import re

from onnxquant.report.data import Report

# What a summary matches, for whoever reads it.
LINE = re.compile(
    r"(?P<verdict>[A-Z]+) (?P<name>.+) (?P<smaller>[\d.]+|-)x smaller (?P<sqnr>-?[\d.]+|-?inf|nan|-) dB "
    r"(?P<faster>[\d.]+|-)x faster"
)


def verdict(report: Report) -> str:
    """PASSED, FAILED (written, but the proof or a bound failed), WRITTEN (not proven) or PLANNED (nothing written)."""
    if report.proof:
        return "PASSED" if report.passed else "FAILED"
    return "PLANNED" if report.output_bytes is None else "WRITTEN"


def worst_sqnr_db(report: Report) -> float | None:
    """SQNR in dB of the output that lost most; None where none was compared."""
    found = [float(d["sqnr_db"]) for d in report.proof.deployed.values()] if report.proof else []
    return min(found, default=None)


def speed_ratio(report: Report) -> float | None:
    """How many times as fast as the original; None where it was not measured."""
    return report.proof.latency["ratio"]["quantized"] if report.proof and report.proof.latency else None


def size_ratio(report: Report) -> float | None:
    """How many times as small as the original; None where nothing is known of the output."""
    nbytes = report.output_bytes or report.predicted_bytes
    return report.original_bytes / nbytes if nbytes else None


def bits_per_weight(report: Report) -> float | None:
    """Bits of all constant weights over their number; None where the report does not list them."""
    elements = sum(s.decision.elements for s in report.sites)
    return 8 * sum(s.decision.nbytes for s in report.sites) / elements if elements else None


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
    figures = (size_ratio(report), worst_sqnr_db(report), speed_ratio(report))
    return line(verdict(report), str(report.output or report.source), *figures)
