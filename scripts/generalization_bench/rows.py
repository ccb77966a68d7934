"""Rows of results, a line of JSON each, and their table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .quantizers import OURS, Quality, Result

# Our file is to be better than onnxruntime's best by this, and its report to be right within this.
LEAST_GAIN, MOST_MISJUDGED = 1.0, 2.0


@dataclass(frozen=True)
class Row:
    """One file: the network, how many photographs calibrated it, the seed of their division, and the tool."""

    network: str
    photographs: int
    seed: int
    tool: str
    result: Result
    commit: str = ""

    @property
    def key(self) -> tuple[str, int, int, str]:
        """Key of the measurement."""
        return self.network, self.photographs, self.seed, self.tool

    def to_json(self) -> str:
        """The row as one line."""
        return json.dumps(asdict(self), default=str)


def read(path: Path) -> dict[tuple[str, int, int, str], Row]:
    """The rows of a file, the last of each key."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [_row(json.loads(line)) for line in lines]
    return {row.key: row for row in rows}


def _row(entries: dict[str, Any]) -> Row:
    result = entries.pop("result")
    quality = result.pop("quality")
    return Row(**entries, result=Result(quality=Quality(**quality) if quality else None, **result))


HEAD = (
    "network", "photos", "seed", "ours", "tenth", "best peer", "tenth", "gain", "tenth", "report", "interval", "off", "",
)  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """A line for each network and number of photographs: mean and worst tenth of both, and what our report says."""
    groups: dict[tuple[str, int, int], dict[str, Result]] = {}
    for row in rows:
        groups.setdefault(row.key[:3], {})[row.tool] = row.result
    lines: list[tuple[str, ...]] = [HEAD]
    for (network, photographs, seed), results in sorted(groups.items()):
        lines.append((network[:18], str(photographs), str(seed), *_cells(results)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [[c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(x, widths, strict=True))] for x in lines]
    return "\n".join(" ".join(cells).rstrip() for cells in text) + "\n"


def _cells(results: Mapping[str, Result]) -> tuple[str, ...]:
    """Our figures, those of the best peer, gains, and our report's."""
    peers = {name: r.quality for name, r in results.items() if name != OURS and r.quality}
    ours = results.get(OURS, Result(error="not run"))
    if ours.quality is None or not peers:
        return ours.error[:9] or "no peer", *[""] * (len(HEAD) - 4)
    best = max(peers, key=lambda name: peers[name].mean)
    mean, tenth = peers[best].mean, max(q.worst_tenth for q in peers.values())
    gains = ours.quality.mean - mean, ours.quality.worst_tenth - tenth
    claim = math.nan if ours.claim is None else ours.claim
    off = claim - (math.nan if ours.mean_here is None else ours.mean_here)
    holds = min(gains) >= LEAST_GAIN and abs(off) <= MOST_MISJUDGED
    interval = "" if ours.claim_low is None else f"{ours.claim_low:.0f} to {ours.claim_high:.0f}"
    return (
        f"{ours.quality.mean:.1f}", f"{ours.quality.worst_tenth:.1f}", f"{best[:4]} {mean:.1f}", f"{tenth:.1f}",
        f"{gains[0]:+.1f}", f"{gains[1]:+.1f}", f"{claim:.1f}", interval, f"{off:+.1f}", "" if holds else "*",
    )  # fmt: skip
