"""Every format's product beside onnxruntime's own quantized kernels and ggml's, in one interleaved run, and the goals.

A kernel is timed on a graph of independent products of one X, with weights at distinct addresses: so few that they
stay in the last-level cache (state ``cache``; a float weight may be too large for that), or so many that they never do
(``memory``; at M = 128 as few as in the cache, but run once after other data has filled it). Quantizing X is part of
the time. A round runs all kernels in random order; times are medians over rounds, ratios medians of the ratios within
rounds. A round waits for an idle machine, and is repeated when others used it meanwhile. What the machine can do at
most (reading, integer and float multiply-accumulates) is measured in the same run.

ggml is built once, from the source package of llama-cpp-python (pip fetches it; needs cmake and g++). ``--isa avx2`` caps
all three: our library, a copy of onnxruntime whose CPU query answers AVX2, and a ggml built for AVX2.

    python scripts/bench_kernels.py --json kernels.json --markdown kernels.md
    python scripts/bench_kernels.py --quick --formats q4_0 q8_0
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any, Protocol

import onnx
from kernel_bench import children, goals, machine, models
from kernel_bench.goals import READ, Case, Cell, Outcome
from kernel_bench.models import RefusedError
from rich.console import Console

import onnxquant
from onnxquant.native import kernels
from onnxquant.native import library as native
from onnxquant.report.terminal import table

SHAPES = ["4096x4096", "2048x8192", "576x1536"]
GGML_TYPES = ["f32", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_K", "q5_K", "q6_K", "tq2_0"]
ROUNDS = {1: 7, 8: 5, 128: 3}
SHARE = 0.6  # of the last-level cache that weights may take in state ``cache``
BEYOND = 3  # times the last-level cache that they take in state ``memory``
SMALL_BLOCK = 32  # weights that share a scale, at most, for the peak with scales to bound a kernel
FOREIGN = 0.15  # CPUs that others may use during a round
CAPPED = "ONNXQUANT_BENCH_CAPPED"  # set in the process that runs on the capped onnxruntime
AVX2 = " @avx2"
COLD = 32  # rows from which state ``memory`` is one run after the cache was filled with something else


class Loaded(Protocol):
    """Weights in memory, ready to be multiplied by."""

    copies: int
    nbytes: int

    def run(self, m: int, warm: int, runs: int) -> list[float]:
        """Seconds per product of each timed run."""


@dataclass
class Bench:
    """One run: what is asked, the programs that measure, and what was found."""

    arguments: argparse.Namespace
    peaks: children.Child
    ggml: children.Child | None
    cells: dict[tuple[str, Case], Cell] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rates: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))

    def __post_init__(self) -> None:
        self.cache = machine.last_level_cache()
        self.load = machine.Load([c.process.pid for c in (self.peaks, self.ggml) if c])
        self.console = Console(stderr=True)

    def run(self, save: Callable[[Bench], None]) -> None:
        """Measure everything; save what there is after each group of cells."""
        begin = time.perf_counter()
        for k, n in self.arguments.shapes:
            templates = self.templates(k, n)
            for threads in self.arguments.threads:
                for state in self.arguments.states:
                    self.group(templates, Case(k, n, state, threads, 0))
                    save(self)
                    done = f"{k}x{n}, {threads} thread(s), {state}"
                    self.console.print(f"[dim]{done}: done after {time.perf_counter() - begin:.0f} s[/dim]")

    def templates(self, k: int, n: int) -> dict[str, onnx.ModelProto]:
        """Models of one product for every kernel that runs in onnxruntime."""
        templates: dict[str, onnx.ModelProto] = {}
        for name in self.arguments.formats:
            for compute in self.arguments.compute:
                label = name if compute == "default" else f"{name} {compute}"
                try:
                    templates[label] = models.ours(name, k, n, None if compute == "default" else compute)
                except RefusedError as refusal:
                    self.refused[f"{label}, {k}x{n}"] = str(refusal)
        if self.arguments.baselines:
            templates |= {name: make(k, n) for name, make in models.BASELINES.items()}
        return templates

    def group(self, templates: Mapping[str, onnx.ModelProto], case: Case) -> None:
        """Time all kernels on one shape, in one state, at one number of threads."""
        size = self.working_set(case.state, len(templates) + len(GGML_TYPES) * 2)
        if size is None:
            return
        self.measure_peaks(case.threads)
        loaded: dict[str, Loaded] = {}
        for name, proto in templates.items():
            copies = self.copies(models.weight_bytes(proto), size, case.state)
            try:
                session = models.open_copies(proto, copies, case.threads)
            except onnxquant.OnnxQuantError as error:
                self.refused[f"{name}, {case.k}x{case.n}"] = str(error)
                continue
            loaded[name] = session
            if name.split()[0] in self.arguments.formats:
                if name not in self.errors:
                    self.errors[name] = models.relative_error(session, case.k, case.n)
                if self.arguments.isa is None and "avx2" in native.isas()[:-1]:
                    loaded[name + AVX2] = replace(session, isa="avx2", bindings={})
        loaded |= self.ggml_products(case, size)
        reading = {self.reading(c.copies * c.nbytes, case.threads) for c in loaded.values()}
        loaded |= {f"{READ} {s}": children.Reading(self.peaks, s, case.threads) for s in sorted(reading)}
        for m in self.arguments.rows:
            few = m == min(self.arguments.rows)
            timed = {n: c for n, c in loaded.items() if few or not (n.endswith(AVX2) or n.startswith(READ))}
            if m < COLD:
                self.measure(timed, replace(case, m=m))
            elif case.state == self.arguments.states[0]:
                for state in self.arguments.states:
                    self.measure(timed, replace(case, m=m, state=state))
        if self.ggml:
            self.ggml.ask("free")

    def measure_peaks(self, threads: int) -> None:
        """Multiply-accumulates per second; the best of all measurements counts."""
        for unit in ("int8", "blocks", "avx2", "amx", "fma"):
            try:
                rate = float(self.peaks.ask(unit, threads))
            except RefusedError:
                continue
            self.rates[unit][threads] = max(rate, self.rates[unit].get(threads, 0.0))

    def wait(self, until: float) -> None:
        """Let others finish what they do, until a time at most."""
        while time.perf_counter() < until:
            self.load.restart()
            time.sleep(0.2)
            if self.load.foreign() <= FOREIGN:
                return

    def working_set(self, state: str, kernels: int) -> int | None:
        """Bytes of weights of one kernel; None where memory does not suffice to leave the cache."""
        if state == "cache":
            return int(SHARE * self.cache)
        # Sessions hold a weight up to three times: as given, prepacked, and in pages the C library keeps.
        most = int(0.7 * machine.available_memory() / 3 / kernels)
        if most < 1.5 * self.cache:
            self.notes.append(
                f"state memory left out: {kernels} kernels with weights beyond the cache need more memory"
            )
            return None
        return min(BEYOND * self.cache, most)

    @staticmethod
    def copies(nbytes: int, size: int, state: str) -> int:
        """Weights of a kernel."""
        return max(1, size // nbytes) if state == "cache" else -(-size // nbytes)

    @staticmethod
    def reading(nbytes: int, threads: int) -> int:
        """Size of the buffer that stands for a working set."""
        step = (2 if nbytes < 64 << 20 else 32) << 20
        return max(step, round(nbytes / step) * step)

    def ggml_products(self, case: Case, size: int) -> dict[str, Loaded]:
        """Whatever ggml multiplies by, in each of its buffer types."""
        products: dict[str, Loaded] = {}
        if not self.ggml:
            return products
        kinds = self.ggml.ask("info").split(";")[1].split()
        for kind in self.arguments.ggml_types:
            for buffer in kinds:
                name = f"ggml {kind} {buffer}"
                words = name.replace(" ", "/"), kind, buffer, case.k, case.n
                try:
                    nbytes = int(self.ggml.ask("load", *words, 1, case.threads))
                    copies = self.copies(nbytes, size, case.state)
                    label = f"{words[0]}/{copies}"
                    self.ggml.ask("load", label, *words[1:], copies, case.threads)
                except RefusedError as refusal:
                    self.refused[f"{name}, {case.k}x{case.n}"] = str(refusal)
                    continue
                products[name] = children.Products(self.ggml, label, copies, nbytes)
        return products

    def measure(self, loaded: Mapping[str, Loaded], case: Case) -> None:
        """Interleaved rounds of everything that is loaded."""
        budget, rounds = self.arguments.budget, self.arguments.rounds or ROUNDS.get(case.m, 3)
        cold = case.m >= COLD and case.state == "memory"
        plan: dict[str, tuple[int, int]] = {}
        for name, kernel in loaded.items():
            seconds = 0.0 if cold else kernel.run(case.m, int(case.m == 1), 1)[0] * kernel.copies
            runs = 1 if cold else max(1, min(50, int(budget / max(seconds, 1e-6))))
            plan[name] = int(not cold and (case.state == "cache" or seconds < budget)), runs
        taken: list[tuple[float, dict[str, float]]] = []
        begin, order = time.perf_counter(), random.Random(0)
        while len(taken) < 3 * rounds and sum(f <= FOREIGN for f, _ in taken) < rounds:
            if len(taken) >= rounds and time.perf_counter() - begin > self.arguments.patience:
                break
            self.wait(begin + self.arguments.patience)
            self.load.restart()
            times = {}
            for name in order.sample(list(plan), len(plan)):
                if cold:
                    self.peaks.ask("read", BEYOND * self.cache, 1, 0, 1)
                times[name] = median(loaded[name].run(case.m, *plan[name]))
            taken.append((self.load.foreign(), times))
        quietest = sorted(taken, key=lambda t: t[0])[:rounds]
        foreign = mean(f for f, _ in quietest)
        for name, kernel in loaded.items():
            times_of = tuple(t[name] for _, t in quietest)
            self.cells[name, case] = Cell(times_of, kernel.nbytes, kernel.copies, foreign)

    def read_seconds(self, name: str, case: Case) -> float:
        """Seconds in which this machine reads a kernel's weight, from buffers of its working set."""
        cell, first = self.cells[name, case], replace(case, m=min(self.arguments.rows))
        if case.m >= COLD and case.state == "memory":
            group = [replace(first, state=s) for s in self.arguments.states]
            sweeps = [c for (n, where), c in self.cells.items() if n.startswith(READ) and where in group]
            sweep = max(sweeps, key=lambda c: c.nbytes)
        else:
            sweep = self.cells[f"{READ} {self.reading(cell.nbytes * cell.copies, case.threads)}", first]
        return cell.nbytes * sweep.seconds / sweep.nbytes

    def compute_seconds(self, name: str, case: Case) -> float:
        """Seconds of the multiply-accumulates at the measured integer peak, with scales where a format has many."""
        capped = name.endswith(AVX2) or self.arguments.isa == "avx2"
        unit = "avx2" if capped else "amx" if self.rates["amx"] else "int8"
        if unit == "int8" and self.rates["blocks"] and kernels.geometry(name.split()[0]).max_block <= SMALL_BLOCK:
            unit = "blocks"
        return case.m * case.k * case.n / self.rates[unit][case.threads]

    def outcomes(self) -> list[Outcome]:
        """The goals that were measured."""
        ours = sorted({n for n, _ in self.cells if n.split()[0] in self.arguments.formats})
        has_amx = bool(self.rates["amx"]) and self.arguments.isa is None
        capped = [n for n in ours if " float32" not in n and (self.arguments.isa == "avx2" or n.endswith(AVX2))]
        asked = ([] if self.arguments.isa == "avx2" else goals.GOALS) + goals.avx2_goals(capped)
        outcomes = []
        for goal in asked:
            if goal.amx in (None, has_amx):
                for threads in self.arguments.threads:
                    outcomes.append(goals.judge(goal, threads, self.cells, self.read_seconds, self.compute_seconds))
        return [o for o in outcomes if o]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return {
            "machine": machine.describe(self.arguments.isa),
            "ggml": self.ggml.ask("info") if self.ggml else None,
            "macs_per_second": self.rates,
            "refused": self.refused,
            "relative_errors": self.errors,
            "notes": self.notes,
            "cells": [
                {"kernel": name, **asdict(case), **asdict(cell), "seconds": cell.seconds}
                for (name, case), cell in self.cells.items()
            ],
            "goals": [{**asdict(o), "met": o.met} for o in self.outcomes()],
        }


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


def _shape(text: str) -> tuple[int, int]:
    k, n = text.split("x")
    return int(k), int(n)


def parse(words: Iterable[str] | None = None) -> argparse.Namespace:
    """Arguments."""
    known = [f.name for f in onnxquant.formats()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", default=known, choices=known, metavar="NAME", help="ours; default: all")
    parser.add_argument(
        "--compute", nargs="*", default=["default"], choices=["default", "int8", "float32"], help="of our products"
    )
    parser.add_argument("--shapes", nargs="*", type=_shape, default=[_shape(s) for s in SHAPES], metavar="KxN")
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 8, 128], help="rows of X (M)")
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--states", nargs="*", default=["cache", "memory"], choices=["cache", "memory"])
    parser.add_argument("--rounds", type=int, help="default: 7, 5, 3 for M = 1, 8, 128")
    parser.add_argument("--budget", type=float, default=0.012, help="seconds of a kernel within a round")
    parser.add_argument("--patience", type=float, default=10, help="seconds to wait for a quiet machine, per case")
    parser.add_argument(
        "--isa", default=os.environ.get("ONNXQUANT_ISA"), help="cap our library; avx2 caps onnxruntime and ggml too"
    )
    parser.add_argument("--no-baselines", dest="baselines", action="store_false", help="without onnxruntime's kernels")
    parser.add_argument("--ggml-types", nargs="*", default=GGML_TYPES, choices=GGML_TYPES, help="none: without ggml")
    parser.add_argument("--ggml-source", type=Path, help="llama-cpp-python's .tar.gz; default: pip downloads it")
    parser.add_argument("--quick", action="store_true", help="one small shape, one thread, few rounds: below a minute")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    arguments = parser.parse_args(None if words is None else list(words))
    if arguments.quick:
        arguments.shapes, arguments.threads, arguments.rounds = [(576, 1536)], [1], 2
        arguments.budget, arguments.patience = 0.003, 0
    return arguments


def restart_capped() -> None:
    """Run this again on an onnxruntime that knows AVX2 only."""
    folders = [str(children.capped_onnxruntime()), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, CAPPED: "1", "PYTHONPATH": os.pathsep.join(f for f in folders if f)}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def save(bench: Bench) -> None:
    """Write the files that were asked for."""
    if path := bench.arguments.json:
        path.write_text(json.dumps(bench.to_dict(), indent=1))
    if path := bench.arguments.markdown:
        path.write_text("\n".join([header(bench), *(s.markdown() for s in sheets(bench))]))


def main() -> None:
    """Measure, print, save."""
    arguments = parse()
    if arguments.isa == "avx2" and CAPPED not in os.environ:
        try:
            restart_capped()
        except RefusedError as refusal:
            print(f"onnxruntime is not capped: {refusal}", file=sys.stderr)
    if arguments.isa:
        native.set_isa(arguments.isa)
    peaks = children.Child(children.peaks_program())
    ggml = None
    if arguments.ggml_types:
        ggml = children.Child(children.ggml_program(arguments.ggml_source, avx2=arguments.isa == "avx2"))
    bench = Bench(arguments, peaks, ggml)
    bench.run(save)
    console = Console()
    console.width = max(console.width, 150)
    console.print(header(bench), markup=False, highlight=False)
    for sheet in sheets(bench):
        sheet.rich(console)
    for child in filter(None, (peaks, ggml)):
        child.close()


if __name__ == "__main__":
    main()
