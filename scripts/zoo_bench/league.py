"""The league tables: rows with a flag in 80 columns, and the best file of each model as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .rows import Row, Side

# Files that keep less are only chosen where none keeps more; speeds that differ by less are the same.
_GOOD_DB, _SAME_SPEED = 20.0, 1.03
# Files that are not smaller by this factor do not count.
_LEAST_GAIN = 1.05


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


def best_table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each model, its best file of ours and its best of onnxruntime's."""
    lines = ["| model | kB | ours | size | speed | dB | verdict | onnxruntime | size | speed | dB |"]
    lines.append("|---|---:|---|---:|---:|---:|---|---|---:|---:|---:|")
    for model in sorted({row.model for row in rows}):
        own = [row for row in rows if row.model == model]
        ours = _best([(row.mode, row.ours) for row in own if _is_smaller(row, row.ours)])
        peer = _best([(row.mode, row.peer) for row in own if row.peer and _is_smaller(row, row.peer)])
        verdict = ours[1].verdict if ours else "nothing to quantize" if own[0].ours.code == 2 else own[0].ours.verdict
        cells = [model, f"{own[0].size / 1000:,.0f}", *_cells(ours, own[0].size), verdict[:40], *_cells(peer, own[0].size)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _is_smaller(row: Row, side: Side) -> bool:
    """Whether a file is worth to be called quantized."""
    return side.size < row.size / _LEAST_GAIN


def _best(sides: Sequence[tuple[str, Side]]) -> tuple[str, Side] | None:
    """The fastest of the files that keep enough, the smallest of those that are as fast; None where there is no file."""
    measured = [(mode, side) for mode, side in sides if side.size and side.speed and side.measured_db is not None]
    good = [(mode, side) for mode, side in measured if (side.measured_db or 0.0) >= _GOOD_DB]
    chosen = good or [max(measured, key=lambda pair: pair[1].measured_db or 0.0)] if measured else []
    fastest = max((side.speed[0] for _, side in chosen if side.speed), default=0.0)
    as_fast = [(mode, side) for mode, side in chosen if side.speed and side.speed[0] * _SAME_SPEED >= fastest]
    return min(as_fast, key=lambda pair: pair[1].size, default=None)


def _cells(best: tuple[str, Side] | None, size: int) -> list[str]:
    """Mode, size, speed and decibels of a file."""
    if best is None:
        return ["-", "-", "-", "-"]
    smaller, faster, quality, _ = _figures(best[1], size).split()
    return [best[0], smaller, faster, quality]
