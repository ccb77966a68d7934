"""The report as Markdown: the verdict and the tables, for a repository, a pull request or an issue."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from onnxquant.report import comparison, rows, ways, words
from onnxquant.report.comparison import Comparison
from onnxquant.report.data import ReportData
from onnxquant.report.pages import Page
from onnxquant.report.verdict import verdict_of
from onnxquant.report.warnings import warnings


def render(report: ReportData) -> str:
    """The report as Markdown."""
    verdict = verdict_of(report)
    parts = [f"# {verdict.state}: {_text(report.output or report.source)}"]
    parts += ["\n".join(f"- **{subject}** {_text(text)}" for subject, text in words.lines(report, verdict))]
    parts += [f"**Next:** {verdict.next}"]
    parts += _list("Problems", report.problems) + _list("Warnings", warnings(report))
    parts += _table("Cost", rows.COSTS, [c.cells for c in rows.costs(report)])
    parts += _table("Outputs", rows.OUTPUTS, rows.outputs(report))
    parts += _table("Quality, worst first", rows.PARTS, rows.parts(report))
    parts += _table("Contribution of each site", rows.CONTRIBUTIONS, rows.contributions(report))
    parts += _table("Activations", rows.FACTS, rows.activations(report))
    parts += _table("Ways tried", ways.ATTEMPTS, ways.attempts(report))
    parts += _table("Formats by size", rows.CHOICES, rows.choices(report))
    titles = [f"{'>' * number}{title}" for _, title, number in rows.SITES]
    parts += _table("Weights", titles, [row.cells for row in rows.sites(report)])
    parts += _table("Refused, and why", rows.REFUSALS, rows.refusals(report))
    parts += _list("What passes changed", report.notes)
    if report.request and report.request.recipe:
        parts += ["## Recipe", "```json\n" + json.dumps(report.request.recipe, indent=2) + "\n```"]
    parts += _table("Environment", rows.FACTS, rows.facts(report))
    return "\n\n".join(parts) + "\n"


def render_comparison(data: Comparison) -> str:
    """Several reports side by side."""
    parts = ["# Reports", *_table("Figures", comparison.COLUMNS, [row.cells for row in data.reports])]
    parts += _table("Quality of each part of the outputs", ["part", *data.names], [fact.cells for fact in data.quality])
    parts += _table("Options that differ", ["option", *data.names], [fact.cells for fact in data.options])
    parts += _table("Weights on which they differ", ["weight", *data.names], [site.cells for site in data.sites])
    return "\n\n".join(parts) + "\n"


def render_facts(page: Page) -> str:
    """A page of facts and tables."""
    parts = [f"# {_text(page.title)}", "\n".join(f"- **{subject}** {_text(text)}" for subject, text in page.facts)]
    for part in page.tables:
        parts += _table(part.title, part.head, part.rows)
    return "\n\n".join(parts) + "\n"


def _table(title: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(map(_text, row)) + " |" for row in body]
    if not lines:
        return []
    names = "| " + " | ".join(_text(h.lstrip(">")) for h in head) + " |"
    rule = "|" + "|".join("---:" if h.startswith(">") else "---" for h in head) + "|"
    return [f"## {title}", "\n".join([names, rule, *lines])]


def _list(title: str, entries: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {_text(e)}" for e in entries)] if entries else []


def _text(value: str) -> str:
    """Text that no name can turn into markup or into another cell."""
    for mark in "\\&`*_[]<>|#":
        value = value.replace(mark, f"\\{mark}" if mark not in "<>&" else _ENTITIES[mark])
    return " ".join(value.split())


_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
