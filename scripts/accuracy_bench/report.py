"""Rows, and the tables that show them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field


@dataclass
class Row:
    """One form of a model; ``error`` says why there are no figures, ``refused`` that it is not meant to be."""

    model: str
    tool: str
    ours: bool = False
    version: str = ""
    error: str = ""
    bits_per_weight: float = math.nan
    seconds: float = 0.0
    peak_bytes: int = 0
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether it was asked for what is not offered."""
        return self.error.startswith("RecipeError")

    def cells(self, keys: list[str]) -> list[str]:
        """Cells of its line in the table."""
        if self.error:
            reason = "refused" if self.refused else self.error.replace("|", "/")
            return [self.tool, "", *["" for _ in keys], "", "", f"*{reason}*"]
        figures = [f"{self.bits_per_weight:.2f}", *(f"{self.scores[key]:.4g}" for key in keys)]
        work = [f"{self.seconds:.1f}", f"{self.peak_bytes / 1e6:.0f}"] if self.seconds else ["", ""]
        return [self.tool, *figures, *work, ""]


@dataclass
class Table:
    """All rows: per model what was measured, which score decides, and whether more of it is better."""

    machine: str
    rows: list[Row] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    main: dict[str, tuple[str, bool]] = field(default_factory=dict)

    def has(self, model: str, tool: str) -> bool:
        """Whether a row is there already."""
        return any(r.model == model and r.tool == tool for r in self.rows)


def as_json(table: Table) -> str:
    """Everything measured."""
    return json.dumps(_plain(asdict(table)), indent=1)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def from_json(text: str, made_on: str) -> Table:
    """A table that was written before, to go on with.

    Raises:
        ValueError: it is of another machine or other versions.
    """
    data = json.loads(text)
    if data["machine"] != made_on:
        raise ValueError(f"measured on {data['machine']!r}, this is {made_on!r}")
    rows = []
    for row in data["rows"]:
        scores = {k: float(v) for k, v in row["scores"].items()}
        rows.append(Row(**{**row, "bits_per_weight": float(row["bits_per_weight"]), "scores": scores}))
    main = {model: (key, bool(higher)) for model, (key, higher) in data["main"].items()}
    return Table(made_on, rows, data["about"], main)


def markdown(table: Table) -> str:
    """A table per model, by bits per weight; the score that decides comes first, with an arrow to where it is better."""
    lines = [f"{table.machine}."]
    for model, about in table.about.items():
        rows = [r for r in table.rows if r.model == model]
        main, higher = table.main[model]
        keys = sorted({k for r in rows for k in r.scores}, key=lambda k: (k != main, k))
        heads = [f"{k} {'↑' if higher else '↓'}" if k == main else k for k in keys]
        lines += ["", f"`{model}`: {about}", ""]
        lines.append("| tool | bits per weight | " + " | ".join(heads) + " | convert s | peak MB | |")
        lines.append("|---" * (len(keys) + 5) + "|")
        rows.sort(key=lambda r: (bool(r.error), -r.bits_per_weight if not r.error else 0))
        lines += ["| " + " | ".join(row.cells(keys)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
