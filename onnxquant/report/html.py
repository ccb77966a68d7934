"""The report as one HTML file that needs nothing else: no network, no fonts, no scripts but its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from onnxquant.report import activations, comparison, rows
from onnxquant.report.data import Report
from onnxquant.report.plots import plots
from onnxquant.report.verdict import decibels


def render(report: Report) -> str:
    """The report as a page."""
    data = report.to_dict()
    return _template("page.html.j2").render(
        data=data,
        embedded=embedded(data),
        verdict=report.verdict,
        figures=report.verdict.figures(report.original_bytes, report.output_bytes or report.predicted_bytes),
        plots={name: Markup(svg) for name, svg in plots(data).items()},
        columns=rows.SITES,
        sites=rows.sites(data),
        costs=rows.costs(data),
        outputs=rows.outputs(data),
        refusals=rows.refusals(data),
        activations=activations.summary(report.made, report.proof),
        facts=rows.facts(data),
    )


def render_comparison(data: Mapping[str, Any]) -> str:
    """Several reports side by side, as a page."""
    names = [row["report"] for row in data["reports"]]
    sites = [[s["name"], *(comparison.site_cell(s["by_report"][n]) for n in names)] for s in data["sites"]]
    figures = [[r["report"], *comparison.cells(r)] for r in data["reports"]]
    return _template("comparison.html.j2").render(embedded=embedded(data), names=names, figures=figures, sites=sites)


def embedded(data: Mapping[str, Any]) -> Markup:
    """Data as JSON that ends no element of the page, whatever names are in it.

    >>> print(embedded({"name": "</script>"}))
    {"name":"\\u003c/script\\u003e"}
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


@cache
def _template(name: str) -> Template:
    loader = PackageLoader("onnxquant.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": rows.cell, "decibels": decibels}
    return environment.get_template(name)
