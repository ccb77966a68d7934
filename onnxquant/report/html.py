"""The report as one HTML file that needs nothing else: no network, no fonts, no scripts but its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from onnxquant.json_data import JsonObject, to_object
from onnxquant.report import comparison, glossary, rows, ways, words
from onnxquant.report.comparison import Comparison
from onnxquant.report.data import ReportData
from onnxquant.report.plots import plots
from onnxquant.report.serialize import report_to_json
from onnxquant.report.units import decibels, figure
from onnxquant.report.verdict import verdict_of
from onnxquant.report.warnings import warnings

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def render(report: ReportData) -> str:
    """The report as a page."""
    verdict = verdict_of(report)
    return page_template("page.html.j2").render(
        report=report,
        rows=rows,
        ways=ways,
        words=words,
        glossary=glossary.TERMS,
        embedded=embedded(report_to_json(report)),
        verdict=verdict,
        warnings=warnings(report),
        plots={name: {form: Markup(svg) for form, svg in pair.items()} for name, pair in plots(report).items()},
    )


def render_comparison(data: Comparison) -> str:
    """Several reports side by side, as a page."""
    return page_template("comparison.html.j2").render(
        embedded=embedded(to_object(data)), data=data, columns=comparison.COLUMNS, charts=comparison.charts(data)
    )


def embedded(data: JsonObject) -> Markup:
    """Data as JSON for a script element; names with ``</script>`` in them do not end it.

    >>> print(embedded({"name": "</script>"}))
    {"name":"\\u003c/script\\u003e"}
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


def unbroken(text: str) -> Markup:
    """A sentence in which lines end before an option, not inside it.

    >>> print(unbroken("a < b: --time 2min"))
    a &lt; b: <span class="option">--time</span> 2min
    """
    return Markup(_OPTION.sub(r'<span class="option">\g<0></span>', str(escape(text))))


def _used(head: Sequence[str], table: Iterable[Sequence[str]]) -> list[int]:
    """Places of the columns of a table that are not empty."""
    filled = {place for row in table for place, value in enumerate(row) if value}
    return [place for place in range(len(head)) if place in filled]


@cache
def page_template(name: str) -> Template:
    """A template of a page, by the name of its file."""
    loader = PackageLoader("onnxquant.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": figure, "decibels": decibels, "unbroken": unbroken}
    environment.globals["used"] = _used
    return environment.get_template(name)
