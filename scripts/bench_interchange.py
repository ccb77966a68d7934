"""Measure how fast checkpoints move between containers, and how fast their weights are quantized.

Files of one GB lie in the page cache. Seconds are of processor time and of the wall; memory is the most that the process
takes, with the pages of mapped files. The last rows quantize 1024 x 1024 weights with both checks.

    python scripts/bench_interchange.py --gigabytes 1
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import onnxquant
from onnxquant import interchange
from onnxquant.interchange.tensor import Value

_SIDE = 4096


@dataclass(frozen=True)
class Speed:
    """Figures of one conversion: gigabytes of the source a second, and the most memory over its bytes."""

    name: str
    per_processor_second: float
    per_second: float
    memory: float


def _source(folder: Path, name: str, gigabytes: float) -> Path:
    """A checkpoint of equal weights of some bytes."""
    weight = np.random.default_rng(0).standard_normal((_SIDE, _SIDE), np.float32)
    value: Value = (
        weight.astype(np.float16) if name.startswith("safetensors") else onnxquant.encode(weight, name.split()[1])
    )
    nbytes = value.nbytes if isinstance(value, np.ndarray) else value.nbytes()
    container, end = name.split()[0], {"safetensors": ".safetensors", "gptq": ".safetensors", "q8k": "_q8k"}
    path = folder / f"source{end.get(container, f'.{container}')}"
    count = max(1, round(gigabytes * 1e9 / nbytes))
    interchange.save(path, {f"model.layers.{i}.weight": value for i in range(count)}, metadata={"a": "b"})
    return path


def _touched(path: Path) -> int:
    """Bytes of a checkpoint, all read once."""
    files = [path] if path.is_file() else list(path.iterdir())
    for file in files:
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                pass
    return sum(file.stat().st_size for file in files)


def _measured(work: Callable[[], object]) -> tuple[float, float, int]:
    """Seconds of processor and wall of some work in a process of its own, and the most memory that it took."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, processor = time.perf_counter(), time.process_time()
        work()
        seconds = time.process_time() - processor, time.perf_counter() - wall
        sender.send((*seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    figures: tuple[float, float, int] = receiver.recv()
    process.join()
    return figures


def _conversion(folder: Path, source: str, end: str, gigabytes: float) -> Speed:
    path = _source(folder, source, gigabytes)
    size = _touched(path)
    output = folder / f"output{end}"
    processor, wall, memory = _measured(lambda: interchange.convert(path, output))
    for place in (path, output):
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    return Speed(f"{source} to {end}", size / 1e9 / processor, size / 1e9 / wall, memory / size)


def _quantization(folder: Path, form: str, end: str) -> Speed:
    rng = np.random.default_rng(0)
    count = 40
    weights = {f"l{i}.weight": rng.standard_normal((1024, 1024), np.float32) for i in range(count)}
    interchange.save(folder / "floats.safetensors", weights)
    size = _touched(folder / "floats.safetensors")
    processor, wall, memory = _measured(
        lambda: interchange.quantize(folder / "floats.safetensors", folder / f"quantized{end}", form)
    )
    return Speed(f"quantize 1024x1024 to {form}: tensors", count / processor, count / wall, memory / size)


def main() -> None:
    """Print a row for each conversion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pairs = [
        ("gguf q4_0", ".gguf"), ("safetensors float16", ".gguf"), ("q8k q8_k", ".gguf"), ("gguf q4_0", ".axqt"),
        ("axqt q4_0", ".gguf"), ("gguf q8_0", ".safetensors"), ("gguf q4_0", ".safetensors"), ("gptq int4", ".gguf"),
    ]  # fmt: skip
    for source, end in pairs:
        with tempfile.TemporaryDirectory() as folder:
            _show(_conversion(Path(folder), source, end, options.gigabytes), as_json=options.json)
    for form, end in (("q8_k", "_q8k"), ("q4_0", ".gguf"), ("nf4", ".safetensors")):
        with tempfile.TemporaryDirectory() as folder:
            _show(_quantization(Path(folder), form, end), as_json=options.json)


def _show(speed: Speed, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(speed)), flush=True)
        return
    print(
        f"{speed.name:45} {speed.per_processor_second:7.2f} a processor second {speed.per_second:7.2f} a second, "
        f"{speed.memory:.2f}x memory",
        flush=True,
    )


if __name__ == "__main__":
    main()
