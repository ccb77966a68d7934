"""Differences between two models, or between two reports: weights, operators, sizes and metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.artifact.read import decode_weight, plane_index
from onnxquant.artifact.records import Metadata, Origin, Record
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document, load, nbytes
from onnxquant.graph.sites import FLOATS
from onnxquant.json_data import JsonKey, JsonObject, JsonValue, to_json, to_object
from onnxquant.numerics.difference import Difference
from onnxquant.plan.activations import ActivationRecord, StaticRecord
from onnxquant.recipe import schema

# Entries of a report's site that are read, but for those that may be null.
_SITE: dict[str, schema.Schema] = {
    "name": {"type": "string"},
    "shape": {"type": "array", "items": {"type": "integer"}},
    "parameters": {"type": "object"},
    "bytes": {"type": "integer"},
    "bits_per_weight": {"type": "number"},
}


@dataclass(frozen=True)
class WeightForm:
    """Form of one weight in one of the two files.

    Attributes:
        format: its format, or its float type.
        target: the target that holds it; None where it is a float.
        shape: its shape.
        parameters: parameters of the format.
        bytes: bytes that it takes.
        bits: bits per weight.
    """

    format: str
    target: str | None
    shape: list[int]
    parameters: JsonObject
    bytes: int
    bits: float


@dataclass(frozen=True)
class WeightDifference:
    """A weight that differs.

    Attributes:
        a, b: its form in each file; None where the file has none.
        sqnr_db: the second one's values against the first one's, in decibels; None where they are not known.
    """

    a: WeightForm | None
    b: WeightForm | None
    sqnr_db: float | None


@dataclass(frozen=True)
class BothValues:
    """The values of one fact in both files."""

    a: JsonValue
    b: JsonValue


@dataclass(frozen=True)
class Side:
    """One of the two files.

    Attributes:
        name: name of the file.
        weights: form of each weight, by name.
        facts: everything else that is compared, by name: sizes, operators, options.
        document: the model; None for a report, which has no values.
        stored: records of the encoded weights, by name.
    """

    name: str
    weights: dict[str, WeightForm]
    facts: JsonObject
    document: Document | None = None
    stored: dict[str, Record] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Side:
        """A model, or a report of ``quantize --json``.

        Raises:
            ModelError: the file is neither.
        """
        return _side_of_report(Path(path)) if Path(path).suffix == ".json" else _side_of_model(Path(path))

    def value(self, name: str) -> NDArray[Any] | None:
        """The floats that a weight stands for; None for a report, or where there is no such weight."""
        if self.document is None or name not in self.weights:
            return None
        index = plane_index(self.document.proto)
        if name in self.stored:
            return decode_weight(self.document, self.stored[name], index)
        return self.document.array(index[name])


@dataclass(frozen=True)
class Diff:
    """Differences of two files.

    Attributes:
        a, b: names of the files.
        weights: weights that differ, by name.
        same_weights: number of weights that do not differ.
        facts: other facts that differ, by name; ``about`` in JSON.
    """

    a: str
    b: str
    weights: dict[str, WeightDifference]
    same_weights: int
    facts: dict[str, BothValues] = field(metadata=JsonKey("about").metadata)

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.weights and not self.facts

    def summary(self) -> str:
        """One line."""
        if self.equal:
            return f"{self.a} and {self.b} do not differ: {self.same_weights} weights"
        lowest = min((w.sqnr_db for w in self.weights.values() if w.sqnr_db is not None), default=float("inf"))
        values = f", the values of one as little as {lowest:.1f} dB" if lowest < float("inf") else ""
        other = f"; {', '.join(k.replace('_', ' ') for k in self.facts)}" if self.facts else ""
        total = self.same_weights + len(self.weights)
        return f"{self.a} and {self.b} differ: {len(self.weights)} of {total} weights{values}{other}"

    def to_dict(self) -> JsonObject:
        """The differences as JSON data."""
        out = to_object(self)
        return {"a": out["a"], "b": out["b"], "equal": self.equal, **out}


def diff(a: str | Path, b: str | Path) -> Diff:
    """Compare two models, ours or not, or reports of ``quantize --json``.

    Args:
        a: an ``.onnx`` file, or a report as a ``.json`` file.
        b: another one.

    Raises:
        ModelError: one is neither, or damaged.
        RecipeError: a field of a report has a value of the wrong type.
    """
    one, two = Side.read(a), Side.read(b)
    weights, same = {}, 0
    for name in dict.fromkeys([*one.weights, *two.weights]):
        forms = [side.weights[name] for side in (one, two) if name in side.weights]
        if len(forms) == 1 and len(forms[0].shape) < 2:
            continue  # vectors on one side only, such as scales and biases that passes made: the operators show them
        if difference := _weight(name, one, two):
            weights[name] = difference
        else:
            same += 1
    shared = [key for key in one.facts if key in two.facts]
    facts = {k: BothValues(one.facts[k], two.facts[k]) for k in shared if one.facts[k] != two.facts[k]}
    return Diff(one.name, two.name, weights, same, facts)


def _weight(name: str, one: Side, two: Side) -> WeightDifference | None:
    """The difference of one weight; None where there is none."""
    a, b = one.value(name), two.value(name)
    sqnr_db = None
    if a is not None and b is not None:
        difference = Difference()
        difference.add(np.asarray(a), np.asarray(b))
        sqnr_db = difference.sqnr_db
    forms = one.weights.get(name), two.weights.get(name)
    if forms[0] == forms[1] and sqnr_db in (None, float("inf")):
        return None
    return WeightDifference(*forms, sqnr_db)


def _side_of_model(path: Path) -> Side:
    """The facts and weights of a model."""
    document = load(path)
    proto = document.proto
    metadata, origin = Metadata.read(proto), Origin.read(proto)
    stored = {r.name: r for r in (metadata.records if metadata else ())}
    planes = {name for record in stored.values() for name in record.plane_names}
    index = plane_index(proto)
    weights = {
        name: _encoded(r, sum(nbytes(index[n]) for n in r.plane_names if n in index)) for name, r in stored.items()
    }
    for tensor in index.values():
        if tensor.name not in planes and tensor.data_type in FLOATS:
            size, shape = nbytes(tensor), list(tensor.dims)
            weights[tensor.name] = WeightForm(FLOATS[tensor.data_type], None, shape, {}, size, _bits(size, shape))
    facts = {
        "bytes": document.size(),
        "opset": {o.domain or "ai.onnx": o.version for o in proto.opset_import},
        "ops": runtime.histogram(proto),
        "inputs": [i.name for i in proto.graph.input],
        "outputs": [o.name for o in proto.graph.output],
        "activations": _activations(metadata.activations if metadata else None),
        "version": metadata.version if metadata else None,
        "original": origin.sha256 if origin else None,
        "options": origin.options if origin else {},
        "rules": origin.rules if origin else [],
    }
    return Side(str(path), weights, to_object(facts), document, stored)


def _activations(record: ActivationRecord | None) -> JsonObject:
    """Kind, type and method of integer activations; None each where activations are floats."""
    if record is None:
        return {"kind": None, "type": None, "method": None}
    method = record.method if isinstance(record, StaticRecord) else None
    return {"kind": to_json(record.kind), "type": record.code_type, "method": method}


def _encoded(record: Record, size: int) -> WeightForm:
    parameters, shape = to_object(record.parameters), list(record.shape)
    return WeightForm(record.format, record.target, shape, parameters, size, _bits(size, shape))


def _bits(size: int, shape: Iterable[int]) -> float:
    return round(8 * size / max(prod(shape), 1), 4)


def _side_of_report(path: Path) -> Side:
    """The facts and weights of a report of ``quantize --json``."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is no report: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("sites"), list):
        raise ModelError(f"{path}: is no report of `onnxquant quantize --json`: it has no sites")
    weights = {}
    for i, site in enumerate(data["sites"]):
        try:
            schema.check(site, {"type": "object", "properties": _SITE}, f"{path}: sites[{i}]")
            weights[str(site["name"])] = WeightForm(
                format=site["format"] or site["dtype"],
                target=site["target"],
                shape=list(site["shape"]),
                parameters=site["parameters"],
                bytes=site["bytes"],
                bits=site["bits_per_weight"],
            )
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path}: sites[{i}] is damaged: {error}") from None
    size = data.get("output_bytes") or data.get("predicted_bytes")
    return Side(str(path), weights, {"bytes": cast(JsonValue, size)})
