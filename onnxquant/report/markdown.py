"""The report as Markdown: the verdict and the tables, for a repository, a pull request or an issue."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnxquant.report import activations, comparison, rows
from onnxquant.report.data import Report
from onnxquant.report.verdict import decibels


def render(report: Report) -> str:
    """The report as Markdown."""
    data, found = report.to_dict(), report.verdict
    after = report.output_bytes or report.predicted_bytes
    figures = found.figures(report.original_bytes, after)
    parts = [
        f"# {found.state}: {_text(report.output or report.source)}",
        ", ".join(figures) + ".",
        f"**Next:** {found.next}",
    ]
    parts += _list("Problems", data["problems"]) + _list("Warnings", data["warnings"])
    parts += _table("Cost", ["", ">original", ">quantized", ">ratio"], _costs(data))
    head = ["compared", "output", ">SQNR", ">cosine", ">MSE", ">max error", ">mean error"]
    parts += _table("Outputs", head, rows.outputs(data))
    parts += _table("Activations", ["what", "value"], activations.summary(report.made, report.proof))
    parts += _table("Formats by size", [">bits per weight", ">SQNR, predicted", ">SQNR, measured"], _front(data))
    keys = [key for key, _, _ in rows.SITES]
    titles = [f"{'>' * figure}{title}" for _, title, figure in rows.SITES]
    sites = [[rows.cell(row.get(key)) for key in keys] for row in rows.sites(data)]
    parts += _table("Weights", titles, sites)
    parts += _table("Refused, and why", ["reason", ">weights", ">bytes", "such as"], rows.refusals(data))
    parts += _list("What passes changed", data["notes"])
    if data["asked"].get("recipe"):
        parts += ["## Recipe", "```json\n" + json.dumps(data["asked"]["recipe"], indent=2) + "\n```"]
    parts += _table("Environment", ["what", "value"], rows.facts(data))
    return "\n\n".join(parts) + "\n"


def render_comparison(data: Mapping[str, Any]) -> str:
    """Several reports side by side."""
    head = ["report", "verdict", ">size", ">smaller", ">bits per weight", ">worst output", ">speed", ">encoded"]
    parts = ["# Reports", *_table("Figures", head, [[r["report"], *comparison.cells(r)] for r in data["reports"]])]
    names = [row["report"] for row in data["reports"]]
    sites = [[s["name"], *(comparison.site_cell(s["by_report"][n]) for n in names)] for s in data["sites"]]
    return "\n\n".join(parts + _table("Weights on which they differ", ["weight", *names], sites)) + "\n"


def _costs(data: Mapping[str, Any]) -> list[list[str]]:
    return [[c["name"], c["before"], c["after"], c["ratio"]] for c in rows.costs(data)]


def _front(data: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"{c['bits_per_weight']:.2f}", *("" if c.get(k) is None else decibels(c[k]) for k in _DB)]
        for c in (*data["search"].get("front", ()), *data["search"].get("tried", ()))
    ]


_DB = ("predicted_sqnr_db", "measured_sqnr_db")


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
