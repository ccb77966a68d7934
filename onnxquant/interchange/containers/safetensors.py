"""safetensors: arrays by name, in one file or several with an index; quantized weights in the arrays of other tools.

A folder is read by its index (``*.safetensors.index.json``) or its one file; ``quantization_config`` of the config.json
beside says how arrays are meant. The arrays that schemes know become one tensor each, the others stay plain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from onnxquant.errors import CheckpointError, OnnxQuantError, OutputError
from onnxquant.interchange import schemes
from onnxquant.interchange.container import Container
from onnxquant.interchange.cursor import MappedFile, first_bytes, is_file_name, json_file
from onnxquant.interchange.safetensors_header import NAMES, header_of, read_file
from onnxquant.interchange.schemes.base import ArrayType, Scheme
from onnxquant.interchange.schemes.bitsandbytes import BitsAndBytes
from onnxquant.interchange.schemes.gptq import Gptq
from onnxquant.interchange.tensor import Checkpoint, Tensor, plain
from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.numerics.arrays import Array
from onnxquant.registry import classes
from onnxquant.system.files import atomically

_INDEX, _SINGLE, _CONFIG = ".safetensors.index.json", "model.safetensors", "config.json"
# Schemes that are written.
_WRITTEN: tuple[type[Scheme], ...] = (BitsAndBytes, Gptq)


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
        for file in _files(path):
            content = read_file(file)
            if doubles := arrays.keys() & content.arrays.keys():
                raise CheckpointError(f"{file}: tensor {min(doubles)!r} is in another file of the model, too")
            arrays |= content.arrays
            metadata |= content.metadata
            files.append(content.file)
        tensors = _tensors(path, arrays, _quantization(path, metadata))
        return Checkpoint(path, cls.name, tensors, metadata, files=tuple(files))

    @classmethod
    def why_not(cls, tensor: Tensor) -> str | None:
        """The reason why no scheme that is written holds a tensor."""
        if isinstance(tensor.kind, np.dtype):
            return None if tensor.kind in NAMES else f"safetensors has no type for {tensor.label}"
        reasons = [scheme.why_not(tensor) for scheme in _WRITTEN]
        return None if None in reasons else "; ".join(reason for reason in reasons if reason)

    @classmethod
    def write(cls, path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, JsonValue]) -> None:
        """Write one file."""
        types: dict[str, ArrayType] = {}
        for tensor in tensors:
            own = _types(tensor)
            if doubles := types.keys() & own.keys():
                raise OutputError(f"{path}: two tensors would have the name {min(doubles)!r}")
            types |= own
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
        if said := _said(tensors):
            texts["quantization_config"] = json.dumps(said)
        with atomically(path) as file:
            file.write(header_of(types, texts))
            for name, array in _arrays(tensors):
                if (array.dtype, array.shape) != types[name]:
                    raise OutputError(
                        f"{path}: {name} became {array.dtype} {list(array.shape)}, not what its header says"
                    )
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


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


def _said(tensors: Sequence[Tensor]) -> JsonObject:
    """Entries that config.json needs for transformers to read the quantized tensors."""
    kinds = {scheme.name for tensor in tensors if (scheme := scheme_of(tensor))}
    return {"quant_method": "gptq", "checkpoint_format": "gptq_v2"} if Gptq.name in kinds else {}


def _tensors(path: Path, arrays: dict[str, Array], config: JsonObject) -> dict[str, Tensor]:
    left: Mapping[str, Array] = arrays
    weights: dict[str, Tensor] = {}
    for scheme in classes(schemes, Scheme, "onnxquant.schemes").values():
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


def _files(path: Path) -> list[Path]:
    """The files of a model."""
    index = _index(path) if path.is_dir() else path if path.name.endswith(_INDEX) else None
    if index is None:
        return [path / _SINGLE if path.is_dir() else path]
    names = json_file(index, _bytes_beside(index)).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: has no weight_map of file names")
    listed = [str(name) for name in dict.fromkeys(names.values())]
    if missing := [name for name in listed if not (is_file_name(name) and (index.parent / name).is_file())]:
        raise CheckpointError(f"{index}: names the file {missing[0][:120]!r}, which is not beside it")
    return [index.parent / name for name in listed]


def _bytes_beside(index: Path) -> int:
    """Bytes of the files of tensors beside an index."""
    return sum(file.stat().st_size for file in index.parent.glob("*.safetensors") if file.is_file())


def _quantization(path: Path, metadata: Mapping[str, JsonValue]) -> JsonObject:
    """Entries on quantization in config.json beside a model, or in the file itself."""
    config = (path if path.is_dir() else path.parent) / _CONFIG
    if config.is_file():
        said = json_file(config, 0).get("quantization_config")
        if isinstance(said, dict):
            return said
    try:
        said = json.loads(str(metadata.get("quantization_config", "{}")))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
