"""The one-line command beside explicit ways of ours, onnxruntime's own quantizers and NNCF, on the models of the zoo.

    python scripts/fetch_models.py --catalogue models/zoo.toml
    python scripts/bench_choice.py --out choice.jsonl
    python scripts/bench_choice.py --out choice.jsonl --table

Each row is a model: size, speed (processor time, interleaved, one thread), SQNR of the worst part of an output (boxes and
scores are parts of one) on samples that no tool has seen, and seconds of each tool. Rows that are in the file already are
not run again. The table has the choice beside the best of the others that keep the bound, and says where it is slower
(certainly by 3 %: the interval of the ratio of runs that stand beside each other lies above), worse (0.5 dB and below the
bound) or larger (5 %). NNCF takes part where it is installed. With ``--files`` the
files of the other tools are made once and kept: a further run makes that of the choice alone, and measures all again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from zoo_bench import processes, sources, tools
from zoo_bench.measure import feeds_of, measure
from zoo_bench.sizes import size_of
from zoo_bench.sources import Files, Source
from zoo_bench.tools import Mode

from onnxquant.errors import ModelError
from onnxquant.numerics.score import GOOD_DB

CHOICE = "quantize --data"
# Samples of each model: for the tools, and for the judgement.
CALIBRATION, TEST = 32, 12
OURS = (
    Mode(CHOICE, (), True),
    Mode("int8 weights", ("--format", "int8"), True),
    Mode("dynamic", ("--activations", "dynamic"), True),
    Mode("static", ("--activations", "static"), True),
    Mode("int4", ("--bits", "4"), True),
)
_SLOWER, _WORSE_DB, _LARGER = 1.03, 0.5, 1.05


@dataclass
class Side:
    """The result of one tool.

    Attributes:
        seconds: time on the clock.
        size: bytes of the file; 0 where there is none.
        sqnr_db: SQNR of the worst part of an output on this CPU; None where nothing can be compared.
        speed: speed as a multiple of float's; None where it was not measured.
        beside: speed as a multiple of the choice's: median over rounds, and the ends of its 95 % interval.
        way: the way that was chosen, of the choice alone.
        error: why there is no file or no figure.
        processor: seconds of a processor, which do not count what else the machine does.
    """

    seconds: float
    size: int = 0
    sqnr_db: float | None = None
    speed: float | None = None
    way: str = ""
    error: str = ""
    processor: float = 0.0
    beside: tuple[float, float, float] | None = None

    @property
    def keeps(self) -> bool:
        """Whether the file keeps the usual bound."""
        return self.size > 0 and self.speed is not None and (self.sqnr_db is None or self.sqnr_db >= GOOD_DB)


@dataclass
class Row:
    """A model with the results of all tools."""

    model: str
    size: int
    sides: dict[str, Side] = field(default_factory=dict)

    @classmethod
    def from_json(cls, line: str) -> Row:
        """The row in a line of a file of rows."""
        data = json.loads(line)
        return cls(data["model"], data["size"], {name: Side(**side) for name, side in data["sides"].items()})

    def flags(self) -> list[str]:
        """The respects in which another tool's file is better."""
        chosen = self.sides[CHOICE]
        others = {name: side for name, side in self.sides.items() if name != CHOICE and side.keeps}
        if chosen.speed is None:
            return [f"no file: {chosen.error[:60]}"]
        out = []
        faster = {name: side.beside for name, side in others.items() if side.beside and side.beside[1] > _SLOWER}
        if faster:
            fastest = max(faster, key=faster.__getitem__)
            ratio, low, high = faster[fastest]
            out.append(f"slower than {fastest}, which is {ratio:.2f}x as fast ({low:.2f} to {high:.2f})")
        best = max((side.sqnr_db or 0.0 for side in others.values()), default=0.0)
        own = chosen.sqnr_db
        if own is not None and own < GOOD_DB and own < best - _WORSE_DB:
            out.append(f"worse: {own:.1f} of {best:.1f} dB")
        smallest = min((side.size for side in others.values()), default=chosen.size)
        if chosen.size > smallest * _LARGER:
            out.append(f"larger by {chosen.size / smallest - 1:.0%}")
        return out


def nncf(files: Files, output: Path) -> None:
    """nncf.quantize with its defaults."""
    import nncf  # only where it is installed

    onnx.save(nncf.quantize(onnx.load(files.model), nncf.Dataset(list(feeds_of(files.calibration)))), output)


def peers() -> dict[str, Callable[[Files, Path], None]]:
    """Other tools by name."""
    ort: dict[str, Callable[[Files, Path], None]] = {
        "onnxruntime static": tools.static,
        "onnxruntime dynamic": tools.dynamic,
    }
    return {**ort, **({"nncf": nncf} if importlib.util.find_spec("nncf") else {})}


def row_of(source: Source, files: Files, arguments: argparse.Namespace) -> Row:
    """Quantize by all tools, and measure what they wrote."""
    row = Row(source.name, size_of(files.model))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs: dict[str, Callable[[], None]] = {
            mode.name: partial(tools.ours, mode, files, _place(folder, mode.name), folder / f"{i}.json")
            for i, mode in enumerate(OURS)
        }
        jobs |= {peer: partial(convert, files, _place(folder, peer)) for peer, convert in peers().items()}
        archive = arguments.files / source.name if arguments.files else folder / "kept"
        for tool, job in jobs.items():
            row.sides[tool] = side_of(tool, job, folder, archive, arguments.limit)
        if (report := folder / "0.json").exists():
            row.sides[CHOICE].way = json.loads(report.read_text())["choice"]["chosen"]
        outputs = {tool: _place(folder, tool) for tool, side in row.sides.items() if side.size}
        result = folder / "measured.json"
        processes.run(partial(measure, files, outputs, arguments.seconds, result, CHOICE), folder / "log", arguments.limit)
        figures = json.loads(result.read_text()) if result.exists() else {}
    for tool, figure in figures.items():
        side = row.sides[tool]
        side.error, side.sqnr_db = figure["error"], figure["part_db"]
        side.speed, side.beside = figure["speed"][0] if figure["speed"] else None, figure["beside"]
    return row


def side_of(tool: str, job: Callable[[], None], folder: Path, archive: Path, limit: float) -> Side:
    """The file of one tool in a folder: made, or, but for the choice, the one that was kept."""
    output, record = _place(folder, tool), _place(archive, tool).with_suffix(".json")
    if tool != CHOICE and record.exists():
        side = Side(**json.loads(record.read_text()))
        if side.size:
            shutil.copy(_place(archive, tool), output)
        return side
    run = processes.run(job, folder / "log", limit)
    side = Side(run.wall, processor=run.seconds)
    try:
        side.size = size_of(output) if output.exists() else 0
    except ModelError as error:  # what a tool wrote is no model
        output.unlink()
        side.error = str(error)[:200]
    if not side.size and not side.error:
        side.error = (run.output.strip().splitlines() or [f"exit code {run.code}"])[-1][:200]
    archive.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(asdict(side)))
    if side.size:
        shutil.copy(output, _place(archive, tool))
    return side


def _place(folder: Path, tool: str) -> Path:
    return folder / f"{tool.replace(' ', '_')}.onnx"


def table(rows: Mapping[str, Row]) -> str:
    """The rows as a Markdown table, and the median and largest time of the choice."""
    lines = [
        "| model | chosen | size | speed | worst part | seconds | of a processor | best other that keeps the bound | flags |",
        "|---|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for row in rows.values():
        chosen = row.sides[CHOICE]
        others = {name: side for name, side in row.sides.items() if name != CHOICE and side.keeps}
        best = max(others, key=lambda name: others[name].speed or 0.0, default="")
        other = f"{best}: {_figures(others[best])}" if best else "none"
        size, speed, ratio = _columns(chosen)
        flags = "; ".join(row.flags())
        lines.append(
            f"| {row.model} | {chosen.way or chosen.error[:40]} | {size} | {speed} | {ratio} | {chosen.seconds:.0f} | "
            f"{chosen.processor:.0f} | {other} | {flags} |"
        )
    if sides := [row.sides[CHOICE] for row in rows.values()]:
        good = sum(not row.flags() for row in rows.values())
        clock, processor = [side.seconds for side in sides], [side.processor for side in sides]
        times = f"{np.median(clock):.0f} s on the clock, {np.median(processor):.0f} s of a processor"
        longest = f"{max(clock):.0f} s and {max(processor):.0f} s"
        lines += ["", f"{good} of {len(rows)} models without a flag; median {times}, longest {longest}"]
    return "\n".join(lines)


def _columns(side: Side) -> tuple[str, str, str]:
    """Size, speed and quality as texts."""
    return (
        f"{side.size / 1e6:.3g} MB" if side.size else "",
        "" if side.speed is None else f"{side.speed:.2f}x",
        "" if side.sqnr_db is None else f"{side.sqnr_db:.1f} dB",
    )


def _figures(side: Side) -> str:
    return ", ".join(text for text in _columns(side) if text)


def main() -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="REGEX", help="models whose name contains a match (default: all)")
    parser.add_argument("--out", type=Path, default=Path("choice.jsonl"), help="file of rows")
    parser.add_argument("--files", type=Path, help="folder that keeps the files of the other tools (default: none)")
    parser.add_argument("--limit", type=float, default=600.0, help="processor seconds for one tool on one model")
    parser.add_argument("--seconds", type=float, default=4.0, help="of processor time to measure the speeds of one model")
    parser.add_argument("--table", action="store_true", help="print the table of the rows that are there, and stop")
    arguments = parser.parse_args()
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    rows = {row.model: row for row in map(Row.from_json, lines)}
    sources.CALIBRATION, sources.TEST = CALIBRATION, TEST
    chosen = [] if arguments.table else sources.real()
    for source in chosen:
        if source.name in rows or (arguments.names and not any(re.search(n, source.name) for n in arguments.names)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = rows[source.name] = row_of(source, source.prepare(Path(folder)), arguments)
        with arguments.out.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(f"{row.model}: {row.sides[CHOICE].way} {_figures(row.sides[CHOICE])} {'; '.join(row.flags())}", flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
