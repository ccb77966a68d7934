"""safetensors: arrays by name, in one file or several with an index; quantized weights in the arrays of other tools.

A folder is read by its index (``*.safetensors.index.json``) or its one file; ``quantization_config`` of the config.json
beside says how arrays are meant. The arrays that schemes know become one tensor each, the others stay plain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np

from onnxquant.errors import CheckpointError, OnnxQuantError, OutputError
from onnxquant.interchange import schemes
from onnxquant.interchange.container import Container, Output
from onnxquant.interchange.cursor import MappedFile, first_bytes, is_file_name, json_file, refuse_costly_json
from onnxquant.interchange.folders import whole_folder
from onnxquant.interchange.safetensors_header import METADATA, NAMES, header_of, read_file
from onnxquant.interchange.schemes.base import ArrayType, Scheme
from onnxquant.interchange.schemes.bitsandbytes import BitsAndBytes
from onnxquant.interchange.schemes.gptq import Gptq
from onnxquant.interchange.stored import StoredBytes, bytes_of
from onnxquant.interchange.tensor import Checkpoint, Tensor, plain
from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.numerics.arrays import Array
from onnxquant.registry import classes
from onnxquant.system.files import atomically

_INDEX, _SINGLE, _CONFIG = ".safetensors.index.json", "model.safetensors", "config.json"
# Key of the list of metadata that are JSON and no texts.
_TYPED = "onnxquant.json"
# Schemes that are written.
_WRITTEN: tuple[type[Scheme], ...] = (Gptq, BitsAndBytes)


class Safetensors(Container):
    """Hugging Face's file: floats; bitsandbytes, GPTQ, AWQ, compressed-tensors and BitNet."""

    name = "safetensors"
    suffixes = (".safetensors",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file has a header of JSON behind eight bytes, or a folder has such a file."""
        if path.is_dir():
            return _index(path) is not None or (path / _SINGLE).is_file()
        return path.name.endswith(_INDEX) or first_bytes(path, 9)[8:] == b"{"

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """The tensors of a file, or of all files that an index names."""
        arrays: dict[str, Array] = {}
        metadata: dict[str, JsonValue] = {}
        files: list[MappedFile] = []
        for file, names in _files(path).items():
            content = read_file(file)
            if missing := names - content.arrays.keys():
                raise CheckpointError(
                    f"{file}: has no tensor {min(missing)!r}, which the index says is in it; fetch both again"
                )
            if doubles := arrays.keys() & content.arrays.keys():
                raise CheckpointError(f"{file}: tensor {min(doubles)!r} is in another file of the model, too")
            arrays |= content.arrays
            metadata |= content.metadata
            files.append(content.file)
        tensors = _tensors(path, arrays, _quantization(path, metadata))
        metadata = _typed(metadata)
        return Checkpoint(path, cls.name, tensors, metadata, files=tuple(files))

    @classmethod
    def why_not(cls, tensor: Tensor) -> str | None:
        """The reason why no scheme that is written holds a tensor."""
        if isinstance(tensor.kind, np.dtype):
            if tensor.name == METADATA:
                return "its name is that of safetensors' metadata"
            return None if tensor.kind in NAMES else f"safetensors has no type for {tensor.label}"
        reasons = [scheme.why_not(tensor) for scheme in _WRITTEN]
        return None if None in reasons else "; ".join(reason for reason in reasons if reason)

    @classmethod
    def cuts(cls, path: Path) -> bool:
        """Whether the output is a folder."""
        return not path.name.endswith(cls.suffixes)

    @classmethod
    def write(cls, output: Output, tensors: Sequence[Tensor], metadata: Mapping[str, JsonValue]) -> None:
        """Write one file; a folder, with an index and config.json, where the name is not that of a file."""
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
        if typed := [key for key, value in metadata.items() if not isinstance(value, str)]:
            texts[_TYPED] = json.dumps(typed)
        texts.setdefault("format", "pt")  # transformers opens no file without it
        quantization = quantization_of(tensors)
        if not cls.cuts(output.path):
            if quantization:
                texts["quantization_config"] = json.dumps(quantization)
            _write(output.path, tensors, texts)
            return
        texts.pop("quantization_config", None)
        with whole_folder(output.path, _is_ours) as folder:
            _write_shards(folder, tensors, texts, output.shard_bytes)
            config = {key: value for key, value in (output.config or {}).items() if key != "quantization_config"}
            if quantization:
                config["quantization_config"] = quantization
            if config:
                (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def config_beside(path: Path) -> JsonObject | None:
    """The config.json of a model; None: there is none."""
    config = (path if path.is_dir() else path.parent) / _CONFIG
    return json_file(config, 0) if config.is_file() else None


def _is_ours(name: str) -> bool:
    return name.endswith((".safetensors", _INDEX)) or name == _CONFIG


def _write_shards(folder: Path, tensors: Sequence[Tensor], texts: Mapping[str, str], shard_bytes: int) -> None:
    """Write files of up to so many bytes, and an index if they are several; the arrays of a tensor stay together."""
    shards: list[list[Tensor]] = [[]]
    total = filled = 0
    for tensor in tensors:
        nbytes = sum(prod(shape) * dtype.itemsize for dtype, shape in _types(tensor).values())
        if shards[-1] and filled + nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled, total = filled + nbytes, total + nbytes
    places: JsonObject = {}
    for number, shard in enumerate(shards, 1):
        name = _SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(folder / name, shard, texts)
        for array in (array for tensor in shard for array in _types(tensor)):
            if array in places:
                raise OutputError(f"{folder.parent}: two tensors would have the name {array!r}")
            places[array] = name
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / f"model{_INDEX}").write_text(json.dumps(index, indent=2) + "\n")


def _write(path: Path, tensors: Sequence[Tensor], texts: Mapping[str, str]) -> None:
    """Write one file."""
    types: dict[str, ArrayType] = {}
    for tensor in tensors:
        own = _types(tensor)
        if doubles := types.keys() & own.keys():
            raise OutputError(f"{path}: two tensors would have the name {min(doubles)!r}")
        types |= own
    header = header_of(types, texts)
    refuse_costly_json(
        str(path), header, len(header) + sum(dtype.itemsize * prod(shape) for dtype, shape in types.values())
    )
    with atomically(path) as file:
        file.write(header)
        for name, array in _arrays(tensors):
            if (array.dtype, array.shape) != types[name]:
                raise OutputError(f"{path}: {name} became {array.dtype} {list(array.shape)}, not what its header says")
            StoredBytes(bytes_of(array)).write(file)


def scheme_of(tensor: Tensor) -> type[Scheme] | None:
    """The scheme that a quantized tensor is written in; None: it is of plain numbers."""
    if not tensor.is_encoded:
        return None
    return next((scheme for scheme in _WRITTEN if scheme.why_not(tensor) is None), None)


def _types(tensor: Tensor) -> dict[str, ArrayType]:
    """Types and shapes of the arrays that a tensor becomes."""
    scheme = scheme_of(tensor)
    if scheme is not None:
        return scheme.types(tensor)
    return {tensor.name: (cast(np.dtype[Any], tensor.kind), tensor.shape)}


def _arrays(tensors: Sequence[Tensor]) -> Iterator[tuple[str, Array]]:
    for tensor in tensors:
        scheme = scheme_of(tensor)
        if scheme is not None:
            yield from scheme.arrays(tensor).items()
        else:
            yield tensor.name, cast(Array, tensor.load())


def quantization_of(tensors: Sequence[Tensor]) -> JsonObject:
    """``quantization_config`` of config.json, by which transformers and this module read the quantized tensors.

    It speaks of one scheme; where there are weights of two, it is that of the first which needs it.
    """
    schemes_of = [(tensor, scheme_of(tensor)) for tensor in tensors]
    for scheme in _WRITTEN:
        weights = [tensor for tensor, own in schemes_of if own is scheme]
        if weights:
            plain_ones = [t.name.removesuffix(".weight") for t, own in schemes_of if own is None and len(t.shape) == 2]
            return scheme.config(weights, plain_ones)
    return {}


@cache
def _schemes() -> Mapping[str, type[Scheme]]:
    """Schemes by name."""
    return classes(schemes, Scheme, "onnxquant.schemes")


def _tensors(path: Path, arrays: dict[str, Array], config: JsonObject) -> dict[str, Tensor]:
    left: Mapping[str, Array] = arrays
    weights: dict[str, Tensor] = {}
    for scheme in _schemes().values():
        try:
            taken = scheme.read(left, config)
        except OnnxQuantError as error:
            raise CheckpointError(f"{path}: {error}") from None
        for weight in taken:
            if weight.name in weights:
                raise CheckpointError(f"{path}: tensor {weight.name!r} is there twice, in arrays of two kinds")
            weights[weight.name] = weight
        parts = {name for weight in taken for name in weight.names}
        left = {name: array for name, array in left.items() if name not in parts}
    if doubles := weights.keys() & left.keys():
        raise CheckpointError(f"{path}: tensor {min(doubles)!r} is there both plain and quantized")
    firsts = {tensor.names[0]: tensor for tensor in weights.values()}
    tensors: dict[str, Tensor] = {}
    for name, array in arrays.items():
        if name in firsts:
            tensors[firsts[name].name] = firsts[name]
        elif name in left:
            tensors[name] = plain(name, array)
    return tensors


def _index(folder: Path) -> Path | None:
    """The index of a folder, if it has one."""
    indices = sorted(folder.glob(f"*{_INDEX}"))
    if len(indices) > 1:
        raise CheckpointError(f"{folder}: has {len(indices)} indices of safetensors; give the one that you mean")
    return indices[0] if indices else None


def _files(path: Path) -> dict[Path, set[str]]:
    """The files of a model, and the tensors that its index says are in each."""
    index = _index(path) if path.is_dir() else path if path.name.endswith(_INDEX) else None
    if index is None:
        return {path / _SINGLE if path.is_dir() else path: set()}
    names = json_file(index, _bytes_beside(index)).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: has no weight_map of file names")
    listed = [str(name) for name in dict.fromkeys(names.values())]
    if missing := [name for name in listed if not (is_file_name(name) and (index.parent / name).is_file())]:
        raise CheckpointError(f"{index}: names the file {missing[0][:120]!r}, which is not beside it")
    files: dict[Path, set[str]] = {index.parent / name: set() for name in listed}
    for tensor, name in names.items():
        files[index.parent / str(name)].add(tensor)
    return files


def _bytes_beside(index: Path) -> int:
    """Bytes of the files of tensors beside an index."""
    return sum(file.stat().st_size for file in index.parent.glob("*.safetensors") if file.is_file())


def _typed(metadata: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Metadata with the values that were written as JSON; a file of another tool has texts alone."""
    values = dict(metadata)
    try:
        typed = {key: json.loads(str(values[key])) for key in json.loads(str(values.pop(_TYPED, "[]")))}
    except (ValueError, RecursionError, KeyError, TypeError):
        return values
    return values | typed


def _quantization(path: Path, metadata: Mapping[str, JsonValue]) -> JsonObject:
    """Entries on quantization in the file itself, or else in config.json beside a model."""
    try:
        own = json.loads(str(metadata.get("quantization_config", "null")))
    except (ValueError, RecursionError):
        own = None
    said = own if isinstance(own, dict) else (config_beside(path) or {}).get("quantization_config")
    return said if isinstance(said, dict) else {}
