"""A page of facts and tables in the form of the reports, for results that are no report of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxquant.json_data import JsonObject
from onnxquant.report.html import embedded, page_template


@dataclass(frozen=True)
class PageTable:
    """A table of a page.

    Attributes:
        title: its title.
        head: titles of its columns; ">" stands before those of figures.
        rows: its cells.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Page:
    """Facts and tables.

    Attributes:
        title: title of the page.
        facts: subjects, and what there is to say about each.
        tables: tables below the facts.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    tables: Sequence[PageTable]


def render_page(page: Page, data: JsonObject) -> str:
    """A page as HTML, with data for programs in it."""
    template = page_template("facts.html.j2")
    return template.render(title=page.title, facts=page.facts, tables=page.tables, embedded=embedded(data))
