"""The league table in 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .rows import Row, Side


def _figures(side: Side | None, size: int) -> str:
    """Size, speed, decibels and seconds of one side."""
    if side is None:
        return f"{'-':>6}{'-':>6}{'-':>6}{'-':>6}"
    smaller = f"{size / side.size:.2f}x" if side.size else "-"
    faster = f"{side.speed[0]:.2f}x" if side.speed else "-"
    decibels = side.measured_db
    quality = "-" if decibels is None else "exact" if decibels > 900 else f"{decibels:.1f}"
    return f"{smaller:>6}{faster:>6}{quality:>6}{side.seconds:>6.1f}"


def table(rows: Sequence[Row]) -> str:
    """Counts of flags by mode, then a line for each row that has one."""
    modes = list(dict.fromkeys(r.mode for r in rows))
    counts = Counter((flag, row.mode) for row in rows for flag in row.flags())
    kinds = sorted({flag for flag, _ in counts}, key=lambda k: -sum(counts[k, m] for m in modes))
    flagged = sum(bool(r.flags()) for r in rows)
    models = {is_real: len({r.model for r in rows if r.is_real == is_real}) for is_real in (True, False)}
    lines = [f"{models[True]} real and {models[False]} generated models, {len(rows)} rows, {flagged} with a flag", ""]
    lines.append(f"{'flag':20}" + "".join(f"{m:>9}" for m in modes) + f"{'all':>9}")
    for kind in kinds:
        numbers = [counts[kind, m] for m in modes]
        lines.append(f"{kind:20}" + "".join(f"{n or '-':>9}" for n in numbers) + f"{sum(numbers):>9}")
    lines += ["", f"{'model':26}{'':6}{'ours':>12}{'':12}{'onnxruntime':>18}"]
    lines.append(f"{'mode':26}{'':4}" + f"{'size':>6}{'speed':>6}{'dB':>6}{'s':>6}" * 2)
    for row in sorted(rows, key=lambda r: (not r.is_real, r.model)):
        if row.flags():
            lines.append(f"{row.model[:66]} {row.mode}")
            lines.append(f"{'':30}{_figures(row.ours, row.size)}{_figures(row.peer, row.size)}")
            lines.append(f"  {', '.join(row.flags())}: {row.ours.verdict}"[:80])
    return "\n".join(lines) + "\n"
