"""Measure how fast checkpoints move between containers, and how fast their weights are quantized.

Files of one GB lie in the page cache. Seconds are of processor time and of the wall, medians over rounds in which every row
runs once; memory is the most that the process takes, with the pages of mapped files, and without (anonymous memory). The
last rows quantize 1024 x 1024 weights with both checks. ``--large`` has one row instead: a file of float16 weights that may
be larger than memory becomes GGUF, an eighth of it in q4_0, in a process that may have 1 GiB of anonymous memory.

    python scripts/bench_interchange.py --gigabytes 1 --rounds 3
    TMPDIR=/a/disk python scripts/bench_interchange.py --large 30
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np

import onnxquant
from onnxquant import interchange
from onnxquant.interchange.safetensors_header import header_of
from onnxquant.interchange.tensor import Value

_SIDE = 4096
# Anonymous memory that a process with a large file may have.
_LIMIT = 1 << 30


@dataclass(frozen=True)
class Speed:
    """Figures of one conversion: gigabytes of the source a second, the most memory over its bytes, anonymous megabytes.

    The ratio is that of the processor's speed over the first row's in the same round, 0 in rows of tensors.
    """

    name: str
    per_processor_second: float
    per_second: float
    memory: float
    anonymous: float
    ratio: float = 0.0


@dataclass(frozen=True)
class Usage:
    """Use of the machine by some work: seconds of processor and wall, bytes of memory with mapped files and without."""

    processor: float
    wall: float
    memory: int
    anonymous: int


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


def touched(path: Path) -> int:
    """Bytes of a checkpoint, all read once."""
    files = [path] if path.is_file() else list(path.iterdir())
    for file in files:
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                pass
    return sum(file.stat().st_size for file in files)


def _bytes(entry: str) -> int:
    """An entry of this process's status that counts memory, such as RssAnon."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{entry}:")[2].split()[0]) << 10


def _measure(work: Callable[[], object], limit: int | None, sender: Connection) -> None:
    """Send the use of this process by some work, which may have so many bytes of anonymous memory."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before, base = _bytes("VmRSS"), _bytes("RssAnon")
    most = [base]
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(0.02):
            most.append(max(most.pop(), _bytes("RssAnon")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, processor = time.perf_counter(), time.process_time()
    work()
    seconds = time.process_time() - processor, time.perf_counter() - wall
    is_done.set()
    watcher.join()
    sender.send(Usage(*seconds, _bytes("VmHWM") - before, most[0] - base))


def measured(work: Callable[[], object], limit: int | None = None) -> Usage:
    """The use of the machine by some work, in a new process."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(work, limit, sender))
    process.start()
    sender.close()
    usage: Usage = receiver.recv()
    process.join()
    return usage


def _speed(name: str, amount: float, size: int, usage: Usage) -> Speed:
    """The figures of some work on a number of GB, or of tensors, from a file of so many bytes."""
    return Speed(
        name, amount / usage.processor, amount / usage.wall, usage.memory / size, usage.anonymous / 1e6
    )  # fmt: skip


def _conversion(folder: Path, source: str, end: str, gigabytes: float) -> Speed:
    path = _source(folder, source, gigabytes)
    size = touched(path)
    output = folder / f"output{end}"
    usage = measured(partial(interchange.convert, path, output))
    for place in (path, output):
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    return _speed(f"{source} to {end}", size / 1e9, size, usage)


def _quantization(folder: Path, form: str, end: str) -> Speed:
    rng = np.random.default_rng(0)
    count = 40
    weights = {f"l{i}.weight": rng.standard_normal((1024, 1024), np.float32) for i in range(count)}
    interchange.save(folder / "floats.safetensors", weights)
    size = touched(folder / "floats.safetensors")
    usage = measured(partial(interchange.quantize, folder / "floats.safetensors", folder / f"quantized{end}", form))
    return _speed(f"quantize 1024x1024 to {form}: tensors", count, size, usage)


def _large(folder: Path, gigabytes: float) -> Speed:
    """The quantization of every eighth weight of a large file; its other weights, holes of the disk, move as they are."""
    weight = np.random.default_rng(0).standard_normal((_SIDE, _SIDE), np.float32).astype(np.float16)
    count = max(1, round(gigabytes * 1e9 / weight.nbytes))
    path = folder / "source.safetensors"
    names = [f"model.layers.{place}.{'weight' if place % 8 else 'mlp'}.weight" for place in range(count)]
    header = header_of(dict.fromkeys(names, (weight.dtype, weight.shape)), {})
    with path.open("wb") as file:
        file.write(header)
        for place in range(0, count, 8):
            file.seek(len(header) + place * weight.nbytes)
            file.write(weight.data)
        file.truncate(len(header) + count * weight.nbytes)
    size = path.stat().st_size
    work = partial(interchange.quantize, path, folder / "output.gguf", "q4_0", include="mlp")
    name = f"{size / 1e9:.1f} GB of float16, an eighth to q4_0"
    return _speed(name, size / 1e9, size, measured(work, _LIMIT))


def _over_first(speed: Speed, before: Sequence[Speed]) -> Speed:
    """The speed of a conversion with its ratio to the first of its round."""
    if speed.name.endswith(": tensors"):
        return speed
    first = before[0] if before else speed
    return replace(speed, ratio=speed.per_processor_second / first.per_processor_second)


def _median(speeds: Sequence[Speed]) -> Speed:
    """The median of each figure."""
    names = [entry.name for entry in fields(Speed)[1:]]
    return Speed(speeds[0].name, *(median(getattr(speed, name) for speed in speeds) for name in names))


def main() -> None:
    """Print a row for each conversion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", metavar="PATTERN", help='rows such as "gguf q4_0 .axqt"')
    parser.add_argument("--large", type=float, metavar="GIGABYTES", help="quantize one file of this size instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.large:
        with tempfile.TemporaryDirectory() as folder:
            _show(_large(Path(folder), options.large), as_json=options.json)
        return
    pairs = [
        ("gguf q4_0", ".gguf"), ("safetensors float16", ".gguf"), ("q8k q8_k", ".gguf"), ("gguf q4_0", ".axqt"),
        ("axqt q4_0", ".gguf"), ("gguf q8_0", ".safetensors"), ("gguf q4_0", ".safetensors"), ("gptq int4", ".gguf"),
    ]  # fmt: skip
    formats = [("q8_k", "_q8k"), ("q4_0", ".gguf"), ("nf4", ".safetensors")]
    rows: list[partial[Speed]] = [
        *(partial(_conversion, source=source, end=end, gigabytes=options.gigabytes) for source, end in pairs),
        *(partial(_quantization, form=form, end=end) for form, end in formats),
    ]
    pattern = re.compile(options.only)
    rows = [row for row in rows if pattern.search(" ".join(map(str, row.keywords.values())))]
    rounds: list[list[Speed]] = []
    for _ in range(options.rounds):
        rounds.append([])
        for row in rows:
            with tempfile.TemporaryDirectory() as folder:
                rounds[-1].append(_over_first(row(Path(folder)), rounds[-1]))
    for speeds in zip(*rounds, strict=True):
        _show(_median(speeds), as_json=options.json)


def _show(speed: Speed, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(speed)), flush=True)
        return
    print(
        f"{speed.name:45} {speed.per_processor_second:7.2f} a processor second {speed.per_second:7.2f} a second, "
        f"{speed.memory:.2f}x memory, {speed.anonymous:.0f} MB anonymous, {speed.ratio:.2f} of the first row",
        flush=True,
    )


if __name__ == "__main__":
    main()
