"""Several saved reports side by side: figures of each, the quality of each part, options and weights that differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from onnxquant.report.data import ReportData
from onnxquant.report.state import State
from onnxquant.report.units import decibels, size, speed, times
from onnxquant.report.verdict import verdict_of
from onnxquant.validation.latency import Interval

# Titles of columns; ">" stands before those of numbers.
COLUMNS = (
    "report", "verdict", ">size", ">smaller", ">speed", ">worst output", ">same answers", ">bits per weight", ">encoded",
)  # fmt: skip


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
    speed_interval: Interval | None = None
    same: int | None = None
    answers: int | None = None

    @property
    def cells(self) -> list[str]:
        """The row as people read it, with the columns of ``COLUMNS``."""
        return [
            self.report,
            str(self.state),
            "" if self.bytes is None else size(self.bytes),
            times(self.ratio),
            _speed(self.speed, self.speed_interval),
            "" if self.worst_sqnr_db is None else decibels(self.worst_sqnr_db),
            f"{self.same} of {self.answers}" if self.answers else "",
            "" if self.bits_per_weight is None else f"{self.bits_per_weight:.2f}",
            f"{self.encoded} of {self.weights}",
        ]


def _speed(ratio: float | None, interval: Interval | None) -> str:
    """A ratio of speeds, with its interval where that is wide."""
    return times(ratio) if ratio is None or interval is None else speed(ratio, interval)


@dataclass(frozen=True)
class DifferingFact:
    """A fact of which not all reports say the same: the quality of a part of the outputs, or an option.

    Attributes:
        name: name of the part, or of the option.
        by_report: text by report; empty where a report says nothing.
    """

    name: str
    by_report: dict[str, str]

    @property
    def cells(self) -> list[str]:
        """The row as people read it."""
        return [self.name, *self.by_report.values()]


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
        quality: quality of each part of the outputs.
        options: options that are not the same in all.
    """

    reports: list[ReportRow]
    sites: list[DifferingSite]
    quality: list[DifferingFact]
    options: list[DifferingFact]

    @property
    def names(self) -> list[str]:
        """Names of the reports."""
        return [row.report for row in self.reports]


@dataclass(frozen=True)
class Bar:
    """A bar of a chart.

    Attributes:
        name: name of the report.
        text: the figure.
        percent: its length.
    """

    name: str
    text: str
    percent: float


def charts(data: Comparison) -> list[tuple[str, list[Bar]]]:
    """Size, speed and worst output of each report as bars, with the title of each chart."""
    return [
        ("Size", _bars({row.report: (row.bytes, "" if row.bytes is None else size(row.bytes)) for row in data.reports})),
        ("Speed, original = 1", _bars({r.report: (r.speed, _speed(r.speed, r.speed_interval)) for r in data.reports})),
        ("Signal to noise of the worst output", _bars({
            r.report: (r.worst_sqnr_db, "" if r.worst_sqnr_db is None else decibels(r.worst_sqnr_db)) for r in data.reports
        })),
    ]  # fmt: skip


def _bars(values: Mapping[str, tuple[float | None, str]]) -> list[Bar]:
    """Bars of the values that are known; those that are infinite or negative have the longest and the shortest."""
    known = {name: (value, text) for name, (value, text) in values.items() if value is not None}
    most = max((value for value, _ in known.values() if math.isfinite(value)), default=1.0)
    longest = max(most, 1e-30)
    return [Bar(name, text, 78 * min(max(value / longest, 0.0), 1.0)) for name, (value, text) in known.items()]


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
    options = {n: {k: str(v) for k, v in (r.request.options if r.request else {}).items()} for n, r in reports.items()}
    return Comparison(
        [_row(name, report) for name, report in reports.items()],
        differing,
        _facts({name: _quality(report) for name, report in reports.items()}),
        [fact for fact in _facts(options) if len(set(fact.by_report.values())) > 1 and fact.name != "report"],
    )


def _facts(texts: Mapping[str, Mapping[str, str]]) -> list[DifferingFact]:
    """Facts by name.

    Args:
        texts: text by name of the fact, by report.
    """
    names = dict.fromkeys(name for facts in texts.values() for name in facts)
    return [DifferingFact(name, {report: facts.get(name, "") for report, facts in texts.items()}) for name in names]


def _quality(report: ReportData) -> dict[str, str]:
    """Ratio and answers of each part of the outputs."""
    out = {}
    for part in (report.proof.quality if report.proof else None) or []:
        answers = f"{part.same} of {part.answers} {part.answer}" if part.answers else ""
        ratio = "" if part.sqnr_db is None else decibels(part.sqnr_db)
        out[part.output] = ", ".join(filter(None, (ratio, answers)))
    return out


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
        speed_interval=verdict.faster_interval,
        same=verdict.same,
        answers=verdict.answers,
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
