"""Damage files of tensors in every container and scheme, and count what reading them gives: tensors, or one clear error.

Anything else is a failure, and its file is kept: another exception, more than five seconds, or more memory than twice the
file and 64 MiB. ``--truncations`` cuts the files at every place instead.

    python scripts/fuzz_checkpoints.py --mutations 50000 --kind gguf --kind axqt
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import onnxquant
from onnxquant import interchange
from onnxquant.errors import OnnxQuantError
from onnxquant.formats.ggml.blocks import Blocks
from onnxquant.interchange.ggml_types import Opaque
from onnxquant.json_data import JsonObject
from onnxquant.numerics.arrays import Array

_SECONDS, _SLACK = 5.0, 64 << 20
_NUMBERS = (
    0,
    1,
    2,
    3,
    31,
    255,
    256,
    1 << 15,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_LEAVES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 1 << 31, 1 << 63, 1 << 64, 10**30, 1e308, float("inf"), float("nan"), "", "a", "\x1b[2J", "..",
    "../a", "/etc/passwd", "\ud800", "F16", "I32", "U8", "BF16", "nf4", "int4", "x" * 70000, [], [0], [-1, -4], [1 << 40, 0],
    [[]], {}, {"a": {}},
)  # fmt: skip


def _normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- files ----


def _gguf(folder: Path) -> Path:
    forms = [form for form in onnxquant.formats.formats() if isinstance(form, Blocks) or form.name == "i2_s"]
    weights = {form.name: onnxquant.encode(_normal(2, 256), form) for form in forms}
    metadata: JsonObject = {"general.architecture": "llama", "a": [1, 2], "b": ["x", "yy", ""], "c": 1.5, "d": True}
    interchange.save(folder / "m.gguf", {**weights, "v": _normal(3), "s": np.array(2.5)}, metadata=metadata)
    return folder / "m.gguf"


def _axqt(folder: Path) -> Path:
    forms = [(form.name, permuted) for form in onnxquant.formats.formats() for permuted in (False, True)]
    weights = {f"{name}.{p}": onnxquant.encode(_normal(2, 256), name, permuted=p) for name, p in forms}
    interchange.save(
        folder / "m.axqt", {**weights, "v": np.arange(3), "s": np.array(2.5)}, metadata={"a": [1, {"b": None}]}
    )
    return folder / "m.axqt"


def _axqt_v1(folder: Path) -> Path:
    interchange.save(folder / "m.axqt1", {n: onnxquant.encode(_normal(2, 64), "q4_1") for n in "abc"})
    return folder / "m.axqt1"


def _q8k(folder: Path) -> Path:
    weights = {n: onnxquant.encode(_normal(2, 256), "q8_k", permuted=n == "a") for n in ("a", "b.weight")}
    interchange.save(folder / "m_q8k", weights, metadata={"a": 1})
    return folder / "m_q8k"


def _floats(folder: Path) -> Path:
    arrays = {"a": _normal(2, 3), "b": _normal(4).astype(np.float16), "c": np.arange(3), "d": np.zeros((0, 2), np.int8)}
    interchange.save(folder / "m.safetensors", {**arrays, "e": np.array(2.5)}, metadata={"k": "v"})
    return folder / "m.safetensors"


def _bitsandbytes(folder: Path) -> Path:
    weights = {
        "a.weight": onnxquant.encode(_normal(4, 64), "nf4"),
        "b.weight": onnxquant.encode(_normal(8, 64), "fp4", double_quant=True),
        "c.weight": onnxquant.encode(_normal(4, 64), "llm_int8", outliers=0),
    }
    interchange.save(folder / "m.safetensors", weights)
    return folder / "m.safetensors"


def _gptq(folder: Path) -> Path:
    weights = {
        "a.weight": onnxquant.encode(_normal(8, 64), "int4", permuted=True),
        "b.weight": onnxquant.encode(_normal(16, 64), "int2", symmetric=False),
        "c.weight": onnxquant.encode(_normal(4, 64), "int8", symmetric=False),
    }
    interchange.save(folder / "m.safetensors", weights)
    return folder / "m.safetensors"


def _awq(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    interchange.save(folder / "m.safetensors", {
        "l.qweight": rng.integers(0, 1 << 31, (64, 2), np.int32), "l.qzeros": rng.integers(0, 1 << 31, (2, 2), np.int32),
        "l.scales": rng.uniform(0.1, 1, (2, 16)).astype(np.float16),
    })  # fmt: skip
    return folder / "m.safetensors"


def _compressed(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    interchange.save(folder / "m.safetensors", {
        "l.weight_packed": rng.integers(0, 1 << 31, (16, 8), np.int32), "l.weight_shape": np.array([16, 64]),
        "l.weight_scale": rng.uniform(0.1, 1, (16, 2)).astype(np.float16),
        "l.weight_zero_point": rng.integers(0, 1 << 31, (2, 2), np.int32),
        "l.weight_g_idx": rng.permutation(np.arange(64, dtype=np.int32) // 32),
    })  # fmt: skip
    return folder / "m.safetensors"


def _bitnet(folder: Path) -> Path:
    packed = np.random.default_rng(0).choice(np.array([0, 1, 2, 0x55, 0xAA, 0x24], np.uint8), (4, 128))
    interchange.save(folder / "m.safetensors", {"l.weight": packed, "l.weight_scale": np.array([0.5], np.float32)})
    return folder / "m.safetensors"


def _sharded(folder: Path) -> Path:
    names = {}
    for i in range(2):
        interchange.save(folder / f"m-{i}.safetensors", {f"t{i}": _normal(3, seed=i)})
        names[f"t{i}"] = f"m-{i}.safetensors"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": names}))
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "gguf": _gguf, "axqt": _axqt, "axqt-v1": _axqt_v1, "q8k": _q8k, "safetensors": _floats, "bitsandbytes": _bitsandbytes,
    "gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed, "bitnet": _bitnet, "sharded": _sharded,
}  # fmt: skip


# ---- damage ----


def _in_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, inserted or taken away; mostly in front, where headers are."""
    out = bytearray(raw)
    reach = len(out) if rng.random() < 0.4 else min(len(out), 600)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, way = rng.randrange(reach + 1), rng.randrange(5)
        if way == 0:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif way == 1:
            width = rng.choice(("<I", "<Q"))
            out[at : at + struct.calcsize(width)] = struct.pack("<Q", rng.choice(_NUMBERS))[: struct.calcsize(width)]
        elif way == 2:
            del out[at : at + rng.choice((1, 4, 8, 64))]
        elif way == 3:
            out[at:at] = rng.randbytes(rng.choice((1, 4, 8)))
        else:
            begin = rng.randrange(reach + 1)
            out[at:at] = out[begin : begin + rng.choice((4, 32, 128))]
    return bytes(out)


def _in_json(text: bytes, rng: random.Random) -> bytes:
    """Some values of JSON replaced, exchanged, or taken away."""
    data = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(data))
        holder, key = rng.choice(places)
        way = rng.randrange(6)
        if way == 0:
            del holder[key]
        elif way == 1:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place])) if place in _keys(other) else None
        elif way == 2 and isinstance(holder, dict):
            holder[rng.choice(("a", "", "__metadata__", "l.scales", "x" * 300))] = holder.pop(key)
        elif way == 3 and type(holder[key]) is int:
            holder[key] += rng.choice((-1, 1, 8, 64, 256))
        else:
            holder[key] = rng.choice(_LEAVES)
        if not data:
            break
    return json.dumps(data).encode()


def _keys(holder: Any) -> list[Any]:  # noqa: ANN401 - JSON
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _places(data: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - JSON
    if isinstance(data, dict | list):
        for key in _keys(data):
            yield data, key
            yield from _places(data[key])


def _safetensors_header(raw: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", raw[:8])
    header = _in_json(raw[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + raw[8 + length :]


def _axqt_header(raw: bytes, rng: random.Random) -> bytes:
    start, length = struct.unpack("<QQ", raw[12:28])
    header, data = raw[start : start + length], bytearray(raw[:start])
    if rng.random() < 0.3:
        entries = json.loads(header)
        for part in rng.choice(entries["tensors"])["parts"]:
            begin, end = part["offset"], part["offset"] + part["nbytes"]
            for _ in range(rng.choice((1, 2, 9)) if end > begin else 0):
                data[rng.randrange(begin, end)] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
            part["crc32"] = zlib.crc32(data[begin:end])
        header = json.dumps(entries).encode()
    else:
        header = _in_json(header, rng)
    return raw[:8] + struct.pack("<IQQ", zlib.crc32(header), start, len(header)) + data[28:] + header


def damaged(file: Path, raw: bytes, rng: random.Random) -> bytes:
    """A file with some damage; half of it in the JSON of its header, with its lengths and checksums renewed."""
    if rng.random() < 0.5:
        if file.suffix == ".safetensors":
            return _safetensors_header(raw, rng)
        if file.suffix == ".axqt":
            return _axqt_header(raw, rng)
        if file.suffix == ".json":
            return _in_json(raw, rng)
    return _in_bytes(raw, rng)


# ---- outcomes ----


@dataclass
class Tally:
    """Outcomes of one kind, and the files that failed."""

    kind: str
    keep: Path
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    slowest: float = 0

    def add(self, source: Path, *, converts: bool) -> None:
        """Read a checkpoint, and count the outcome."""
        size = sum(file.stat().st_size for file in ([source] if source.is_file() else source.rglob("*")))
        before, begin = _memory(), time.process_time()
        resource.setrlimit(resource.RLIMIT_DATA, (before + 2 * size + _SLACK, resource.RLIM_INFINITY))
        try:
            outcome = _outcome(source, converts=converts)
        except Exception as error:  # what this looks for
            outcome = f"FAILED {type(error).__name__}: {str(error)[:100]}"
        seconds = time.process_time() - begin
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if seconds > _SECONDS:
            outcome = "FAILED slow"
        self.slowest = max(self.slowest, seconds)
        if outcome.startswith("FAILED"):
            outcome = outcome.split("0x")[0]
            if outcome not in self.counts:
                copy = self.keep / f"{self.kind}-{len(self.counts)}-{source.name}"
                (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
                print(f"{self.kind}: {outcome}: {copy}", flush=True)
        self.counts[outcome] += 1


def _memory() -> int:
    """Bytes of the process's own memory, which Linux limits."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")]
    return int(line.split()[1]) << 10


def _outcome(source: Path, *, converts: bool) -> str:
    try:
        checkpoint = interchange.open_checkpoint(source)
        for tensor in checkpoint.tensors.values():
            if tensor.blocks is not None:
                tensor.blocks()
            if not isinstance(tensor.kind, Opaque):
                tensor.array()
    except OnnxQuantError as error:
        if len(str(error)) > 2000:
            return "FAILED a sentence of thousands of letters"
        return "refused"
    if converts:
        for end in ("gguf", "safetensors", "axqt"):
            try:
                interchange.convert(checkpoint, source.parent / f"out.{end}", leave_out=True, force=True)
            except OnnxQuantError:
                continue
    return "read"


def main() -> None:
    """Run the mutations or the truncations of the kinds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--truncations", action="store_true")
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_checkpoints")
    options = parser.parse_args()
    options.keep.mkdir(exist_ok=True)
    np.seterr(all="ignore")
    failed = False
    for kind in options.kind or KINDS:
        tally = Tally(kind, options.keep)
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            _run(tally, KINDS[kind](Path(folder)), options)
        print(f"{kind}: {dict(tally.counts)}, slowest {tally.slowest:.2f} s", flush=True)
        failed |= any(outcome.startswith("FAILED") for outcome in tally.counts)
    sys.exit(failed)


def _run(tally: Tally, source: Path, options: argparse.Namespace) -> None:
    files = [source] if source.is_file() else sorted(source.iterdir())
    originals = {file: file.read_bytes() for file in files}
    rng = random.Random(options.seed)
    for number in range(0 if options.truncations else options.mutations):
        file = rng.choice(files)
        file.write_bytes(damaged(file, originals[file], rng))
        tally.add(source, converts=number % 16 == 0)
        file.write_bytes(originals[file])
    for file in files if options.truncations else ():
        for length in range(len(originals[file])):
            file.write_bytes(originals[file][:length])
            tally.add(source, converts=False)
        file.write_bytes(originals[file])


if __name__ == "__main__":
    main()
