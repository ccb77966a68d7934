"""Rows, verdicts, and the tables that show them."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table as RichTable

import onnxquant

from .measure import wilson

HEADINGS = (
    "model",
    "tool",
    "SQNR dB",
    "same answer (95 %)",
    "ms, 1 thread",
    "ms, 2 threads",
    "MB",
    "convert s",
    "peak MB",
)
# Of decibels; and of latencies within one interleaved run, which repeat no closer than this.
_CLOSE_DB, _CLOSE_TIME = 0.05, 1.03
DEPTHWISE_LEAD_DB = 3.0


@dataclass
class Row:
    """One tool on one model; ``error`` says why there are no figures."""

    model: str
    tool: str
    ours: bool = False
    version: str = ""
    error: str = ""
    notes: tuple[str, ...] = ()
    sqnr_db: float = math.nan
    samples: int = 0
    same: int | None = None
    rounds: dict[int, list[float]] = field(default_factory=dict)
    size: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def milliseconds(self) -> dict[int, float]:
        """Median per call, by number of threads."""
        return {threads: median(taken) for threads, taken in self.rounds.items()}

    def speed(self, other: Row, threads: int) -> float:
        """Speed as a multiple of another's: the median over rounds, each of which ran both."""
        pairs = zip(other.rounds[threads], self.rounds[threads], strict=True)
        return median(theirs / own for theirs, own in pairs)

    def cells(self) -> list[str]:
        """Cells of its line in the table, without the model's name."""
        times = [f"{self.milliseconds[t]:.2f}" if t in self.milliseconds else "" for t in (1, 2)]
        if self.tool == "float":
            return [self.tool, "", "", *times, f"{self.size / 1e6:.2f}", "", ""]
        agreement = ""
        if self.same is not None:
            low, high = wilson(self.same, self.samples)
            agreement = f"{self.same / self.samples:.1%} ({low:.1%}–{high:.1%})"
        figures = [f"{self.size / 1e6:.2f}", f"{self.seconds:.1f}", f"{self.peak_bytes / 1e6:.0f}"]
        return [self.tool, f"{self.sqnr_db:.1f}", agreement, *times, *figures]


@dataclass
class Table:
    """Everything measured."""

    machine: str
    depthwise: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    minutes: float = 0.0

    def of(self, model: str) -> list[Row]:
        """Rows of a model."""
        return [r for r in self.rows if r.model == model]

    @property
    def versions(self) -> str:
        """Tools and their versions."""
        return ", ".join(sorted({f"{r.tool.split()[0]} {r.version}" for r in self.rows if r.version and not r.ours}))


def machine() -> str:
    """The machine and the versions that it ran on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((s.split(": ", 1)[1] for s in lines if s.startswith("model name")), platform.processor())
    sets = ", ".join(onnxquant.native.library.isas())
    return (
        f"{cpu}, {os.cpu_count()} cores, instruction sets {sets}; onnxquant {onnxquant.__version__}, "
        f"onnxruntime {ort.__version__}, onnx {onnx.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    )


def verdicts(table: Table) -> list[dict[str, Any]]:
    """Requirements per model and variant of ours: each entry says what was compared and whether it holds."""
    judgements = []
    for model in table.about:
        rows = [r for r in table.of(model) if not r.error]
        peers = [r for r in rows if not r.ours and r.tool != "float"]
        original = next((r for r in rows if r.tool == "float"), None)
        for row in rows:
            if row.ours and original:
                judgements += [{"model": model, "tool": row.tool, **v} for v in _judge(row, original, peers, table)]
    return judgements


def _judge(row: Row, original: Row, peers: list[Row], table: Table) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []

    def say(what: str, holds: bool, figures: str) -> None:
        out.append({"what": what, "holds": holds, "figures": figures})

    if peers:
        best = max(peers, key=lambda r: r.sqnr_db)
        gain = row.sqnr_db - best.sqnr_db
        say("SQNR >= best peer's", gain >= -_CLOSE_DB, f"{gain:+.1f} dB ({best.tool} {best.sqnr_db:.1f})")
        if row.model in table.depthwise:
            say("3 dB better (depthwise)", gain >= DEPTHWISE_LEAD_DB, f"{gain:+.1f} dB")
    answered = [r for r in peers if r.same is not None]
    if row.same is not None and answered:
        first = max(answered, key=lambda r: r.same or 0)
        assert first.same is not None
        least = wilson(first.same, first.samples)[0]
        comparison = f"{row.same / row.samples:.1%} ({first.tool} {first.same / first.samples:.1%})"
        say("same answers >= best peer's", row.same >= first.same, comparison)
        say("same answers not below its interval", row.same / row.samples >= least, f"from {least:.1%}")
    for threads in row.rounds:
        if peers:
            fastest = min(peers, key=lambda r: r.milliseconds[threads])
            ratio = row.speed(fastest, threads)
            comparison = f"{ratio:.2f}x the speed of {fastest.tool}"
            say(f"as fast as any peer, threads: {threads}", ratio * _CLOSE_TIME >= 1, comparison)
        ratio = row.speed(original, threads)
        say(f"faster than float, threads: {threads}", ratio > 1, f"{ratio:.2f}x")
    return out


def as_json(table: Table) -> str:
    """Everything measured and judged; what is not a number is null."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain({**asdict(table), "verdicts": verdicts(table)}), indent=1)


def from_json(text: str, made_on: str, depthwise: tuple[str, ...]) -> Table:
    """A table that was written before, to go on with.

    Raises:
        ValueError: it is of another machine or other versions.
    """
    data = json.loads(text)
    if data["machine"] != made_on:
        raise ValueError(f"measured on {data['machine']!r}, this is {made_on!r}")
    rows = []
    for row in data["rows"]:
        rounds = {int(threads): taken for threads, taken in row["rounds"].items()}
        known = {k: v for k, v in row.items() if v is not None}
        rows.append(Row(**{**known, "rounds": rounds, "notes": tuple(row["notes"])}))
    return Table(made_on, depthwise, rows, data["about"], data["minutes"])


def show(table: Table) -> None:
    """Tables on the terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    shown = RichTable(*HEADINGS, title="INT8 activations against peers", caption=f"{table.machine}\n{table.versions}")
    for model in table.about:
        for i, row in enumerate(table.of(model)):
            name = model if i == 0 else ""
            if row.error:
                shown.add_row(name, row.tool, f"[red]{row.error[:60]}[/red]")
            else:
                shown.add_row(name, *row.cells(), style="bold" if row.ours else "")
        shown.add_section()
    console.print(shown)
    judged = RichTable("model", "tool", "what must be true", "", "measured", title="Verdicts")
    for v in verdicts(table):
        judged.add_row(v["model"], v["tool"], v["what"], "[green]yes[/]" if v["holds"] else "[red]no[/]", v["figures"])
    console.print(judged)


def markdown(table: Table) -> str:
    """The same for documents."""
    lines = [f"{table.machine}; {table.versions}. {table.minutes:.0f} minutes.", ""]
    lines += [f"- `{model}`: {about}" for model, about in table.about.items()]
    lines += ["", "| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    for row in table.rows:
        cells = [row.tool, f"*{row.error}*", *[""] * 6] if row.error else row.cells()
        cells = [f"**{c}**" if row.ours and c and not row.error else c for c in cells]
        lines.append("| " + " | ".join([row.model, *(c.replace("|", "\\|") for c in cells)]) + " |")
    lines += ["", "| model | tool | what must be true | | measured |", "|---|---|---|---|---|"]
    for v in verdicts(table):
        answer = "yes" if v["holds"] else "**no**"
        lines.append(f"| {v['model']} | {v['tool']} | {v['what']} | {answer} | {v['figures']} |")
    return "\n".join(lines) + "\n"
