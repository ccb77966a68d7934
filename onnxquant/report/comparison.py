"""Several saved reports side by side: figures of each, and the weights on which they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxquant.report.data import ReportData
from onnxquant.report.state import State
from onnxquant.report.units import decibels, size, times
from onnxquant.report.verdict import verdict_of

# Titles of columns; ">" stands before those of numbers.
COLUMNS = ("report", "verdict", ">size", ">smaller", ">bits per weight", ">worst output", ">speed", ">encoded")


@dataclass(frozen=True)
class ReportRow:
    """Figures of one report; None where they are not known."""

    report: str
    state: State
    bytes: int | None
    ratio: float | None
    bits_per_weight: float | None
    worst_sqnr_db: float | None
    speed: float | None
    encoded: int
    weights: int

    @property
    def cells(self) -> list[str]:
        """The row as people read it, with the columns of ``COLUMNS``."""
        return [
            self.report,
            str(self.state),
            "" if self.bytes is None else size(self.bytes),
            times(self.ratio),
            "" if self.bits_per_weight is None else f"{self.bits_per_weight:.2f}",
            "" if self.worst_sqnr_db is None else decibels(self.worst_sqnr_db),
            times(self.speed),
            f"{self.encoded} of {self.weights}",
        ]


@dataclass(frozen=True)
class SiteForm:
    """Form of one weight in one report.

    Attributes:
        format: its format; ``float`` where it stays one, None where there is no such weight.
        bytes: bytes that it takes; None where they are not known.
        sqnr_db: its error; None where it is not known.
    """

    format: str | None = None
    bytes: int | None = None
    sqnr_db: float | None = None

    @property
    def cell(self) -> str:
        """The form as people read it."""
        if self.format is None:
            return "absent"
        return self.format if self.sqnr_db is None else f"{self.format}, {decibels(self.sqnr_db)}"


@dataclass(frozen=True)
class DifferingSite:
    """A weight that has not one form in all reports."""

    name: str
    by_report: dict[str, SiteForm]

    @property
    def cells(self) -> list[str]:
        """The row as people read it: the name, and the form in each report."""
        return [self.name, *(form.cell for form in self.by_report.values())]


@dataclass(frozen=True)
class Comparison:
    """Reports side by side.

    Attributes:
        reports: a row for each report.
        sites: weights on which they differ in format or bytes.
    """

    reports: list[ReportRow]
    sites: list[DifferingSite]

    @property
    def names(self) -> list[str]:
        """Names of the reports."""
        return [row.report for row in self.reports]


def compare(reports: Mapping[str, ReportData]) -> Comparison:
    """Compare reports.

    Args:
        reports: reports by the name to call them.
    """
    forms = {name: _forms(report) for name, report in reports.items()}
    differing = []
    for site in dict.fromkeys(site for sites in forms.values() for site in sites):
        by_report = {name: sites.get(site, SiteForm()) for name, sites in forms.items()}
        if len({(form.format, form.bytes) for form in by_report.values()}) > 1:
            differing.append(DifferingSite(site, by_report))
    return Comparison([_row(name, report) for name, report in reports.items()], differing)


def _row(name: str, report: ReportData) -> ReportRow:
    """The row of one report."""
    verdict = verdict_of(report)
    return ReportRow(
        report=name,
        state=verdict.state,
        bytes=report.final_bytes,
        ratio=verdict.smaller,
        bits_per_weight=report.bits_per_weight,
        worst_sqnr_db=verdict.worst_sqnr_db,
        speed=verdict.faster,
        encoded=verdict.encoded,
        weights=verdict.weights,
    )


def _forms(report: ReportData) -> dict[str, SiteForm]:
    """Form by weight; those that are encoded where the report lists no others."""
    if report.sites:
        return {
            s.decision.name: SiteForm(
                s.decision.format.name if s.decision.format else "float",
                s.decision.nbytes,
                s.error.sqnr_db if s.error else None,
            )
            for s in report.sites
        }
    weights = report.proof.weights if report.proof else {}
    return {name: SiteForm(w.format, None, w.error.sqnr_db) for name, w in weights.items()}
