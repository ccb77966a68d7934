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
import sys
from collections.abc import Iterable
from pathlib import Path

from kernel_bench import children
from kernel_bench.bench import CAPPED, GGML_TYPES, SHAPES, Bench
from kernel_bench.models import RefusedError
from kernel_bench.sheets import header, sheets
from rich.console import Console

import onnxquant
from onnxquant.native import library as native


def _shape(text: str) -> tuple[int, int]:
    k, n = text.split("x")
    return int(k), int(n)


def parse(words: Iterable[str] | None = None) -> argparse.Namespace:
    """Arguments."""
    known = [f.name for f in onnxquant.formats.formats()]
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
