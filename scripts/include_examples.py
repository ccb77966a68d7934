"""Copies the examples into docs/deployment.md, each below its marker; ``--check`` only says whether they are current."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "deployment.md"
# <!-- examples/python/stock.py --> and the block of code below it.
BLOCK = re.compile(r"<!-- (examples/\S+) -->\n```(\w+)\n.*?^```$", re.DOTALL | re.MULTILINE)


def current(text: str) -> str:
    """The page with every example as its file has it."""

    def block(match: re.Match[str]) -> str:
        code = (PAGE.parent / match[1]).read_text(encoding="utf-8").rstrip("\n")
        return f"<!-- {match[1]} -->\n```{match[2]}\n{code}\n```"

    return BLOCK.sub(block, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = PAGE.read_text(encoding="utf-8")
    expected = current(text)
    if not parser.parse_args().check:
        PAGE.write_text(expected, encoding="utf-8")
    elif text != expected:
        sys.exit(f"{PAGE.name}: an example is out of date; run scripts/include_examples.py")


if __name__ == "__main__":
    main()
