"""Real models through formats and targets: size, error, speed at several batches, load time and memory beside float's.

Prints Markdown (docs/benchmarks.md holds its output). Models come from scripts/fetch_models.py; those that are not
fetched are left out and named. Latencies of all variants of a model are interleaved in one run; medians are shown.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import tempfile
import time
import tomllib
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

import onnxquant

MODELS = Path(__file__).resolve().parents[1] / "models"
VARIANTS: list[dict[str, Any]] = [
    {"format": f, "target": t} for f in ("int8", "int4", "q4_0") for t in ("auto", "onnx", "ort", "custom")
]
DEFAULT = [
    "mobilenet_v2",
    "efficientnet_lite0",
    "open_nsfw",
    "ppocr_rec",
    "minilm_l6",
    "minimol",
    "silero_vad",
    "ddddocr",
]
SAMPLES = 4
Feed = dict[str, NDArray[Any]]


def feeds_of(name: str, entry: dict[str, Any], path: Path) -> list[Feed]:
    """Real samples where the catalogue has them, else seeded ones in its ranges."""
    stored = path.parent / "feeds.npz"
    if stored.exists():
        with np.load(stored) as data:
            return [{k: data[k][i : i + 1] for k in data.files} for i in range(SAMPLES)]
    session = ort.InferenceSession(path)
    generator = np.random.default_rng(0)
    dims, ranges, shapes = entry.get("dims", {}), entry.get("ranges", {}), entry.get("shapes", {})
    feeds: list[Feed] = []
    for _ in range(SAMPLES):
        feed: Feed = {}
        for spec in session.get_inputs():
            shape = shapes.get(spec.name) or [d if isinstance(d, int) else dims[d] for d in spec.shape]
            low, high = ranges.get(spec.name, (-1, 1))
            if "int" in spec.type:
                kind = np.int64 if "64" in spec.type else np.int32
                feed[spec.name] = generator.integers(low, high + 1, shape).astype(kind)
            else:
                feed[spec.name] = generator.uniform(low, high, shape).astype(np.float32)
        feeds.append(feed)
    return feeds


def batched(session: ort.InferenceSession, feed: Feed, batch: int) -> Feed | None:
    """The sample repeated along open first axes; None where the model does not take it."""
    out: Feed = {}
    for spec in session.get_inputs():
        open_axis = len(spec.shape) > 1 and not isinstance(spec.shape[0], int)
        out[spec.name] = np.concatenate([feed[spec.name]] * batch) if open_axis else feed[spec.name]
    if batch > 1 and all(out[k].shape == feed[k].shape for k in feed):
        return None
    try:
        session.run(None, out)
    except Exception:  # onnxruntime's exceptions share no base class
        return None
    return out


def speed(files: dict[str, Path], feed: Feed, batch: int, threads: int, seconds: float) -> dict[str, float] | None:
    """Median seconds per call of each file, interleaved."""
    sessions = {}
    for name, path in files.items():
        options: dict[str, Any] = {"intra_op_num_threads": threads, "log_severity_level": 4}
        sessions[name] = onnxquant.load(path, **options)
    fed = batched(sessions["float"], feed, batch)
    if fed is None:
        return None
    for session in sessions.values():
        session.run(None, fed)
    times: dict[str, list[float]] = {name: [] for name in files}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["float"]) < 5:
        for name, session in sessions.items():
            begin = time.perf_counter()
            session.run(None, fed)
            times[name].append(time.perf_counter() - begin)
    return {name: median(t) for name, t in times.items()}


def bench(name: str, entry: dict[str, Any], path: Path, folder: Path, arguments: argparse.Namespace) -> None:
    """Print one model's rows."""
    feeds = feeds_of(name, entry, path)
    rows, files = [], {"float": path}
    for variant in VARIANTS:
        label = f"{variant['format']} {variant['target']}"
        output = folder / f"{name}.{label.replace(' ', '.')}.onnx"
        try:
            report = onnxquant.quantize(path, output, data=feeds, samples=SAMPLES, force=True, **variant)
        except onnxquant.ModelError:
            rows.append(f"| {name} | {label} | refused |||||||")
            continue
        proof = report.proof
        assert proof and proof.loading
        worst = {p: min((e.sqnr_db for e in proof.outputs.get(p, {}).values()), default=math.nan)
                 for p in ("float vs twin", "twin vs exact", "twin vs library exact", "float vs deployed")}  # fmt: skip
        encoded = report.encoded
        before = sum(s.decision.float_bytes for s in encoded)
        weights = before / max(sum(s.decision.nbytes for s in encoded), 1)
        before_load, load = proof.loading.original, proof.loading.quantized
        predicted = abs((report.predicted_bytes or 0) / (report.output_bytes or 1) - 1)
        rows.append(
            f"| {name} | {label} | {len(encoded)} | {proof.sizes.ratio:.2f} | {weights:.2f} | {predicted:.3%} | "
            f"{worst['float vs twin']:.1f} | {_exact(worst)} | {worst['float vs deployed']:.1f} | "
            f"{load.seconds / before_load.seconds:.2f} | {load.resident_bytes / before_load.resident_bytes:.2f} |"
            + ("" if report.passed else " **FAILED** " + "; ".join(report.problems))
        )
        if variant["target"] == "auto":
            files[label] = output
    print("\n".join(rows), flush=True)
    for threads in arguments.threads:
        for batch in arguments.batches:
            times = speed(files, feeds[0], batch, threads, arguments.seconds)
            if times:
                ratios = ", ".join(f"{k} {v / times['float']:.2f}" for k, v in times.items() if k != "float")
                where = f"{name}, batch {batch}, {threads} thread(s)"
                arguments.notes.append(f"{where}: float {1e3 * times['float']:.2f} ms; time over float's: {ratios}")


def _exact(worst: dict[str, float]) -> str:
    values = [worst[p] for p in ("twin vs exact", "twin vs library exact") if worst[p] == worst[p]]
    return "exact" if min(values) == float("inf") else f"{min(values):.0f}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=DEFAULT)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4.0, help="per model, batch and thread count")
    arguments = parser.parse_args()
    arguments.notes = []
    catalogue = tomllib.loads((MODELS / "catalogue.toml").read_text())
    print(
        f"onnxquant {onnxquant.__version__}, onnxruntime {ort.__version__}, onnx {onnx.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"instruction sets {', '.join(onnxquant.native.library.isas())}\n"
    )
    print("| model | format, target | weights encoded | smaller | encoded weights smaller | size foretold within | "
          "float vs twin dB | twin vs file dB | float vs deployed dB | load time / float's | memory / float's |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    missing = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            entry = catalogue[name]
            path = MODELS / "fetched" / name / entry["model"]
            if path.exists():
                bench(name, entry, path, Path(folder), arguments)
            else:
                missing.append(name)
    print("\n" + "\n".join(f"- {note}" for note in arguments.notes))
    if missing:
        print(f"\nNot fetched, left out: {', '.join(missing)}")


if __name__ == "__main__":
    main()
