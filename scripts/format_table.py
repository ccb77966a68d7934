"""Writes the table of formats in README.md from the formats themselves; ``--check`` only says whether it is current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from onnxquant.formats import formats
from onnxquant.targets import targets

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- formats: written by scripts/format_table.py -->", "<!-- end of formats -->"


def rows() -> str:
    """The table in Markdown."""
    out = ["| format | bits per weight | targets | parameters | what it is |", "|---|---|---|---|---|"]
    for form in formats():
        held = ", ".join(t.name for t in targets() if t.holds(form))
        parameters = ", ".join(f"`{p}`" for p in form.parameters())
        out.append(f"| `{form.name}` | {form.bits_per_weight:.4g} | {held} | {parameters} | {form.summary()} |")
    return "\n".join(out)


def current() -> str:
    """README.md with the table as it should be."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rows()}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = current()
    if not parser.parse_args().check:
        README.write_text(text, encoding="utf-8")
    elif README.read_text(encoding="utf-8") != text:
        sys.exit("README.md: the table of formats is out of date; run scripts/format_table.py")


if __name__ == "__main__":
    main()
