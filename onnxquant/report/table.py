"""Tables on a terminal: columns that fit its width, and reasons under the table where they do not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

_GAP = 2
# Marks before titles: figures, sentences, and columns that stay.
_MARKS = ">~+"
# A name is shortened to this many characters before a column is left out: one of tensors or files, and one of several words.
_SHORTEST_NAME, _SHORTEST_WORDS = 16, 30
# Characters of a first column beside which every column stays that is never left out.
_NARROWEST = 8
# Only names of tensors are words as long as this.
_LONG_WORD = re.compile(r"\S{400,}")
# Prose in fewer characters than these is hard to read: it moves under the table, where rows are few or say the same.
_LEAST_PROSE, _FEW_ROWS = 30, 12


@dataclass(frozen=True)
class _Column:
    """A column of a table.

    Attributes:
        title: its title.
        is_figure: whether it holds figures, which stand at the right.
        is_prose: whether it holds sentences, which may take several lines.
        stays: whether it is never left out.
        cells: its cells.
        width: number of characters.
    """

    title: str
    is_figure: bool
    is_prose: bool
    stays: bool
    cells: tuple[Text, ...]
    width: int

    def resized(self, width: int) -> _Column:
        """The column in another width."""
        return replace(self, width=width)

    @property
    def shortest(self) -> int:
        """Number of characters that its names are shortened to, at most."""
        has_words = any(" " in cell.plain for cell in self.cells)
        return min(self.width, _SHORTEST_WORDS if has_words else _SHORTEST_NAME)


class Table:
    """A table; where its columns do not fit, the last ones are left out, but for the first and those that stay.

    Args:
        title: title of the table.
        columns: titles of the columns; ">" stands before those of figures, "+" before those that stay, "~" before that of
            sentences, which is the last.
    """

    def __init__(self, title: str, *columns: str) -> None:
        self.title, self.caption = title, ""
        self._columns = columns
        self._rows: list[tuple[Text, ...]] = []

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def add_row(self, *cells: str | Text, style: str = "") -> None:
        """Add a row.

        Args:
            cells: a text for each column.
            style: style of those that have none.
        """
        self._rows.append(
            tuple(c if isinstance(c, Text) else Text(" ".join(with_short_words(c).split()), style) for c in cells)
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines of the table."""
        if self.title:
            yield from _hanging(Text(), Text(self.title, "bold"), options.max_width, console)
        filled = self._filled()
        columns, reasons = _fitted(filled, options.max_width)
        yield _line(_joined([Text(c.title, "dim") for c in columns], columns))
        for row in range(len(self._rows)):
            yield from _row([c.cells[row] for c in columns], columns, console)
        for number, reason in enumerate(reasons, 1):
            yield from _hanging(Text(f"{number} ", "dim"), Text(reason, "dim"), options.max_width, console)
        remarks = [self.caption] if self.caption else []
        if absent := [c.title for c in filled if c.title not in {shown.title for shown in columns}]:
            remarks.append(f"more columns on a wider terminal (COLUMNS=120): {', '.join(absent)}")
        for remark in remarks:
            yield from _hanging(Text(), Text(remark, "dim"), options.max_width, console)

    def _filled(self) -> list[_Column]:
        """The first column, and those that are not empty."""
        columns = []
        for place, title in enumerate(self._columns):
            cells = tuple(row[place] for row in self._rows)
            name = title.lstrip(_MARKS)
            marks = title.removesuffix(name)
            if place == 0 or any(cells):
                width = max([cell_len(name), *(c.cell_len for c in cells)])
                columns.append(_Column(name, ">" in marks, "~" in marks, "+" in marks, cells, width))
        return columns


def with_short_words(text: str) -> str:
    """A text in which words that are longer than a paragraph are cut in the middle."""
    return _LONG_WORD.sub(
        lambda match: f"{match[0][:100]}...({len(match[0]) - 150} characters)...{match[0][-50:]}", text
    )


def say(console: Console, text: str, *, label: str = "", style: str = "") -> None:
    """Print a text in lines without blanks at their ends.

    Args:
        console: the terminal.
        text: the text.
        label: words before its first line; its other lines begin below the text.
        style: style of the label.
    """
    for line in _hanging(Text(label, style), Text(with_short_words(text)), console.width, console):
        console.print(line)


def _fitted(columns: list[_Column], width: int) -> tuple[list[_Column], list[str]]:
    """The columns that fit a width, and the reasons that move under the table where a few stand for many rows."""
    prose = columns[-1] if columns[-1].is_prose else None
    others = columns[:-1] if prose else columns
    if prose is None:
        return _narrowed(others, width), []
    room = width - _width(others) - _GAP
    if prose.width <= room or room >= _LEAST_PROSE:
        return [*others, prose.resized(min(prose.width, room))], []
    if _width(others) - others[0].width + others[0].shortest + _GAP + _LEAST_PROSE <= width:
        others = _narrowed(others, width - _GAP - _LEAST_PROSE)
        return [*others, prose.resized(_LEAST_PROSE)], []
    reasons = list(dict.fromkeys(cell.plain for cell in prose.cells if cell))
    if 2 * len(reasons) > len(prose.cells) > _FEW_ROWS:
        others = _narrowed(others, width - _GAP - _LEAST_PROSE)
        return [*others, prose.resized(width - _width(others) - _GAP)], []
    marks = tuple(Text(str(reasons.index(c.plain) + 1), c.style) if c else Text() for c in prose.cells)
    numbers = _Column(prose.title, True, False, True, marks, max(cell_len(prose.title), len(str(len(reasons)))))
    return [*_narrowed(others, width - _GAP - numbers.width), numbers], reasons


def _width(columns: Sequence[_Column]) -> int:
    return sum(c.width for c in columns) + _GAP * (len(columns) - 1)


def _narrowed(columns: list[_Column], width: int) -> list[_Column]:
    """Columns in a width: a shorter first one, and without the last ones that do not fit even then and need not stay."""
    columns = list(columns)
    while True:
        excess = _width(columns) - width
        if excess <= 0:
            return columns
        first, removable = columns[0], [c for c in columns[1:] if not c.stays]
        if first.width - excess >= first.shortest or not removable:
            least = min(first.width, _NARROWEST) if len(columns) > 1 else 1
            return [first.resized(max(first.width - excess, least)), *columns[1:]]
        columns.remove(removable[-1])


def _row(cells: Sequence[Text], columns: Sequence[_Column], console: Console) -> Iterator[Text]:
    """The lines of one row: only prose takes more than one."""
    parts = [
        list(cell.wrap(console, column.width)) if column.is_prose else [_short(cell, column.width)]
        for cell, column in zip(cells, columns, strict=True)
    ]
    for line in range(max(1, *map(len, parts))):
        yield _line(_joined([part[line] if line < len(part) else Text() for part in parts], columns))


def _joined(cells: Sequence[Text], columns: Sequence[_Column]) -> Text:
    """Cells beside each other."""
    out = Text()
    for place, (cell, column) in enumerate(zip(cells, columns, strict=True)):
        blanks = " " * (column.width - cell.cell_len)
        out.append(" " * _GAP if place else "")
        out.append_text(Text.assemble(blanks, cell) if column.is_figure else Text.assemble(cell, blanks))
    return out


def _short(text: Text, width: int) -> Text:
    """A text in a width: without its last words, or without its middle where it is one word, as names of tensors are."""
    if text.cell_len <= width:
        return text
    words = text.plain.split(" ")
    while len(words) > 1:
        words.pop()
        if cell_len(shorter := " ".join(words).rstrip(",;:")) < width:
            return Text(f"{shorter}…", text.style)
    head = (width - 1) // 3
    tail = text.plain
    while cell_len(tail) > width - 1 - head:
        tail = tail[1:]
    return Text(f"{set_cell_size(text.plain, head)}…{tail}", text.style)


def _hanging(label: Text, text: Text, width: int, console: Console) -> Iterator[Text]:
    """A label and a text beside it, whose other lines begin below its first."""
    indent = label.cell_len
    for place, part in enumerate(text.wrap(console, max(width - indent, 1))):
        yield _line(Text.assemble(label if place == 0 else " " * indent, part))


def _line(text: Text) -> Text:
    """A line without blanks at its end, which no terminal wraps."""
    text.rstrip()
    text.no_wrap, text.overflow = True, "ignore"
    return text
