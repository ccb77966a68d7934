"""The metadata of a quantized file: records of its weights and activations, and the origin of the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import onnx

from onnxquant.errors import ModelError
from onnxquant.formats import format_named
from onnxquant.formats.base import Format
from onnxquant.graph.names import METADATA, ORIGIN
from onnxquant.graph.needs import View
from onnxquant.graph.sites import FLOATS, Site
from onnxquant.json_data import OPTIONAL, JsonKey, JsonObject, JsonValue, from_json, to_object
from onnxquant.plan.activations import ActivationRecord, SampleUse, StaticRecord
from onnxquant.pruning.records import Pruned
from onnxquant.targets import Lowered, Result
from onnxquant.version import __version__

# Larger weights are damage.
_MOST_ELEMENTS = 1 << 48
_MOST_BYTES = 1 << 62
E = TypeVar("E", "Metadata", "Origin")


@dataclass(frozen=True)
class Record:
    """One encoded weight: enough to decode it, and to undo its lowering.

    Attributes:
        name: name of the original tensor.
        format: name of the format.
        parameters: parameters of the format.
        target: name of the target.
        shape: shape of the original tensor.
        perm, split: how the matrix lies in it, see ``View``.
        elem_type: element type of the original tensor.
        planes: tensor of each plane, by layout.
        results: tensors that the model computes from the weight.
    """

    name: str
    format: str
    parameters: Mapping[str, JsonValue]
    target: str
    shape: tuple[int, ...]
    perm: tuple[int, ...]
    split: int
    elem_type: int
    planes: Mapping[str, Mapping[str, str]]
    results: tuple[Result, ...]

    def __post_init__(self) -> None:
        """Check that the fields fit each other.

        Raises:
            ValueError: they do not.
        """
        if sorted(self.perm) != list(range(len(self.shape))):
            raise ValueError(f"shape {self.shape} in the order {self.perm}")
        if any(n < 1 for n in self.shape) or prod(self.shape) >= _MOST_ELEMENTS:
            raise ValueError(f"shape {self.shape}")
        if not 0 <= self.split <= len(self.shape) or self.elem_type not in FLOATS:
            raise ValueError(f"split {self.split} of element type {self.elem_type}")
        if not self.planes or not all(self.planes.values()):
            raise ValueError(f"planes {self.planes}")

    @classmethod
    def of(cls, site: Site, form: Format, target: str, lowered: Lowered) -> Record:
        """The record of a lowered weight.

        Args:
            site: the weight.
            form: its format.
            target: name of the target that lowered it.
            lowered: tensors that the target added.
        """
        view = site.view
        return cls(
            site.name, form.name, form.settings(), target, view.shape, view.perm, view.split, site.tensor.data_type,
            lowered.planes, tuple(lowered.results),
        )  # fmt: skip

    @property
    def view(self) -> View:
        """The original tensor as a matrix."""
        return View(self.shape, self.perm, self.split)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the original tensor."""
        return np.dtype(FLOATS[self.elem_type])

    @property
    def elements(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def plane_names(self) -> frozenset[str]:
        """Names of the tensors that hold planes."""
        return frozenset(name for names in self.planes.values() for name in names.values())

    @property
    def stored_format(self) -> Format:
        """The format with its parameters.

        Raises:
            RecipeError: no such format is installed.
        """
        return format_named(self.format, **self.parameters)


@dataclass(frozen=True)
class Metadata:
    """The statements of a quantized file about itself.

    Attributes:
        schema: version of the metadata.
        version: version of onnxquant that wrote the file.
        source_bytes: size of the original.
        weights: number of constant weights of the original, encoded or not.
        float_bytes: size of these weights in the original.
        records: the encoded weights.
        activations: record of integer activations; None: activations are floats.
        rescaled: weights that were replaced by those of an equivalent function before they were encoded.
        samples: use of the samples that weights were solved with; None: none, or the record of activations has it.
        float16: True where all that stays in float computes in float16; None: in the types of the original.
        pruned: changes by pruning; None where nothing was pruned.
    """

    SCHEMA: ClassVar[int] = 2

    version: str
    source_bytes: int
    schema: int = SCHEMA
    weights: int = 0
    float_bytes: int = 0
    records: tuple[Record, ...] = field(default=(), metadata=JsonKey("sites").metadata)
    activations: ActivationRecord | None = field(default=None, metadata=JsonKey(optional=True, empty=True).metadata)
    rescaled: tuple[str, ...] = ()
    samples: SampleUse | None = field(default=None, metadata=OPTIONAL)
    float16: bool | None = field(default=None, metadata=OPTIONAL)
    pruned: Pruned | None = field(default=None, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        """Refuse numbers that are no sizes."""
        for name in ("source_bytes", "weights", "float_bytes"):
            if not 0 <= getattr(self, name) < _MOST_BYTES:
                raise ValueError(f"{name} is not between 0 and 2^62")

    @property
    def sample_use(self) -> SampleUse | None:
        """Use of the samples that the file was made with; None where it does not say."""
        return self.activations.samples if isinstance(self.activations, StaticRecord) else self.samples

    @property
    def changed_weights(self) -> frozenset[str]:
        """Names of weights that are not the original's, but those of an equivalent function."""
        return frozenset((*self.rescaled, *(self.activations.rescaled if self.activations else ())))

    def to_dict(self) -> JsonObject:
        """JSON data."""
        return to_object(self)

    @classmethod
    def from_dict(cls, data: JsonValue) -> Metadata:
        """The inverse of ``to_dict``, for the metadata of every version so far.

        Raises:
            ModelError: the file was written by a newer version.
            ValueError: a value is missing or damaged.
        """
        if not isinstance(data, dict) or not isinstance(data.get("sites"), list):
            raise ValueError("expected a table with sites")
        schema = from_json(int, data.get("schema", 1))
        if schema < 1:
            raise ValueError(f"schema is {schema}")
        if schema > cls.SCHEMA:
            raise ModelError(
                f"the model's {METADATA!r} metadata has schema {schema}, expected at most {cls.SCHEMA}: onnxquant "
                f"{data.get('version')} wrote it, this is {__version__}; update onnxquant to read it"
            )
        return from_json(cls, _from_version_1(data) if schema < cls.SCHEMA else data)

    @classmethod
    def read(cls, proto: onnx.ModelProto) -> Metadata | None:
        """The entry of a model; None where it holds no weights encoded by onnxquant.

        Raises:
            ModelError: the entry is damaged, or was written by a newer version.
        """
        return _read(cls, proto, METADATA)


def _from_version_1(data: JsonObject) -> JsonObject:
    """Metadata without a schema number: each result is a list of kind, x, y and perhaps a bias."""
    sites = []
    for site in cast(list[JsonValue], data["sites"]):
        results = site.get("results") if isinstance(site, dict) else None
        if not isinstance(site, dict) or not isinstance(results, list) or not all(isinstance(r, list) for r in results):
            raise ValueError(f"expected a table with results, not {str(site)[:60]!r}")
        tables = [dict(zip(("kind", "x", "y", "bias"), cast(list[JsonValue], r), strict=False)) for r in results]
        sites.append({**site, "results": tables})
    return {**data, "schema": Metadata.SCHEMA, "sites": cast(JsonValue, sites)}


@dataclass(frozen=True)
class Origin:
    """The sources of a file.

    Attributes:
        sha256: digest of the original model.
        options: options that shape the file, by name.
        rules: rules, as recipes hold them.
    """

    sha256: str
    options: Mapping[str, JsonValue] = field(default_factory=dict)
    rules: tuple[Mapping[str, JsonValue], ...] = ()

    def to_dict(self) -> JsonObject:
        """JSON data."""
        return to_object(self)

    @classmethod
    def from_dict(cls, data: JsonValue) -> Origin:
        """The inverse of ``to_dict``.

        Raises:
            ValueError: a value is missing or damaged.
        """
        return from_json(cls, data)

    @classmethod
    def read(cls, proto: onnx.ModelProto) -> Origin | None:
        """The entry of a model; None where onnxquant did not write it.

        Raises:
            ModelError: the entry is damaged.
        """
        return _read(cls, proto, ORIGIN)


def entry_text(entry: Metadata | Origin) -> str:
    """The text of a metadata entry."""
    return json.dumps(entry.to_dict(), separators=(",", ":"))


def activation_record(proto: onnx.ModelProto) -> ActivationRecord | None:
    """The integer activations of a model; None where activations are floats.

    Raises:
        ModelError: the metadata is damaged, or was written by a newer version.
    """
    metadata = Metadata.read(proto)
    return metadata.activations if metadata else None


def computes_in_float16(proto: onnx.ModelProto) -> bool:
    """Whether all that stays in float was made float16 beside the encoded weights of a model.

    Raises:
        ModelError: the metadata is damaged, or was written by a newer version.
    """
    metadata = Metadata.read(proto)
    return metadata is not None and bool(metadata.float16)


def rescaled_weights(proto: onnx.ModelProto) -> frozenset[str]:
    """Names of weights that are not the original's, but those of an equivalent function.

    Raises:
        ModelError: the metadata is damaged, or was written by a newer version.
    """
    metadata = Metadata.read(proto)
    return metadata.changed_weights if metadata else frozenset()


def records(proto: onnx.ModelProto) -> tuple[Record, ...]:
    """The encoded weights of a model; none where onnxquant did not write it.

    Raises:
        ModelError: the metadata is damaged, or was written by a newer version.
    """
    metadata = Metadata.read(proto)
    return metadata.records if metadata else ()


def _read(kind: type[E], proto: onnx.ModelProto, key: str) -> E | None:
    text = next((e.value for e in proto.metadata_props if e.key == key), "")
    try:
        return kind.from_dict(json.loads(text)) if text else None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the model's {key!r} metadata is damaged: {error}") from None
