"""Tables of a run of kernels, for the terminal and for Markdown."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from rich.console import Console

from kernel_bench import machine
from kernel_bench.bench import AVX2, BEYOND, CAPPED, FOREIGN, SHARE, Bench
from kernel_bench.goals import READ, Case, Cell
from onnxquant.report.terminal import table


@dataclass
class Sheet:
    """A table for the terminal and for Markdown; columns that start with > hold figures."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def rich(self, console: Console) -> None:
        """Print it."""
        out = table(self.title, *self.columns)
        for row in self.rows:
            out.add_row(*row)
        console.print(out)

    def markdown(self) -> str:
        """The same as text."""
        lines = [f"### {self.title}", ""]
        lines.append("| " + " | ".join(c.lstrip(">") for c in self.columns) + " |")
        lines.append("|" + "|".join("---:" if c.startswith(">") else "---" for c in self.columns) + "|")
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in self.rows), ""])


def sheets(bench: Bench) -> list[Sheet]:
    """All tables, the goals last."""
    arguments = bench.arguments
    columns = [(m, t) for m in arguments.rows for t in arguments.threads]
    out = [_peaks(bench), _reading(bench)]
    for k, n in arguments.shapes:
        for state in arguments.states:
            measured_names = {name for name, c in bench.cells if (c.k, c.n, c.state) == (k, n, state)}
            names = [n for n in dict.fromkeys(name for name, _ in bench.cells) if n in measured_names]
            rows = []
            for name in (n for n in names if not n.startswith(READ)):
                cells = [bench.cells.get((name, Case(k, n, state, t, m))) for m, t in columns]
                first = next(c for c in cells if c)
                marked = state == "cache" and first.nbytes * first.copies > bench.cache
                rows.append([name + (" (beyond it)" if marked else ""), f"{first.nbytes / 1e6:.2f}", str(first.copies)])
                rows[-1] += [_microseconds(c) for c in cells]
            heads = [f">M={m}, {t}t" for m, t in columns]
            where = "weights inside the last-level cache" if state == "cache" else "weights from memory"
            title = f"K={k} N={n}, {where}: microseconds per product"
            if rows:
                out.append(Sheet(title, ["kernel", ">MB", ">weights", *heads], rows))
    return [*out, _goals(bench)]


def _microseconds(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.seconds * 1e6:.4g}" + ("*" if cell.foreign > FOREIGN else "")


def _peaks(bench: Bench) -> Sheet:
    names = {
        "int8": "integer, best vectors",
        "blocks": "the same, each 32 scaled",
        "avx2": "integer, AVX2 without VNNI",
        "amx": "integer, AMX",
        "fma": "float",
    }
    heads = [f">{t} thread(s)" for t in bench.arguments.threads]
    rows = [
        [names[unit], *(f"{rates[t] / 1e9:.0f}" if t in rates else "-" for t in bench.arguments.threads)]
        for unit, rates in bench.rates.items()
        if rates
    ]
    return Sheet("Peaks: 10^9 multiply-accumulates per second", ["unit", *heads], rows)


def _reading(bench: Bench) -> Sheet:
    rates: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (name, case), cell in bench.cells.items():
        if name.startswith(READ):
            rates[cell.nbytes][case.threads].append(cell.nbytes / cell.seconds / 1e9)
    threads = bench.arguments.threads
    rows = [
        [
            f"{size / 2**20:.0f} MiB",
            *(f"{median(rates_by_threads[t]):.1f}" if rates_by_threads[t] else "-" for t in threads),
        ]
        for size, rates_by_threads in sorted(rates.items())
    ]
    return Sheet("Reading: GB/s", ["buffer", *(f">{t} thread(s)" for t in threads)], rows)


def _goals(bench: Bench) -> Sheet:
    rows = []
    for o in bench.outcomes():
        rival = "read rate" if o.goal.baselines == (READ,) else " or ".join(b.strip() for b in o.goal.baselines)
        states = [f"{o.by_state[s]:.2f}" if s in o.by_state else "-" for s in ("cache", "memory")]
        figures = [f"{o.goal.target:g}", f"{o.reached:.2f}", *states, f"{o.worst:.2f}", f"{o.bound:.2f}", str(o.cases)]
        rows.append(
            [
                f"{o.goal.kernel} M={o.goal.m} vs {rival}",
                str(o.threads),
                *figures,
                ("yes" if o.met else "NO") + ("*" if o.foreign > FOREIGN else ""),
            ]
        )
    heads = ["goal", ">threads", ">at least", ">reached", ">in cache", ">memory", ">worst", ">bound", ">cases", "met"]
    return Sheet("Goals: baseline's time / ours, geometric mean over shapes and states", heads, rows)


def header(bench: Bench) -> str:
    """The machine and the versions that were measured."""
    about = machine.describe(bench.arguments.isa)
    ggml = bench.ggml.ask("info").replace(";", ",") if bench.ggml else "left out"
    shared = ", which other guests of the host may share" if about["virtual"] else ""
    lines = [
        f"- {about['cpu']}, {about['cores']} cores{' of a virtual machine' if about['virtual'] else ''}, "
        f"{', '.join(about['features'])}; last-level cache {about['last_level_cache'] >> 20} MiB{shared}; "
        f"Linux {about['kernel']}",
        f"- onnxquant {about['onnxquant']} ({about['isa']}; the library has {', '.join(about['our_instruction_sets'])}), "
        f"onnxruntime {about['onnxruntime']}{' capped to AVX2' if CAPPED in os.environ else ''}, onnx {about['onnx']}, "
        f"numpy {about['numpy']}, Python {about['python']}, {about['compiler']}",
        f"- {ggml}",
        f"- in cache: weights take at most {SHARE:.0%} of the last-level cache (one weight at least); memory: "
        f"{BEYOND} times the cache. MatMulNBits: accuracy level 4, block 32, no zero points",
        f"- {AVX2.strip()}: our library capped to AVX2, the baselines not; *: others used more than {FOREIGN:.0%} of a CPU",
        "- bound: the ratio at which our kernel reaches the measured read rate of its bytes or the measured integer "
        "peak (the one with scales, where a format has one per 32 weights)",
    ]
    errors = ", ".join(f"{name} {error:.3f}" for name, error in bench.errors.items())
    lines.append(f"- relative error of a product with our kernels against float: {errors}")
    lines += [f"- {note}" for note in dict.fromkeys(bench.notes)]
    reasons: dict[str, list[str]] = defaultdict(list)
    for what, why in bench.refused.items():
        reasons[why].append(what)
    lines += [f"- not measured: {'; '.join(what)}: {why}" for why, what in reasons.items()]
    return "\n".join(lines) + "\n"
