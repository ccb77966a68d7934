"""Models of a hub's folder, the samples of each, and the data files beside them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxquant.calibration.feeds import Data
from onnxquant.clients import Client
from onnxquant.errors import ModelError
from onnxquant.graph.analysis.quantized import integer_weights
from onnxquant.graph.data_files import DataFiles
from onnxquant.graph.io import Document
from onnxquant.graph.names import METADATA
from onnxquant.graph.neighbours import models_in
from onnxquant.graph.sites import MIN_ELEMENTS
from onnxquant.graph.traverse import tensors
from onnxquant.hub.variants import OTHER_SUFFIXES, variants

SUBFOLDER = "onnx"


@dataclass(frozen=True)
class FloatModel:
    """A model that variants are made of.

    Attributes:
        path: its file.
        nbytes: its size, data files included.
    """

    path: Path
    nbytes: int

    @property
    def name(self) -> str:
        """Its name without the ending."""
        return self.path.stem


@dataclass(frozen=True)
class ModelFolder:
    """The models of a folder.

    Attributes:
        models: models that variants are made of.
        notes: sentences on files that are none.
    """

    models: tuple[FloatModel, ...]
    notes: tuple[str, ...]


def read_folder(folder: Path) -> ModelFolder:
    """The models of a folder: those in ``onnx`` that hold float32 weights and are no variants of others.

    Raises:
        ModelError: there is no folder, or no such model in it, nor one without any weights.
    """
    place = folder / SUBFOLDER
    if not place.is_dir():
        raise ModelError(f"{folder}: has no folder {SUBFOLDER!r}; expected {SUBFOLDER}/model.onnx or the like in it")
    files = list(models_in(place))
    endings = (*OTHER_SUFFIXES, *(variant.suffix for variant in variants().values()))
    names = {file.path.stem for file in files}
    models, notes, is_idle = [], [], False
    for file in files:
        path, document = file.path, file.document
        if any(path.stem.endswith(ending) and path.stem.removesuffix(ending) in names for ending in endings):
            continue
        if document is None:
            notes.append(f"{path.name}: cannot be read ({file.error}); no variants are made of it")
        elif reason := _objection(document):
            notes.append(f"{path.name}: {reason}; no variants are made of it")
        elif not any(math.prod(tensor.dims) >= MIN_ELEMENTS for tensor in tensors(document.proto)):
            is_idle = True
            notes.append(f"{path.name}: nothing to do: none of its constants has {MIN_ELEMENTS} elements")
        else:
            models.append(FloatModel(path, document.size()))
    if not models and not is_idle:
        raise ModelError("; ".join((f"{place}: holds no model with float32 weights", *notes)))
    return ModelFolder(tuple(models), tuple(notes))


def _objection(document: Document) -> str:
    """The reason why no variants are made of a model; empty where they are."""
    if any(entry.key == METADATA for entry in document.proto.metadata_props):
        return "is quantized already"
    if integers := integer_weights(document.proto):
        return f"is quantized already ({integers})"
    sizes = Counter[int]()
    for tensor in tensors(document.proto):
        sizes[tensor.data_type] += math.prod(tensor.dims)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    if sizes[onnx.TensorProto.FLOAT] == max(sizes[kind] for kind in floats):
        return ""
    return "holds no float32 weights"


def samples_of(model: FloatModel, data: Data | None) -> Data | None:
    """The samples of a model: those of all, or ``NAME.npz`` in a folder that has files for single models."""
    if not isinstance(data, (str, Path)) or not Path(data).is_dir():
        return data
    own = Path(data) / f"{model.name}.npz"
    return own if own.exists() else data


def data_counts(folder: Path, client: Client) -> tuple[dict[str, int], list[str]]:
    """Numbers of data files by name of the model's file, and sentences on models that have no such number.

    Args:
        folder: the folder of models.
        client: the client, which looks for data files by its own names.
    """
    counts, notes = {}, []
    for file in models_in(folder):
        path, document = file.path, file.document
        if document is None:
            notes.append(f"{path.name}: cannot be read ({file.error}); no entry is made for it")
            continue
        locations = set(document.locations())
        names = DataFiles(path.name + client.data_suffix)
        if locations and locations != {names.name(i) for i in range(len(locations))}:
            other = min(locations)
            advice = f"rename both with `onnxquant move {path.name} NEW.onnx --data-name {client.data_suffix}`"
            notes.append(f"{path.name}: keeps its data in {other}, and {client.name} looks for {names.first}; {advice}")
        elif locations:
            counts[path.name] = len(locations)
    return counts, notes
