"""One run of kernels: rounds in random order, each on an idle machine, and the cells they fill."""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import mean, median
from typing import Any, Protocol

import onnx
from rich.console import Console

import onnxquant
from kernel_bench import children, goals, machine, models
from kernel_bench.goals import READ, Case, Cell, Outcome
from kernel_bench.models import RefusedError
from onnxquant.native import kernels
from onnxquant.native import library as native

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
