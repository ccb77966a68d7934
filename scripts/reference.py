"""Writes docs/reference.md from the commands and keys themselves; ``--check`` only says whether it is current."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from onnxquant.batch.config_file import config_schema
from onnxquant.cli import main as commands
from onnxquant.recipe.options import option_schema
from onnxquant.recipe.rules import rule_schema

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
HEAD = """# Reference

Written by `scripts/reference.py` from the program itself. What to use when: [README](../README.md), [batch.md](batch.md),
[solvers.md](solvers.md), [activations.md](activations.md), [feeds.md](feeds.md).
"""
EXIT_CODES = """## Exit codes

| code | means |
|---|---|
| 0 | done and proven; `diff`: nothing differs; `batch`, `config`: every model is done |
| 1 | done, but a bound was missed or the proof failed; `diff`: something differs; `verify`: damage; `batch`: a model failed |
| 2 | bad input or usage, nothing written; one line on stderr says what was found and what was expected |
| 130, 143 | interrupted by Ctrl-C or SIGTERM; files that are there are whole |
"""


def text() -> str:
    """The page."""
    parts = [HEAD, "## Commands\n"]
    context = click.Context(commands, info_name="onnxquant")
    for name, command in commands.commands.items():
        parts.append(_command(name, command, context))
    parts.append(EXIT_CODES)
    parts.append(
        "## Recipe keys\n\nKeys of a rule; at the top level of a recipe they decide what no rule does. Beside them: `rules`, "
        "the ordered list of rules,\nand `options`, a table of the option keys below. What the command line gives wins.\n"
    )
    parts.append(_keys(rule_schema()["properties"]))
    parts.append("## Option keys\n\nOf a recipe's `options`, of a config file, and keywords of `onnxquant.quantize`.\n")
    parts.append(_keys(option_schema()["properties"]))
    schema = config_schema()["properties"]
    parts.append("## Config keys\n\nAt the top level and for each model: the option keys and\n")
    parts.append(_keys({k: schema[k] for k in ("recipe", "rules", "data")}))
    parts.append("At the top level: `models`, a list of tables with these and\n")
    own = schema["models"]["items"]["properties"]
    parts.append(_keys({k: own[k] for k in ("input", "output")}))
    parts.append("and `batch`, a table with\n")
    parts.append(_keys(schema["batch"]["properties"]))
    return "\n".join(parts).rstrip() + "\n"


def _command(name: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.get_usage(context).split()).removeprefix("Usage: ")
    about, _, rest = (command.help or "").partition("\n\n")
    lines = [f"### {name}", "", " ".join(about.split()), "", "```text", usage, "```", ""]
    for block in rest.split("\n\n"):
        plain = block.replace("\b", "").strip()
        if plain.startswith("Example"):
            lines += ["```text", *(line.strip() for line in plain.splitlines()[1:]), "```", ""]
        elif plain.strip():
            lines += [" ".join(plain.split()), ""]
    records = [p.get_help_record(context) for p in command.params if isinstance(p, click.Option)]
    rows = [f"| `{_cell(r[0])}` | {_cell(r[1])} |" for r in records if r]
    return "\n".join([*lines, *(["| option | |", "|---|---|", *rows, ""] if rows else [])])


def _keys(properties: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ["| key | type | |", "|---|---|---|"]
    for key, schema in properties.items():
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        one_of = f" One of {', '.join(f'`{c}`' for c in schema['enum'])}." if "enum" in schema else ""
        rows.append(f"| `{key}` | {' or '.join(kinds)} | {_cell(schema['description'] + one_of)} |")
    return "\n".join([*rows, ""])


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    expected = text()
    if not parser.parse_args().check:
        REFERENCE.write_text(expected, encoding="utf-8")
    elif not REFERENCE.exists() or REFERENCE.read_text(encoding="utf-8") != expected:
        sys.exit("docs/reference.md is out of date; run scripts/reference.py")


if __name__ == "__main__":
    main()
