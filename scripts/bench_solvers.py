"""Duration and gain of solvers: one large weight, int4 and its relatives, on this machine.

Prints seconds (the least of the rounds, solvers interleaved), peak memory beyond the weight and its Gram matrix, and the
products' SQNR on inputs that no solver saw.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import onnxquant
from onnxquant.formats import format_named
from onnxquant.solvers import Inputs, solver_named

CASES = (
    ("rtn", "int4"),
    ("mse", "int4"),
    ("mse", "q4_1"),
    ("mse", "nf4"),
    ("hqq", "q4_1"),
    ("gptq", "int4"),
    ("gptq", "q4_0"),
    ("gptq", "nf4"),
)


def problem(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weight, inputs to learn from and others: channels of unlike energy that depend on each other, as in networks."""
    random = np.random.default_rng(0)
    weight = (random.standard_normal((size, size)) * np.exp(random.standard_normal((size, size)) / 2) * 0.02).astype(
        np.float32
    )
    mixing = random.standard_normal((size // 4, size)) * np.exp(random.standard_normal(size) / 2)

    def draw(count: int) -> np.ndarray:
        x = random.standard_normal((count, size // 4)) @ mixing / np.sqrt(size / 4) + 0.3 * random.standard_normal(
            (count, size)
        )
        return np.asarray(x, np.float32)

    return weight, draw(2 * size), draw(512)


def worker(name: str, form: str, size: int) -> None:
    """Solve once in this process, and print what came of it."""
    weight, calibration, held_out = problem(size)
    inputs = Inputs((calibration.T.astype(np.float64) @ calibration)[None], len(calibration))
    solver, chosen = solver_named(name), format_named(form)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    begin = time.perf_counter()
    encoded = solver.solve(chosen, weight, inputs if solver.needs_inputs or name == "mse" else None)
    seconds = time.perf_counter() - begin
    peak = _status("VmHWM") - before
    expected = held_out @ weight.T
    error = held_out @ chosen.decode(encoded).T - expected
    print(
        json.dumps(
            {"seconds": seconds, "peak": peak, "db": 10 * np.log10((expected**2).sum() / (error**2).sum())},
            default=float,
        )
    )


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", nargs=2, metavar=("SOLVER", "FORMAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, form = arguments.worker
        worker(name, form, arguments.size)
        return
    runs_by_case: dict[tuple[str, str], list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(arguments.rounds):
        for case in CASES:
            command = [sys.executable, __file__, "--size", str(arguments.size), "--worker", *case]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs_by_case[case].append(json.loads(done.stdout))
    size, version = arguments.size, onnxquant.__version__
    print(f"{size} x {size} float32; onnxquant {version}, numpy {np.__version__}, {os.cpu_count()} cores\n")
    print("| solver | format | seconds | peak MB | SQNR dB, other inputs |\n|---|---|---|---|---|")
    for (name, form), runs in runs_by_case.items():
        best = min(runs, key=lambda r: r["seconds"])
        print(f"| {name} | {form} | {best['seconds']:.2f} | {best['peak'] / 1e6:.0f} | {best['db']:.2f} |")


if __name__ == "__main__":
    main()
