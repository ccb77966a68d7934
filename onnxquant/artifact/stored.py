"""Reading encoded weights back from a file, and undoing what lowering did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.errors import ModelError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded
from onnxquant.graph.io import Document, load
from onnxquant.graph.names import ACTIVATION, DOMAIN, HASHES, ORIGIN, PROVENANCE
from onnxquant.graph.publish import Publisher, refuse_overwriting
from onnxquant.graph.sites import FLOATS, How, View
from onnxquant.graph.traverse import graphs, subgraphs, tensors
from onnxquant.native import dispatch
from onnxquant.plan.activations import ActivationRecord, read_activations
from onnxquant.targets import Lowered, Result
from onnxquant.targets.integers import Channels, Transposed
from onnxquant.targets.layouts import Columns, Dense, Layout, Rows, Table
from onnxquant.targets.tiles import Tiles

_PLAIN_LAYOUTS: dict[str, type[Columns] | type[Rows] | type[Table] | type[Tiles] | type[Transposed]] = {
    "columns": Columns,
    "rows": Rows,
    "table": Table,
    "tiles": Tiles,
    "transposed": Transposed,
}


T = onnx.TensorProto
_CODES = (T.UINT8, T.INT8, T.UINT4, T.INT4, T.UINT2, T.INT2)


@dataclass(frozen=True)
class Record:
    """What a file says of one encoded weight: enough to decode it and to undo its lowering."""

    name: str
    format: str
    parameters: dict[str, Any]
    target: str
    shape: tuple[int, ...]
    perm: tuple[int, ...]
    split: int
    elem_type: int
    lowered: Lowered

    @property
    def view(self) -> View:
        """How the matrix lies in the original tensor."""
        return View(self.shape, self.perm, self.split)

    @property
    def plane_names(self) -> set[str]:
        """Names of the tensors that hold the weight's planes."""
        return {name for planes in self.lowered.planes.values() for name in planes.values()}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the original tensor."""
        return np.dtype(FLOATS[self.elem_type])


def metadata(proto: onnx.ModelProto) -> dict[str, Any]:
    """Provenance that quantizing left in a model; empty when it is not ours.

    Raises:
        ModelError: the entry is there but damaged.
    """
    text = next((e.value for e in proto.metadata_props if e.key == PROVENANCE), "")
    if not text:
        return {}
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or not _tables(data.get("sites")):
            raise ValueError("expected a table with sites")
        if not isinstance(data.get("version"), str) or not _int(data.get("source_bytes")):
            raise ValueError("expected a version and the source's bytes")
        read_activations(data.get("activations", {}))
        if not _strings(data.get("rescaled", [])):
            raise ValueError("expected a list of the names of rescaled weights")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the model's {PROVENANCE!r} metadata is damaged: {error}") from None
    return data


def origin(proto: onnx.ModelProto) -> dict[str, Any]:
    """What a file says it was made of: ``sha256`` of the original, ``options`` and ``rules``; empty when it is not ours.

    Raises:
        ModelError: the entry is there but damaged.
    """
    text = next((e.value for e in proto.metadata_props if e.key == ORIGIN), "{}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the model's {ORIGIN!r} metadata is damaged: {error}") from None
    if not isinstance(data, dict):
        raise ModelError(f"the model's {ORIGIN!r} metadata is damaged: expected a table")
    return data


def activation_record(proto: onnx.ModelProto) -> ActivationRecord | None:
    """The integer activations of a model, as its metadata has them; None where activations are floats.

    Raises:
        ModelError: the entry is there but damaged.
    """
    return read_activations(metadata(proto).get("activations", {}))


def rescaled(proto: onnx.ModelProto) -> set[str]:
    """Weights that are not the original's, but those of an equal function."""
    record = activation_record(proto)
    return {*metadata(proto).get("rescaled", ()), *(record.rescaled if record else ())}


def _tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) for v in value)


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _ints(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(map(_int, value)):
        raise ValueError(f"{value!r} is not a list of numbers")
    return tuple(value)


def _names(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not value or not all(isinstance(v, str) for v in value.values()):
        raise ValueError(f"{value!r} is not a table of names")
    return value


def records(proto: onnx.ModelProto) -> list[Record]:
    """What a model says of its encoded weights; empty when it is not ours."""
    try:
        return [_record(entry) for entry in metadata(proto).get("sites", [])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"the model's {PROVENANCE!r} metadata is damaged: {error!r}") from None


def _record(entry: dict[str, Any]) -> Record:
    shape, perm, split, elem_type = _ints(entry["shape"]), _ints(entry["perm"]), entry["split"], entry["elem_type"]
    if sorted(perm) != list(range(len(shape))) or 0 in shape or prod(shape) >= 1 << 48:
        raise ValueError(f"shape {shape} in the order {perm}")
    if not _int(split) or split > len(shape) or not _int(elem_type) or elem_type not in FLOATS:
        raise ValueError(f"split {split!r} of element type {elem_type!r}")
    names = _names({k: entry[k] for k in ("name", "format", "target")})
    planes = {kind: _names(plane) for kind, plane in entry["planes"].items()}
    ends = [_names(dict(zip(("x", "y", "bias"), rest, strict=False))) for _, *rest in entry["results"]]
    results = [Result(How(how), **e) for (how, *_), e in zip(entry["results"], ends, strict=True)]
    if not planes or not isinstance(entry["parameters"], dict):
        raise ValueError(f"planes {planes} with the parameters {entry['parameters']!r}")
    lowered = Lowered(planes, results)
    return Record(**names, parameters=entry["parameters"], shape=shape, perm=perm, split=split, elem_type=elem_type,
                  lowered=lowered)  # fmt: skip


def read_encoded(document: Document, record: Record, index: dict[str, onnx.TensorProto] | None = None) -> Encoded:
    """An encoded weight of a quantized file, read from its planes on disk.

    Raises:
        ModelError: planes are missing or damaged.
    """
    index = index or plane_index(document.proto)
    kind, names = next(iter(record.lowered.planes.items()))
    layout = _layout(record, kind, document.opset)
    planes: dict[str, NDArray[Any]] = {}
    for plane, stored in layout.stored().items():
        tensor = index.get(names.get(plane, ""))
        if tensor is None:
            raise ModelError(f"{document.name}: plane {plane!r} of {record.name!r} is missing")
        if tuple(tensor.dims) != stored.shape or tensor.data_type != stored.elem_type:
            raise ModelError(
                f"{document.name}: plane {tensor.name!r} has shape {list(tensor.dims)}, expected {list(stored.shape)}"
            )
        raw = document.raw(tensor)
        if (len(raw) if raw is not None else 0) != stored.nbytes:
            raise ModelError(f"{document.name}: plane {tensor.name!r} does not hold {stored.nbytes} bytes")
        dtype = _array_type(plane, stored.elem_type)
        values = np.frombuffer(raw if raw is not None else b"", dtype)
        shaped = values.size * dtype.itemsize == stored.nbytes and values.size == np.prod(stored.shape, dtype=np.int64)
        planes[plane] = values.reshape(stored.shape) if shaped else values
    return layout.unpack(planes)


def plane_index(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers of all graphs by name."""
    return {t.name: t for g in graphs(proto.graph) for t in g.initializer}


def decode_weight(
    document: Document, record: Record, index: dict[str, onnx.TensorProto], encoded: Encoded | None = None
) -> NDArray[Any]:
    """The weight that a file's planes stand for, in its original shape and type; ``encoded``: as read already."""
    encoded = encoded or read_encoded(document, record, index)
    matrix = dispatch.decode(encoded)
    return np.ascontiguousarray(record.view.restore(matrix).astype(record.dtype, copy=False))


def digest(encoded: Encoded) -> str:
    """Hash of an encoded weight's planes, whatever order a layout stores them in."""
    out = hashlib.sha256()
    for name, plane in sorted(encoded.planes.items()):
        out.update(f"{name} {plane.dtype} {plane.shape}".encode())
        out.update(np.ascontiguousarray(plane).reshape(-1).view(np.uint8).data)
    return out.hexdigest()


def _array_type(plane: str, elem_type: int) -> np.dtype[Any]:
    """What the bytes of a plane are read as; codes are bytes, packed or not."""
    if plane in ("codes", "zero_points") and elem_type in _CODES:
        return np.dtype(np.uint8)
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))


def _layout(record: Record, kind: str, opset: int) -> Layout:
    form = format_named(record.format, **record.parameters)
    if kind == "dense":
        return Dense(form, record.view, opset)
    if kind == "channels":
        return Channels(form, record.view)
    if kind not in _PLAIN_LAYOUTS:
        raise ModelError(f"the model stores {record.name!r} in the unknown layout {kind!r}: made by a newer version?")
    return _PLAIN_LAYOUTS[kind](form, record.view.rows, record.view.cols)


def verify(path: str | Path) -> dict[str, bool]:
    """Check the stored hash of every tensor of a file of ours; True where it holds.

    Raises:
        ModelError: the file is not ours, or a tensor with a hash is missing.
    """
    results = check_hashes(load(path))
    if not results:
        raise ModelError(f"{path}: holds no hashes; only files written by onnxquant do")
    return results


def check_hashes(document: Document) -> dict[str, bool]:
    """Whether each tensor with a stored hash still has it; empty where there are none.

    Raises:
        ModelError: the entry that holds the hashes is damaged.
    """
    text = next((e.value for e in document.proto.metadata_props if e.key == HASHES), "")
    if not text:
        return {}
    try:
        hashes = _names(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{document.name}: its hashes are damaged: {error}") from None
    found: dict[str, list[str]] = {}
    for tensor in tensors(document.proto):
        if tensor.name in hashes:
            raw = document.raw(tensor)
            found.setdefault(tensor.name, []).append(hashlib.sha256(raw if raw is not None else b"").hexdigest())
    return {name: sorted(found.get(name, [])) == sorted(expected.split(",")) for name, expected in hashes.items()}


def dequantize(path: str | Path, output: str | Path, *, force: bool = False) -> int:
    """Write a plain float model that computes what a quantized file of ours stands for; number of weights decoded.

    Raises:
        ModelError: the file is not ours.
        OutputError: the output cannot be written.
    """
    document = load(path)
    if not records(document.proto):
        raise ModelError(f"{path}: holds no weights encoded by onnxquant")
    refuse_overwriting(document, Path(output))
    return write_float(document, Path(output), force=force)


def write_float(document: Document, output: Path, *, force: bool = False) -> int:
    """Write the float model that a quantized document stands for; number of weights decoded."""
    found = records(document.proto)
    index = plane_index(document.proto)
    size = sum(prod(r.shape) * r.dtype.itemsize for r in found)
    with Publisher(output, external=document.is_external() or size > 1 << 30, force=force) as publisher:
        proto = onnx.ModelProto()
        proto.CopyFrom(document.proto)
        restore(proto, found, publisher, lambda record: decode_weight(document, record, index))
        publisher.keep(proto, document)
        publisher.publish(proto)
    return len(found)


def restore(
    proto: onnx.ModelProto,
    found: list[Record],
    publisher: Publisher,
    decode: Callable[[Record], NDArray[Any]],
    *,
    keep_activations: bool = False,
) -> None:
    """Replace what lowering emitted by float weights and the standard ops on them, in place.

    ``keep_activations``: where activations are rounded to codes of fixed ranges, they still are.
    """
    for record in found:
        _restore_one(proto, record, publisher, decode)
    if not keep_activations:
        _join_activations(proto.graph)
    for graph in reversed(list(graphs(proto.graph))):
        _drop_dead(graph)
    functions = [f for f in proto.functions if f.domain != DOMAIN]
    copies = [onnx.FunctionProto.FromString(f.SerializeToString()) for f in functions]
    del proto.functions[:]
    proto.functions.extend(copies)
    kept = [e for e in proto.metadata_props if e.key not in (PROVENANCE, ORIGIN, HASHES)]
    entries = [(e.key, e.value) for e in kept]
    del proto.metadata_props[:]
    for key, value in entries:
        proto.metadata_props.add(key=key, value=value)


def _join_activations(graph: onnx.GraphProto) -> None:
    """Take out each QuantizeLinear and DequantizeLinear between which an activation was codes."""
    source, kept = {}, []
    for node in graph.node:
        if any(e.key == ACTIVATION for e in node.metadata_props):
            source[node.output[0]] = node.input[0]
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    known = {o.name for o in graph.output} | {n for node in kept for g in subgraphs(node) for n in _read_names(g)}
    # A name that callers or nested graphs know goes back to what made the values before they were rounded.
    names = {_first(source, name): name for name in source if name in known}
    for node in kept:
        node.input[:] = [names.get(n, n) for n in (_first(source, name) for name in node.input)]
        node.output[:] = [names.get(n, n) for n in node.output]
    del graph.node[:]
    graph.node.extend(kept)


def _first(source: Mapping[str, str], name: str) -> str:
    while name in source:
        name = source[name]
    return name


def _restore_one(
    proto: onnx.ModelProto, record: Record, publisher: Publisher, decode: Callable[[Record], NDArray[Any]]
) -> None:
    any_plane = next(iter(next(iter(record.lowered.planes.values())).values()))
    graph = next((g for g in graphs(proto.graph) if any(t.name == any_plane for t in g.initializer)), None)
    if graph is None:
        raise ModelError(f"plane {any_plane!r} of {record.name!r} is missing")
    weight = onnx.TensorProto(name=record.name, data_type=record.elem_type, dims=record.shape)
    values = decode(record)
    publisher.store(weight, values.nbytes, lambda: values)
    graph.initializer.append(weight)
    for result in record.lowered.results:
        _replace_maker(proto, record, result)


def _replace_maker(proto: onnx.ModelProto, record: Record, result: Result) -> None:
    for graph in graphs(proto.graph):
        for node in graph.node:
            if result.y not in node.output:
                continue
            made = _standard_nodes(record, result)
            at = list(graph.node).index(node)
            rebuilt = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node]
            rebuilt[at : at + 1] = made
            del graph.node[:]
            graph.node.extend(rebuilt)
            return
    raise ModelError(f"no node makes {result.y!r}, which {record.name!r} was lowered to")


def _standard_nodes(record: Record, result: Result) -> list[onnx.NodeProto]:
    make = onnx.helper.make_node
    if result.how is How.DENSE:
        return [make("Identity", [record.name], [result.y])]
    if result.how is How.LOOKUP:
        return [make("Gather", [record.name, result.x], [result.y], axis=0)]
    nodes, weight = [], record.name
    if record.perm != (1, 0):
        weight = f"{result.y}/weight"
        nodes.append(make("Transpose", [record.name], [weight], perm=[1, 0]))
    product = f"{result.y}/product" if result.bias else result.y
    nodes.append(make("MatMul", [result.x, weight], [product]))
    if result.bias:
        nodes.append(make("Add", [product, result.bias], [result.y]))
    return nodes


def _drop_dead(graph: onnx.GraphProto) -> None:
    """Remove nodes of ours whose outputs nothing reads, and initializers with them."""
    while True:
        read = {o.name for o in graph.output} | set(_read_names(graph))
        kept = [n for n in graph.node if any(o in read for o in n.output) or not n.metadata_props]
        if len(kept) == len(graph.node):
            break
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
        del graph.node[:]
        graph.node.extend(copies)
    copies_ = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(copies_)


def _read_names(graph: onnx.GraphProto) -> Iterator[str]:
    for inner in graphs(graph):
        for node in inner.node:
            yield from node.input
        for output in inner.output:
            yield output.name
