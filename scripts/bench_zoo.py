"""Models that nobody tuned for, through five ways of quantizing, beside onnxruntime's own quantizers.

    python scripts/fetch_models.py --catalogue models/zoo.toml
    python scripts/bench_zoo.py --out zoo.jsonl
    python scripts/bench_zoo.py --out zoo.jsonl --table

Each row is a model in a mode (default, bits4, q4_0, static, dynamic): size, speed (processor time, interleaved, one
thread), SQNR of the worst output on samples that calibration did not see, processor seconds, memory and verdict of ours
and of onnxruntime's quantizer. Rows that are in the file already are not run again. ``--structure`` leaves the speed
out and takes narrow networks: minutes instead of hours. The table names every row that has a flag.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from zoo_bench import league, processes, rows, sources, tools
from zoo_bench.measure import measure
from zoo_bench.sizes import size_of
from zoo_bench.sources import Files, Source
from zoo_bench.tools import Mode

from onnxquant.validation import compare, reference
from onnxquant.validation.footprint import Footprint


def _side(run: processes.Run, output: Path) -> rows.Side:
    lines = [line for line in run.output.splitlines() if line.strip()]
    raised = "Traceback (most recent call last)" in run.output
    return rows.Side(
        run.code, run.late, run.seconds, run.wall, run.peak, size_of(output) if output.exists() else 0,
        verdict=lines[-1].strip()[-300:] if lines and run.code else "", traceback=raised,
    )  # fmt: skip


def _ours(mode: Mode, files: Files, folder: Path, limit: float) -> rows.Side:
    output, report = folder / "ours.onnx", folder / "report.json"
    run = processes.run(partial(tools.ours, mode, files, output, report), folder / "ours.log", limit)
    side = _side(run, output)
    if report.exists():
        verdict = json.loads(report.read_text())["verdict"]
        side = replace(side, verdict=verdict["state"], next=verdict["next"], claim=verdict.get("faster"))
        unseen = verdict.get("unseen")  # what a person is shown instead, where it is known
        decibels = unseen["low_db"] if unseen else verdict.get("worst_sqnr_db")  # infinity is the text "inf"
        side.claim_db, side.claims_mean = None if decibels is None else float(decibels), bool(unseen)
    return side


def _row(source: Source, mode: Mode, files: Files, arguments: argparse.Namespace) -> rows.Row:
    """Quantize by both tools and measure what they wrote."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        row = rows.Row(source.name, mode.name, source.is_real, size_of(files.model), arguments.commit)
        row.ours = _ours(mode, files, folder, arguments.limit)
        if mode.peer:
            convert = partial(mode.peer, files, folder / "peer.onnx")
            run = processes.run(convert, folder / "peer.log", arguments.limit)
            row.peer = _side(run, folder / "peer.onnx")
        sides = {"ours": row.ours, "peer": row.peer}
        outputs = {n: folder / f"{n}.onnx" for n, s in sides.items() if s and s.size}
        result = folder / "measured.json"
        seconds = 0.0 if arguments.structure else arguments.seconds
        job = partial(measure, files, outputs, seconds, result, "peer")
        run = processes.run(job, folder / "measure.log", arguments.limit)
        measured = json.loads(result.read_text()) if result.exists() else {}
        for side_name in outputs:
            figures = measured.get(side_name, {"error": f"exit code {run.code}: {run.output[-200:]}"})
            sides[side_name].__dict__.update(figures)
        row.against_peer = measured.get("ours", {}).get("beside")
    return row


def _run(chosen: list[Source], arguments: argparse.Namespace) -> None:
    """Run what is missing."""
    done = rows.read(arguments.out)
    modes = [m for m in tools.MODES if m.name in arguments.modes]
    for source in chosen:
        left = [m for m in modes if _is_due(done.get(f"{source.name}/{m.name}"), arguments)]
        if not left:
            continue
        with tempfile.TemporaryDirectory() as folder:
            files = source.prepare(Path(folder))
            for mode in left:
                row = _row(source, mode, files, arguments)
                with arguments.out.open("a") as file:
                    file.write(row.to_json() + "\n")
                print(f"{row.key}: {row.ours.verdict[:60]} {', '.join(row.flags())}", flush=True)


def _kind(row: rows.Row) -> str:
    """The choice of ``--only`` that a row belongs to."""
    return "real" if row.is_real else "generated"


def _is_due(row: rows.Row | None, arguments: argparse.Namespace) -> bool:
    return row is None or (arguments.again is not None and bool(re.search(arguments.again, " ".join(row.flags()))))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="REGEX", help="models whose name contains a match (default: all)")
    parser.add_argument("--out", type=Path, default=Path("zoo.jsonl"), help="file of rows")
    parser.add_argument("--only", choices=["real", "generated"], help="leave the others out")
    parser.add_argument("--modes", nargs="*", default=[m.name for m in tools.MODES])
    parser.add_argument("--structure", action="store_true", help="no speed, narrow networks")
    parser.add_argument("--width", type=int, default=0, help="channels of generated networks (default: 32 or 160)")
    parser.add_argument("--limit", type=float, default=300.0, help="processor seconds for one tool on one model")
    parser.add_argument("--seconds", type=float, default=2.0, help="of processor time to measure the speed of one row")
    parser.add_argument("--part", default="0/1", help="I/N: every Nth model from the Ith on, to share the work")
    parser.add_argument("--again", metavar="REGEX", help="run rows once more that have such a flag ('.': any)")
    parser.add_argument("--best", action="store_true", help="print the best file of each model as Markdown, and stop")
    parser.add_argument("--table", action="store_true", help="print the table of the rows that are there, and stop")
    return parser.parse_args()


def main() -> int:
    """Command line; the exit code."""
    arguments = _arguments()
    if not (arguments.table or arguments.best):
        git = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=sources.ROOT, check=False
        )
        arguments.commit = git.stdout.strip()
        if arguments.structure:  # load time and memory take seconds in each proof
            for module in (compare, reference):
                module.footprint = lambda path: Footprint(1.0, 1.0, 1.0)  # type: ignore[attr-defined]
        chosen = [] if arguments.only == "generated" else sources.real()
        if arguments.only != "real":
            chosen += sources.generated(arguments.width or (32 if arguments.structure else 160))
        chosen = [s for s in chosen if not arguments.names or any(re.search(n, s.name) for n in arguments.names)]
        part, parts = map(int, arguments.part.split("/"))
        _run(chosen[part::parts], arguments)
    table = league.best_table if arguments.best else league.table
    shown = [row for row in rows.read(arguments.out).values() if arguments.only in (None, _kind(row))]
    print(table(shown), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
