"""Speed of encoding weights in every format: GB of float32 per second, statistics included.

Rows: the weight is contiguous along the contracted axis. Columns: along the output channels, as MatMul weights are stored.
The planes are encoded, decoded and, in the last columns, compared with the numpy reference of this package and with gguf's
own quantizer where it has the format. Runs are interleaved; each figure is a median.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import gguf
import numpy as np
from rich.console import Console
from rich.table import Table

from onnxquant.formats import format_named, formats
from onnxquant.formats.base import Format
from onnxquant.native import encoders as encoder
from onnxquant.native import library as native
from onnxquant.native.jobs import Execution

GGUF = {
    name: getattr(gguf.GGMLQuantizationType, name.upper())
    for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0")
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("int8", {"per_channel": True}),
    ("int4", {"symmetric": False}),
    ("int4", {"symmetric": False, "zero_point": "float"}),
    ("nf4", {"double_quant": True}),
    ("nf4", {"stochastic": 1}),
    ("dynamic8", {"stochastic": 1}),
]


def cases(only: list[str]) -> list[tuple[str, Format]]:
    """Every format, and variants with code of their own, by label."""
    every = [(form.name, form) for form in formats()]
    every += [(" ".join([n, *p]), format_named(n, **p)) for n, p in VARIANTS]
    return [(label, form) for label, form in every if not only or form.name in only]


def tasks(form: Format, weight: np.ndarray[Any, Any], isa: str) -> dict[str, Callable[[], Any]]:
    """Functions to time, by column of the table."""
    columns = np.asfortranarray(weight)
    encoded, _ = encoder.encode(form, weight)
    out: dict[str, Callable[[], Any]] = {
        "rows": lambda: encoder.encode(form, weight, execution=Execution(1, isa)),
        "columns": lambda: encoder.encode(form, columns, execution=Execution(1, isa)),
        "two_threads": lambda: encoder.encode(form, weight, execution=Execution(2, isa)),
        "decode": lambda: encoder.decode(encoded, Execution(1, isa)),
        "numpy": lambda: form.encode(weight),
    }
    if form.name in GGUF:
        out["gguf"] = lambda: gguf.quants.quantize(weight, GGUF[form.name])
    return out


def rates(form: Format, weight: np.ndarray[Any, Any], isa: str, runs: int) -> dict[str, float]:
    """GB per second of each task."""
    todo = tasks(form, weight, isa)
    times: dict[str, list[float]] = {name: [] for name in todo}
    for turn in range(runs):
        for name, task in todo.items():
            if name in ("numpy", "gguf") and turn % 4:
                continue  # slow, and only a ratio
            begin = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - begin)
    return {name: weight.nbytes / median(seconds) / 1e9 for name, seconds in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", help="names; none: all")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--cols", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--isa", default="", choices=["", *native.isas()])
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    weight = np.random.default_rng(0).normal(scale=0.02, size=(arguments.rows, arguments.cols)).astype(np.float32)
    isa = arguments.isa or native.isas()[-1]
    console = Console()
    table = Table(title=f"GB/s of float32 [{arguments.rows}, {arguments.cols}], {isa}, {os.cpu_count()} CPUs")
    table.add_column("format")
    for heading in ("rows", "columns", "2 threads", "decode", "numpy", "x numpy", "x gguf"):
        table.add_column(heading, justify="right")
    speeds = []
    for label, form in cases(arguments.formats):
        rate = rates(form, weight, isa, arguments.runs)
        speeds.append({"format": label, **rate})
        times_gguf = f"{rate['rows'] / rate['gguf']:.0f}" if "gguf" in rate else ""
        table.add_row(
            label,
            *(f"{rate[name]:.2f}" for name in ("rows", "columns", "two_threads", "decode")),
            f"{rate['numpy']:.3f}",
            f"{rate['rows'] / rate['numpy']:.0f}",
            times_gguf,
        )
    console.print(table)
    if arguments.json:
        shape = [arguments.rows, arguments.cols]
        arguments.json.write_text(json.dumps({"shape": shape, "isa": isa, "gb_per_second": speeds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
