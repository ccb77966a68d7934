"""Small files of every container and scheme, whole: a kind is a function that writes one into a folder.

A kind with many formats has several files with a few formats each, by number, so that each file is small.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

import onnxquant
from onnxquant import interchange
from onnxquant.formats.ggml.blocks import Blocks
from onnxquant.json_data import JsonObject
from onnxquant.numerics.arrays import Array

T = TypeVar("T")
Seed = Callable[[Path, int], Path]
"""A function that writes the file of a number into a folder."""
# Formats in one file.
_FORMATS = 4


def _normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _some(entries: Sequence[T], number: int) -> list[T]:
    """A few of the entries; consecutive numbers give all."""
    return [entries[(number * _FORMATS + i) % len(entries)] for i in range(_FORMATS)]


def _gguf(folder: Path, number: int) -> Path:
    forms = [form for form in onnxquant.formats.formats() if isinstance(form, Blocks) or form.name == "i2_s"]
    weights = {form.name: onnxquant.encode(_normal(1, 256), form) for form in _some(forms, number)}
    metadata: JsonObject = {"general.architecture": "llama", "a": [1, 2], "b": ["x", "yy", ""], "c": 1.5, "d": True}
    interchange.save(folder / "m.gguf", {**weights, "v": _normal(3), "s": np.array(2.5)}, metadata=metadata)
    return folder / "m.gguf"


def _gguf_v2(folder: Path, number: int) -> Path:
    path = _gguf(folder, number)
    raw = bytearray(path.read_bytes())
    raw[4] = 2
    path.write_bytes(raw)
    return path


def _gguf_split(folder: Path, number: int) -> Path:
    parts = [folder / f"m-0000{part}-of-00002.gguf" for part in (1, 2)]
    for part, path in enumerate(parts):
        metadata: JsonObject = {"split.no": part, "split.count": 2, "split.tensors.count": 2}
        interchange.save(path, {f"t{part}": onnxquant.encode(_normal(2, 32), "q4_1")}, metadata=metadata)
    return parts[number % 2]


def _axqt(folder: Path, number: int) -> Path:
    forms = [(form.name, permuted) for form in onnxquant.formats.formats() for permuted in (False, True)]
    weights = {f"{name}.{p}": onnxquant.encode(_normal(1, 256), name, permuted=p) for name, p in _some(forms, number)}
    plain = {"v": np.arange(3), "s": np.array(2.5)}
    interchange.save(folder / "m.axqt", {**weights, **plain}, metadata={"a": [1, {"b": None}]})
    return folder / "m.axqt"


def _axqt_v1(folder: Path, number: int) -> Path:
    form = ("q4_0", "q4_1", "q8_0")[number % 3]
    interchange.save(folder / "m.axqt1", {n: onnxquant.encode(_normal(2, 64), form) for n in "abc"})
    return folder / "m.axqt1"


def _q8k(folder: Path, number: int) -> Path:
    weights = {n: onnxquant.encode(_normal(2, 256), "q8_k", permuted=n == "a") for n in ("a", "b.weight")}
    interchange.save(folder / "m_q8k", weights, metadata={"a": 1})
    return folder / "m_q8k"


def _q8k_without_index(folder: Path, number: int) -> Path:
    path = _q8k(folder, number)
    (path / "index.json").unlink()
    return path


def _floats(folder: Path, number: int) -> Path:
    arrays = {"a": _normal(2, 3), "b": _normal(4).astype(np.float16), "c": np.arange(3), "d": np.zeros((0, 2), np.int8)}
    interchange.save(folder / "m.safetensors", {**arrays, "e": np.array(2.5)}, metadata={"k": "v"})
    return folder / "m.safetensors"


def _bitsandbytes(folder: Path, number: int) -> Path:
    weights = {
        "a.weight": onnxquant.encode(_normal(4, 64), "nf4"),
        "b.weight": onnxquant.encode(_normal(8, 64), "fp4", double_quant=True),
        "c.weight": onnxquant.encode(_normal(4, 64), "llm_int8", outliers=0),
    }
    interchange.save(folder / "m.safetensors", weights)
    return folder / "m.safetensors"


def _gptq(folder: Path, number: int) -> Path:
    weights = {
        "a.weight": onnxquant.encode(_normal(8, 64), "int4", permuted=True),
        "b.weight": onnxquant.encode(_normal(16, 64), "int2", symmetric=False),
        "c.weight": onnxquant.encode(_normal(4, 64), "int8", symmetric=False),
    }
    interchange.save(folder / "m.safetensors", weights)
    return folder / "m.safetensors"


def _gptq_v1(folder: Path, number: int) -> Path:
    rng = np.random.default_rng(0)
    interchange.save(folder / "model.safetensors", {
        "l.qweight": rng.integers(0, 1 << 31, (8, 16), np.int32), "l.qzeros": rng.integers(0, 1 << 31, (2, 2), np.int32),
        "l.scales": rng.uniform(0.1, 1, (2, 16)).astype(np.float16), "l.g_idx": np.arange(64, dtype=np.int32) // 32,
    })  # fmt: skip
    config = {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq", "dynamic": {"+:.*": {"group_size": 32}}}
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return folder


def _awq(folder: Path, number: int) -> Path:
    rng = np.random.default_rng(0)
    interchange.save(folder / "m.safetensors", {
        "l.qweight": rng.integers(0, 1 << 31, (64, 2), np.int32), "l.qzeros": rng.integers(0, 1 << 31, (2, 2), np.int32),
        "l.scales": rng.uniform(0.1, 1, (2, 16)).astype(np.float16),
    })  # fmt: skip
    return folder / "m.safetensors"


def _compressed(folder: Path, number: int) -> Path:
    rng = np.random.default_rng(0)
    interchange.save(folder / "m.safetensors", {
        "l.weight_packed": rng.integers(0, 1 << 31, (16, 8), np.int32), "l.weight_shape": np.array([16, 64]),
        "l.weight_scale": rng.uniform(0.1, 1, (16, 2)).astype(np.float16),
        "l.weight_zero_point": rng.integers(0, 1 << 31, (2, 2), np.int32),
        "l.weight_g_idx": rng.permutation(np.arange(64, dtype=np.int32) // 32),
    })  # fmt: skip
    return folder / "m.safetensors"


def _bitnet(folder: Path, number: int) -> Path:
    packed = np.random.default_rng(0).choice(np.array([0, 1, 2, 0x55, 0xAA, 0x24], np.uint8), (4, 128))
    interchange.save(folder / "m.safetensors", {"l.weight": packed, "l.weight_scale": np.array([0.5], np.float32)})
    return folder / "m.safetensors"


def _sharded(folder: Path, number: int) -> Path:
    names = {}
    for i in range(2):
        interchange.save(folder / f"m-{i}.safetensors", {f"t{i}": _normal(3, seed=i)})
        names[f"t{i}"] = f"m-{i}.safetensors"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": names}))
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    return folder


def _tensor(folder: Path, number: int) -> Path:
    forms = [form for form in onnxquant.formats.formats() if form.name != "llm_int8"]
    form = forms[number % len(forms)]
    onnxquant.encode(_normal(2, 256), form.name, permuted=number % 2 == 0).save(folder / "m.tensor")
    return folder / "m.tensor"


KINDS: Mapping[str, Seed] = {
    "gguf": _gguf, "gguf-v2": _gguf_v2, "gguf-split": _gguf_split, "safetensors": _floats, "sharded": _sharded,
    "bitsandbytes": _bitsandbytes, "gptq": _gptq, "gptq-v1": _gptq_v1, "awq": _awq, "compressed-tensors": _compressed,
    "bitnet": _bitnet, "q8k": _q8k, "q8k-without-index": _q8k_without_index, "axqt-v1": _axqt_v1, "axqt": _axqt,
    "tensor": _tensor,
}  # fmt: skip
# Files of a kind, where one does not have all formats.
COUNTS: Mapping[str, int] = {"gguf": 5, "gguf-v2": 5, "gguf-split": 2, "axqt": 20, "axqt-v1": 3, "tensor": 40}
