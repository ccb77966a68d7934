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


def render_page(title: str, facts: Sequence[tuple[str, str]], tables: Sequence[PageTable], data: JsonObject) -> str:
    """A page.

    Args:
        title: its title.
        facts: subjects, and what there is to say about each.
        tables: tables below the facts.
        data: data that the page carries for programs.
    """
    return page_template("facts.html.j2").render(title=title, facts=facts, tables=tables, embedded=embedded(data))
