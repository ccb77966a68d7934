"""Loading: the graph in memory, its tensors mapped and read one at a time."""

from __future__ import annotations

import mmap
import sys
import tempfile
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 and the 4-bit types with numpy
import numpy as np
import onnx
import onnx.defs
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from onnxquant.errors import ExternalDataError, ModelError
from onnxquant.graph import external, wire
from onnxquant.graph.computed import Computation
from onnxquant.graph.traverse import graphs, nodes, tensors

# What the installed onnx knows: operators that no pass knows are left alone.
MAX_OPSET, MAX_IR = max(26, onnx.defs.onnx_opset_version()), max(13, onnx.IR_VERSION)
MIN_OPSET = 7
_SUB_BYTE: dict[int, int] = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT2: 2,
    onnx.TensorProto.UINT2: 2,
    onnx.TensorProto.FLOAT4E2M1: 4,
}


class Document:
    """A model whose large tensors lie in mapped files.

    ``proto`` is a complete ModelProto except that each tensor above 1 KiB is a reference; ``array`` reads it.

    Attributes:
        proto: the model.
        path: its file; None for a model given as an object.
        least_elements: size of the smallest weight that may be encoded; None: the usual one.
        computations: the computations of folded weights, by the key that the weight is marked with.
    """

    def __init__(
        self, proto: onnx.ModelProto, buffer: memoryview, path: Path | None, roots: Sequence[Path] = ()
    ) -> None:
        self.proto = proto
        self.path = path
        self._buffer = buffer
        self._roots = tuple(roots)
        self.least_elements: int | None = None
        self._mapped: dict[str, memoryview] = {}
        self.computations: dict[str, Computation] = {}

    def copy(self) -> Document:
        """A document of its own over the same mapped bytes."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        copy = Document(proto, self._buffer, self.path, self._roots)
        copy.least_elements = self.least_elements
        copy._mapped.update(self._mapped)
        copy.computations.update(self.computations)
        return copy

    def spill(self, tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
        """Give a tensor values that lie in a temporary file, which goes with the documents that read it."""
        with tempfile.TemporaryFile(prefix="onnxquant-") as file:
            np.ascontiguousarray(values).reshape(-1).view(np.uint8).tofile(file)
            file.flush()
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        location = f"{wire.COMPUTED}{len(self._mapped)}"
        self._mapped[location] = mapped
        external.refer(tensor, location, 0, len(mapped))

    @property
    def name(self) -> str:
        """Name of the model in messages."""
        return str(self.path) if self.path else "<ModelProto>"

    @property
    def opset(self) -> int:
        """Version of the default domain (0 when it is not imported)."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 0)

    def raw(self, tensor: onnx.TensorProto) -> memoryview | None:
        """Bytes of a tensor that is stored by reference or as raw data; None when it is in a typed field."""
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location, offset, length = external.reference(tensor)
            data = self._buffer if location == wire.INLINE else self._file(location)
            expected = nbytes(tensor)
            end = len(data) if length is None else offset + length
            inexact = location == wire.INLINE and length != expected  # raw data has the tensor's length, no more
            if location != wire.INLINE and offset + expected > len(data):
                raise ExternalDataError(self._cut_short(tensor, location, len(data)))
            if end > len(data) or offset > end or end - offset < expected or inexact:
                raise ExternalDataError(
                    f"tensor {tensor.name!r}: external data {_shown(location)} holds {len(data)} bytes; offset {offset}, "
                    f"length {length} do not give the {expected} bytes of shape {list(tensor.dims)}"
                )
            return data[offset : offset + expected]
        return memoryview(tensor.raw_data) if tensor.raw_data else None

    def _cut_short(self, tensor: onnx.TensorProto, location: str, size: int) -> str:
        """The message on a data file that is shorter than its tensors need.

        Args:
            tensor: the first tensor that does not lie in it.
            location: its name.
            size: its bytes.
        """
        external_ones = (t for t in tensors(self.proto) if t.data_location == onnx.TensorProto.EXTERNAL)
        places = ((external.reference(t), t) for t in external_ones)
        needed = max(place.offset + nbytes(t) for place, t in places if place.location == location)
        where = self.path.parent / location if self.path else Path(location)
        return (
            f"{where}: holds {size} bytes, expected {needed} or more for the tensors of {self.name}, such as "
            f"{tensor.name!r}: the file was cut short, or is another model's; copy or download it again"
        )

    def array(self, tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
        """Values of a tensor; a read-only view of the mapped file where the type allows it.

        Raises:
            ModelError: the tensor's bytes do not fit its shape, or its type is unknown.
        """
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
            raw = self.raw(tensor)
            if raw is not None and tensor.data_type not in _SUB_BYTE:
                if len(raw) != nbytes(tensor):
                    raise ModelError(
                        f"tensor {tensor.name!r}: {len(raw)} bytes stored, {nbytes(tensor)} expected for shape "
                        f"{list(tensor.dims)}"
                    )
                return np.frombuffer(raw, dtype=dtype).reshape(tuple(tensor.dims))
            complete = onnx.TensorProto()
            complete.CopyFrom(tensor)
            if raw is not None:
                _inline(complete, bytes(raw))
            return np.asarray(onnx.numpy_helper.to_array(complete))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"tensor {tensor.name!r} of {self.name} cannot be read: {error}") from None

    def referenced(self, tensor: onnx.TensorProto) -> memoryview | None:
        """Bytes of a tensor that is stored by reference; None for one that carries its own."""
        return self.raw(tensor) if tensor.data_location == onnx.TensorProto.EXTERNAL else None

    def inline(self, tensor: onnx.TensorProto) -> None:
        """Put the bytes of a referenced tensor back into it."""
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raw = self.raw(tensor)
            _inline(tensor, bytes(raw) if raw is not None else b"")

    def is_external(self) -> bool:
        """Whether the model keeps tensors in files of their own."""
        return bool(self.data_files())

    def data_files(self) -> list[Path]:
        """Files beside the model that hold its tensors."""
        return [self.path.parent / location for location in self.locations()] if self.path else []

    def locations(self) -> list[str]:
        """Names of the files that hold the model's tensors, as the tensors say them."""
        used = (external.reference(t)[0] for t in tensors(self.proto) if t.data_location == onnx.TensorProto.EXTERNAL)
        return [location for location in dict.fromkeys(used) if not location.startswith("\x00")]

    def follows_links(self) -> bool:
        """Whether the data files are reached through symbolic links, which not every onnxruntime follows."""
        base = self.path.parent.resolve() if self.path else Path()
        return any((base / location).resolve() != base / location for location in self.locations())

    def link_notes(self) -> list[str]:
        """A sentence for each data file that is a link, or that has another name as well."""
        notes = []
        for file in self.data_files():
            if file.is_symlink():
                notes.append(f"external data {file.name} is read through a link to {file.resolve()}")
            elif (names := file.stat().st_nlink) > 1:
                notes.append(f"external data {file.name} is one of {names} names of the same file (hard links)")
        return notes

    def size(self) -> int:
        """Bytes on disk: the model file and its data files."""
        return len(self._buffer) + sum(len(self._file(location)) for location in self.locations())

    def _file(self, location: str) -> memoryview:
        """A mapped data file of the model, by the location that tensors name."""
        if location not in self._mapped:
            if self.path is None:
                raise ExternalDataError(
                    f"external data {location!r} of a model given as an object: pass its path instead"
                )
            # Beside the real model may lie what its folder has links to: a download cache keeps both in one folder.
            real_folder = [self.path.resolve().parent] if self.path.is_symlink() else []
            self._mapped[location] = external.open_mapped(self.path.parent, location, [*self._roots, *real_folder])
        return self._mapped[location]


def load(source: str | Path | onnx.ModelProto, external_roots: Sequence[str | Path] = ()) -> Document:
    """Read a model; a path, a ModelProto or an onnx_graphsurgeon Graph.

    Raises:
        ModelError: missing, not an ONNX model, truncated, without a graph, or with an unsupported opset or IR.
        ExternalDataError: a tensor's file is missing, outside the model's folder, or too small.
    """
    roots = tuple(Path(r) for r in external_roots)
    if isinstance(source, (str, Path)):
        path = Path(source)
        buffer = _map_file(path)
    else:
        path = None
        buffer = memoryview(_as_proto(source).SerializeToString())
    proto = _parsed(buffer, str(path) if path else "<ModelProto>")
    document = Document(proto, buffer, path, roots)
    _check(document)
    return document


def outlined(model: Path | bytes) -> onnx.ModelProto:
    """The graph of a model file or of a serialized model, without the bytes of its large tensors.

    Raises:
        ModelError: not an ONNX model.
    """
    return _parsed(_map_file(model), str(model)) if isinstance(model, Path) else _parsed(memoryview(model), "the model")


def _parsed(buffer: memoryview, name: str) -> onnx.ModelProto:
    """A model whose large tensors are references into its bytes."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(wire.outline(buffer))
    except DecodeError as error:
        raise ModelError(f"{name}: not an ONNX model, or truncated ({error})") from None
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    return proto


def _check(document: Document) -> None:
    """Refuse a model that later steps could not work on."""
    proto = document.proto
    # An empty file parses as a valid, empty model: say so instead of converting nothing.
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"{document.name}: has no graph; expected an ONNX model")
    if not MIN_OPSET <= document.opset <= MAX_OPSET:
        raise ModelError(
            f"{document.name}: opset {document.opset or 'missing'} is not supported; expected {MIN_OPSET} to {MAX_OPSET}"
        )
    if proto.ir_version > MAX_IR:
        raise ModelError(f"{document.name}: IR version {proto.ir_version} is not supported; expected at most {MAX_IR}")
    for text in _texts(proto):
        if not isinstance(text, str):  # protobuf hands out bytes where a string is not UTF-8
            raise ModelError(f"{document.name}: the name {text!r} is not UTF-8: the file is damaged")
    for graph in graphs(proto.graph):
        if name := _repeated_name(graph):
            raise ModelError(f"{document.name}: two tensors of graph {graph.name!r} have the name {name!r}; expected one")
    for tensor in tensors(proto):
        if any(d < 0 for d in tensor.dims):
            raise ModelError(f"{document.name}: tensor {tensor.name!r} has a negative dimension {list(tensor.dims)}")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            document.raw(tensor)


def _repeated_name(graph: onnx.GraphProto) -> str | None:
    """A name that two initializers, or two nodes of one graph, give a tensor; None where there is none."""
    names: set[str] = set()
    stored = [t.name for t in graph.initializer] + [s.values.name for s in graph.sparse_initializer]
    for name in (*stored, *(output for node in graph.node for output in node.output if output)):
        if name in names:
            return name
        names.add(name)
    return None


def _texts(proto: onnx.ModelProto) -> Iterator[str | bytes]:
    """Every name in a model."""
    for graph in graphs(proto.graph):
        for values in (graph.input, graph.output, graph.initializer, graph.value_info):
            yield from (v.name for v in values)
        for value in (*graph.input, *graph.output):
            yield from (d.dim_param for d in value.type.tensor_type.shape.dim)
    for node in nodes(proto):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (a.name for a in node.attribute)
    yield from (t.name for t in tensors(proto))
    yield from (o.domain for o in proto.opset_import)
    for function in proto.functions:
        yield from (function.domain, function.name, *function.input, *function.output)
    for entry in proto.metadata_props:
        yield from (entry.key, entry.value)


def _map_file(path: Path) -> memoryview:
    """The bytes of a model file, mapped."""
    try:
        if not path.exists():
            lost = f"is a link to {path.readlink()}, which is not there" if path.is_symlink() else "no such file"
            raise ModelError(f"{path}: {lost}")
        if path.is_dir():
            inside = min(path.glob("*.onnx"), default=None)
            advice = f", such as {inside}" if inside else ", and it has no *.onnx file"
            raise ModelError(f"{path}: is a folder; expected a file{advice}")
        if not path.is_file():
            raise ModelError(f"{path}: not a file")
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise ModelError(f"{path}: the file is empty; expected an ONNX model")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None


def _as_proto(source: object) -> onnx.ModelProto:
    """The model of a source that is no path."""
    if isinstance(source, onnx.ModelProto):
        return source
    # Only who has imported graphsurgeon can have a Graph of it.
    gs = sys.modules.get("onnx_graphsurgeon")
    if gs is not None and isinstance(source, gs.Graph):
        proto: onnx.ModelProto = gs.export_onnx(source)
        return proto
    raise ModelError(
        f"a model is a path, an onnx.ModelProto or an onnx_graphsurgeon.Graph, not {type(source).__name__}"
    )


def nbytes(tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor's values take when packed, from its type and shape alone."""
    count = prod(tensor.dims)
    bits = _SUB_BYTE.get(tensor.data_type)
    if bits:
        return (count * bits + 7) // 8
    try:
        return count * int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize)
    except KeyError:
        raise ModelError(f"tensor {tensor.name!r} has the unknown type {tensor.data_type}") from None


def _inline(tensor: onnx.TensorProto, raw: bytes) -> None:
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = raw


def _shown(location: str) -> str:
    return "inside the model file" if location == wire.INLINE else repr(location)
