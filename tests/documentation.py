"""The blocks of code in the documentation, and how they are run: as a reader would, one after the other, in one folder."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from commands import run

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r'```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\s*')
# Examples are files, which other tests run as programs.
_MARK = re.compile(r"<!-- (?:not run\b:?\s*(?P<reason>.*?)|(?P<file>examples/\S+))\s*-->")
_EXIT = re.compile(r"#\s*exit (\d+)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: of its fence in the page.
        title: the file that it is; empty: none.
        unrun: why it is not run; None: it is. Empty where the page gives no reason.
    """

    page: Path
    line: int
    language: str
    title: str
    text: str
    unrun: str | None

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, with the mark among the comments right above."""
    lines = page.read_text(encoding="utf-8").splitlines()
    fences = [(i, found) for i, line in enumerate(lines) if (found := _FENCE.fullmatch(line))]
    assert len(fences) % 2 == 0, f"{page}: a block does not end"
    for (begin, fence), (end, _) in zip(fences[::2], fences[1::2], strict=True):
        above = takewhile(lambda line: line.startswith("<!--"), reversed(lines[:begin]))
        mark = next(filter(None, map(_MARK.fullmatch, above)), None)
        text = "\n".join(lines[begin + 1 : end]) + "\n"
        unrun = mark["reason"] or mark["file"] or "" if mark else None
        yield Block(page, begin + 1, fence["language"], fence["title"] or "", text, unrun)


def marks(page: Path) -> int:
    """How many lines of a page are marks."""
    return sum(bool(_MARK.fullmatch(line.strip())) for line in page.read_text(encoding="utf-8").splitlines())


def execute(block: Block, names: dict[str, Any]) -> None:
    """Write a block with a title to its file; run commands and Python.

    Args:
        block: what to run.
        names: of the page's Python blocks.
    """
    if block.unrun is not None:
        return
    if block.title:
        Path(block.title).write_text(block.text, encoding="utf-8")
    elif block.language == "sh":
        for line in block.text.replace("\\\n", " ").splitlines():
            _command(line, block.place)
    elif block.language == "python":
        exec(compile(block.text, block.place, "exec"), names)


def _command(line: str, place: str) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    stated = _EXIT.search(line)
    expected = int(stated[1]) if stated else 0
    match words:
        case ["onnxquant" | ".venv/bin/onnxquant", *arguments]:
            result = run(*arguments)
            if result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception
            assert result.exit_code == expected, f"{place}: {line.strip()}\n{result.output}"
        case ["python" | ".venv/bin/python", script] if expected == 0:
            runpy.run_path(script, run_name="__main__")
        case _:
            raise AssertionError(f"{place}: {line.strip()}: only onnxquant and scripts run here; mark the block")
