"""The verdict, in one place for every face of a report: what came out, in figures and in one sentence what to do next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxquant.report.data import Report

PASSED, FAILED, PLANNED, UNPROVEN = "PASSED", "FAILED", "plan", "written, not proven"
# Below this an output has a tenth of its power in errors.
LOW_DB = 10.0
# A file that is not smaller than this is hardly smaller.
HARDLY = 1.05
# Timings scatter.
_SLOWER = 0.95


@dataclass(frozen=True)
class Verdict:
    """What came out.

    Attributes:
        state: ``PASSED``, ``FAILED``, ``plan``, or ``written, not proven``.
        smaller: bytes before over bytes after (predicted ones of a plan); None where it is not known.
        faster: seconds before over seconds after; None where it was not measured.
        worst_sqnr_db: of the output that keeps least, infinite where all are exact; None where none was compared.
        worst_output: its name.
        encoded, weights: number of weights that were encoded, and of all constants.
        next: what to do, one sentence.
    """

    state: str
    smaller: float | None
    faster: float | None
    worst_sqnr_db: float | None
    worst_output: str | None
    encoded: int
    weights: int
    next: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        worst = self.worst_sqnr_db
        plain = worst if worst is None or math.isfinite(worst) else "nan" if worst != worst else str(worst)
        return {**vars(self), "worst_sqnr_db": plain}

    def figures(self, before: int, after: int | None) -> list[str]:
        """Phrases that say it in figures.

        Args:
            before: bytes of the original.
            after: bytes of the output.
        """
        parts = []
        if self.smaller and after:
            parts.append(f"{size(before)} -> {size(after)} ({self.smaller:.2f}x smaller)")
        if self.encoded:
            parts.append(f"{self.encoded} of {self.weights} constants encoded")
        if self.worst_sqnr_db is not None:
            parts.append(f"outputs keep {decibels(self.worst_sqnr_db)}")
        if self.faster is not None:
            parts.append(f"{self.faster:.2f}x the original's speed")
        return parts


def verdict(report: Report) -> Verdict:
    """Of a report."""
    proof = report.proof
    after = report.output_bytes or report.predicted_bytes
    deployed = {n: float(d["sqnr_db"]) for n, d in (proof.deployed if proof else {}).items()}
    name = min(deployed, key=lambda n: deployed[n], default=None)
    state = PLANNED if report.planned else UNPROVEN
    if proof:
        state = PASSED if report.passed else FAILED
    faster = proof.latency["ratio"]["quantized"] if proof and proof.latency else None
    smaller = report.original_bytes / after if after else None
    worst = None if name is None else deployed[name]
    encoded = len(report.encoded) or (len(proof.weights) if proof else 0)
    weights = len(report.sites) or encoded
    return Verdict(state, smaller, faster, worst, name, encoded, weights, _next(report, state, worst, smaller, faster))


def _next(report: Report, state: str, worst: float | None, smaller: float | None, faster: float | None) -> str:
    if state == PLANNED:
        return "Run it without --dry-run to write and prove the file."
    if state == UNPROVEN:
        return "Prove it with onnxquant validate before it is used."
    assert report.proof
    if state == FAILED:
        return _repair(report.proof.problems, worst)
    if report.proof.feeds.get("source") == "synthetic":
        return "Give samples the model will see with --data: made-up ones find defects, they do not judge accuracy."
    if worst is not None and worst < LOW_DB:
        return f"Do not use it yet: {report.remedy}."
    if report.encoded and smaller is not None and smaller < HARDLY:
        return "It is hardly smaller: read why weights were left in float, then choose another target or format."
    if faster is not None and faster < _SLOWER:
        return "Use it where size matters; where time does, try --bits 8, --target auto or --activations static."
    return "Use it, and measure it on the task it is for."


def _repair(problems: list[str], worst: float | None) -> str:
    missed = [p for p in problems if "the bound is" in p]
    if len(missed) == len(problems):
        return (
            "Give it more bits, or keep the weights that cost most in float with --exclude: onnxquant validate --detailed "
            "ranks them."
        )
    if any("were not compared" in p for p in problems):
        return "Give samples that fit the model with --data, or lengths with --dim."
    return (
        "Do not use this file: it is not what it should be; make it again, and report it as a defect if that repeats."
    )


def size(nbytes: float) -> str:
    """Bytes as people read them.

    >>> size(1_500_000)
    '1.5 MB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(nbytes) >= scale:
            return f"{nbytes / scale:.4g} {unit}"
    return f"{nbytes:.0f} B"


def decibels(value: float | str) -> str:
    """An SQNR as people read it; ``inf`` is an exact match.

    >>> decibels(31.25), decibels("inf")
    ('31.2 dB', 'exact')
    """
    number = float(value)
    if math.isfinite(number):
        return f"{number:.1f} dB"
    return "nan" if math.isnan(number) else "exact" if number > 0 else "none"


def milliseconds(seconds: float) -> str:
    """Seconds as people read latencies.

    >>> milliseconds(0.00125)
    '1.25 ms'
    """
    return f"{1e3 * seconds:.3g} ms"
