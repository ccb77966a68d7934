"""What differs between two models, or between two reports: weights, operators, sizes, and what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.artifact.stored import Record, decode_weight, metadata, origin, plane_index, records
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document, load, nbytes
from onnxquant.graph.sites import FLOATS
from onnxquant.numerics.difference import Difference, number
from onnxquant.recipe import schema

# What is read of a site of a report, beside names that may be null.
_SITE: dict[str, schema.Schema] = {
    "name": {"type": "string"},
    "shape": {"type": "array", "items": {"type": "integer"}},
    "parameters": {"type": "object"},
    "bytes": {"type": "integer"},
    "bits_per_weight": {"type": "number"},
}


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        name: of the file.
        weights: by name, what is said of each.
        about: everything else that is compared: sizes, operators, options ...
        document: the model; None for a report, whose values are not known.
        stored: encoded weights of the model, by name.
    """

    name: str
    weights: dict[str, dict[str, Any]]
    about: dict[str, Any]
    document: Document | None = None
    stored: dict[str, Record] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Side:
        """A model, or a report of ``quantize --json``.

        Raises:
            ModelError: the file is neither.
        """
        return _report(Path(path)) if Path(path).suffix == ".json" else _model(Path(path))

    def value(self, name: str) -> NDArray[Any] | None:
        """The floats that a weight stands for."""
        if self.document is None:
            return None
        index = plane_index(self.document.proto)
        if name in self.stored:
            return decode_weight(self.document, self.stored[name], index)
        return self.document.array(index[name])


@dataclass(frozen=True)
class Diff:
    """What differs.

    Attributes:
        names: of the two.
        weights: by name, what each side says of a weight, and ``sqnr_db`` of the second's values against the first's.
        about: by key, the two values.
        same: number of weights that do not differ.
    """

    names: tuple[str, str]
    weights: dict[str, dict[str, Any]]
    about: dict[str, tuple[Any, Any]]
    same: int

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.weights and not self.about

    def summary(self) -> str:
        """One line."""
        if self.equal:
            return f"{self.names[0]} and {self.names[1]} do not differ: {self.same} weights"
        found = [float(w["sqnr_db"]) for w in self.weights.values() if w["sqnr_db"] is not None]
        lowest = f", the values of one as little as {min(found):.1f} dB" if found and min(found) < float("inf") else ""
        other = f"; {', '.join(k.replace('_', ' ') for k in self.about)}" if self.about else ""
        total = self.same + len(self.weights)
        return f"{self.names[0]} and {self.names[1]} differ: {len(self.weights)} of {total} weights{lowest}{other}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "a": self.names[0],
            "b": self.names[1],
            "equal": self.equal,
            "weights": self.weights,
            "same_weights": self.same,
            "about": {key: {"a": a, "b": b} for key, (a, b) in self.about.items()},
        }


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
        alone = [side.weights[name] for side in (one, two) if name in side.weights]
        if len(alone) == 1 and len(alone[0]["shape"]) < 2:
            continue  # what passes make or fold, such as scales and biases: the operators tell of them
        found = _weight(name, one, two)
        if found:
            weights[name] = found
        else:
            same += 1
    keys = [k for k in dict.fromkeys([*one.about, *two.about]) if k in one.about and k in two.about]
    about = {k: (one.about[k], two.about[k]) for k in keys if one.about[k] != two.about[k]}
    return Diff((one.name, two.name), weights, about, same)


def _weight(name: str, one: Side, two: Side) -> dict[str, Any]:
    """What differs in one weight; empty where nothing does."""
    sides = {"a": one.weights.get(name), "b": two.weights.get(name)}
    values = [side.value(name) if name in side.weights else None for side in (one, two)]
    measured: Any = None
    if values[0] is not None and values[1] is not None:
        found = Difference()
        found.add(np.asarray(values[0]), np.asarray(values[1]))
        measured = number(found.sqnr_db)
    if sides["a"] == sides["b"] and measured in (None, number(float("inf"))):
        return {}
    return {**sides, "sqnr_db": measured}


def _model(path: Path) -> Side:
    document = load(path)
    proto = document.proto
    stored = {r.name: r for r in records(proto)}
    planes = {n for r in stored.values() for names in r.lowered.planes.values() for n in names.values()}
    index = plane_index(proto)
    weights = {name: _encoded(r, sum(nbytes(index[n]) for n in _planes(r) if n in index)) for name, r in stored.items()}
    for tensor in index.values():
        if tensor.name not in planes and tensor.data_type in FLOATS:
            about = {"format": FLOATS[tensor.data_type], "target": None, "shape": list(tensor.dims)}
            weights[tensor.name] = {
                **about,
                "parameters": {},
                "bytes": nbytes(tensor),
                **_bits(nbytes(tensor), tensor.dims),
            }
    said, made_of = metadata(proto), origin(proto)
    activations = {k: said.get("activations", {}).get(k) for k in ("kind", "type", "method")}
    return Side(
        str(path),
        weights,
        {
            "bytes": document.size(),
            "opset": {o.domain or "ai.onnx": o.version for o in proto.opset_import},
            "ops": runtime.histogram(proto),
            "inputs": [i.name for i in proto.graph.input],
            "outputs": [o.name for o in proto.graph.output],
            "activations": activations,
            "version": said.get("version"),
            "original": made_of.get("sha256"),
            "options": made_of.get("options", {}),
            "rules": made_of.get("rules", []),
        },
        document,
        stored,
    )


def _planes(record: Record) -> Iterable[str]:
    return {n for names in record.lowered.planes.values() for n in names.values()}


def _encoded(record: Record, size: int) -> dict[str, Any]:
    return {
        "format": record.format,
        "target": record.target,
        "shape": list(record.shape),
        "parameters": record.parameters,
        "bytes": size,
        **_bits(size, record.shape),
    }


def _bits(size: int, shape: Iterable[int]) -> dict[str, float]:
    return {"bits": round(8 * size / max(int(np.prod(list(shape), dtype=np.int64)), 1), 4)}


def _report(path: Path) -> Side:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is no report: {error}") from None
    if not isinstance(data, Mapping) or not isinstance(data.get("sites"), list):
        raise ModelError(f"{path}: is no report of `onnxquant quantize --json`: it has no sites")
    weights = {}
    for i, site in enumerate(data["sites"]):
        try:
            schema.check(site, {"type": "object", "properties": _SITE}, f"{path}: sites[{i}]")
            weights[site["name"]] = {
                "format": site["format"] or site["dtype"],
                "target": site["target"],
                "shape": list(site["shape"]),
                "parameters": site["parameters"],
                "bytes": site["bytes"],
                "bits": site["bits_per_weight"],
            }
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path}: sites[{i}] is damaged: {error}") from None
    return Side(str(path), weights, {"bytes": data.get("output_bytes") or data.get("predicted_bytes")})
