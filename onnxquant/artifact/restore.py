"""The way back from a quantized file to a float model of its decoded weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxquant.arguments import checked
from onnxquant.artifact.read import decode_weight, plane_index
from onnxquant.artifact.records import Record, records
from onnxquant.errors import ModelError
from onnxquant.graph.data_files import DataFiles, named_like
from onnxquant.graph.io import Document, load
from onnxquant.graph.names import ACTIVATION, DOMAIN, HASHES, METADATA, ORIGIN, SEAL, SITE
from onnxquant.graph.needs import UseKind
from onnxquant.graph.node import is_op
from onnxquant.graph.publish import Publisher, refuse_overwriting
from onnxquant.graph.traverse import graphs, names_read, replace_field, subgraphs
from onnxquant.recipe.progress import Progress, silent
from onnxquant.targets import Result
from onnxquant.targets.experts import take_floats
from onnxquant.targets.integer_operators import expand_integer_operators
from onnxquant.targets.kinds import LSTM_ON_INTEGERS

# Larger models do not fit one protobuf file with room to spare.
_MOST_INLINE = 1 << 30

Decode = Callable[[Record], NDArray[Any]]


@checked
def dequantize(path: str | Path, output: str | Path, *, force: bool = False, progress: Progress = silent) -> int:
    """Write a float model with the decoded weights of a quantized file and standard operators alone.

    Args:
        path: the quantized file.
        output: file to write.
        force: replace an existing output.
        progress: called with the name of the stage and the part of it that is done.

    Returns:
        the number of weights decoded.

    Raises:
        ModelError: the file is not ours.
        OutputError: the output cannot be written.
    """
    document = load(path)
    if not records(document.proto):
        raise ModelError(f"{path}: holds no weights encoded by onnxquant")
    data = named_like(document, Path(output))
    refuse_overwriting(document, Path(output), data)
    return write_float(document, Path(output), force=force, data=data, progress=progress)


def write_float(
    document: Document,
    output: Path,
    *,
    force: bool = False,
    data: DataFiles | None = None,
    progress: Progress = silent,
) -> int:
    """Write the float model that a quantized document stands for.

    Args:
        document: the quantized document.
        output: file to write.
        force: whether an existing output is replaced.
        data: names of its data files; None: ``<output>.data``.
        progress: called with the name of the stage and the part of it that is done.

    Returns:
        the number of weights decoded.
    """
    encoded = records(document.proto)
    index = plane_index(document.proto)
    size = sum(record.elements * record.dtype.itemsize for record in encoded)
    external = document.is_external() or size > _MOST_INLINE
    done = 0

    def decode(record: Record) -> NDArray[Any]:
        nonlocal done
        progress("decoding weights", done / size)
        done += record.elements * record.dtype.itemsize
        return decode_weight(document, record, index)

    with Publisher(output, external=external, force=force, data=data, source=document) as publisher:
        proto = onnx.ModelProto()
        proto.CopyFrom(document.proto)
        restore(proto, publisher, decode)
        publisher.keep(proto, document)
        publisher.publish(proto)
    return len(encoded)


def restore(proto: onnx.ModelProto, publisher: Publisher, decode: Decode, *, keep_activations: bool = False) -> None:
    """Replace the nodes that lowering made by float weights and the standard operators on them, in place.

    Args:
        proto: the quantized model.
        publisher: receives the float weights.
        decode: gives the float weight of a record.
        keep_activations: whether activations that are rounded to codes of fixed ranges still are.
    """
    expand_integer_operators(proto)
    for record in records(proto):
        _restore_weight(proto, record, publisher, decode)
    if not keep_activations:
        _remove_rounding(proto.graph)
    for graph in reversed(list(graphs(proto.graph))):
        _drop_unread(graph)
    replace_field(proto.functions, [f for f in proto.functions if f.domain != DOMAIN])
    replace_field(proto.metadata_props, [e for e in proto.metadata_props if e.key not in (METADATA, ORIGIN, HASHES, SEAL)])


def _remove_rounding(graph: onnx.GraphProto) -> None:
    """Take out each QuantizeLinear and DequantizeLinear between which an activation was codes."""
    sources, nodes = {}, []
    for node in graph.node:
        if any(e.key == ACTIVATION for e in node.metadata_props):
            sources[node.output[0]] = node.input[0]
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    public = {o.name for o in graph.output} | {n for node in nodes for g in subgraphs(node) for n in names_read(g)}
    # A name that callers or nested graphs know goes back to the node that made the values before they were rounded.
    renamed = {_exact(sources, name): name for name in sources if name in public}
    for node in nodes:
        node.input[:] = [renamed.get(n, n) for n in (_exact(sources, name) for name in node.input)]
        node.output[:] = [renamed.get(n, n) for n in node.output]
    del graph.node[:]
    graph.node.extend(nodes)


def _exact(sources: Mapping[str, str], name: str) -> str:
    """The tensor before it was rounded."""
    while name in sources:
        name = sources[name]
    return name


def _restore_weight(proto: onnx.ModelProto, record: Record, publisher: Publisher, decode: Decode) -> None:
    """Store the decoded weight as an initializer, and standard nodes in the place of those that read its planes."""
    plane = min(record.plane_names)
    graph = next((g for g in graphs(proto.graph) if any(t.name == plane for t in g.initializer)), None)
    if graph is None:
        raise ModelError(f"plane {plane!r} of {record.name!r} is missing")
    weight = onnx.TensorProto(name=record.name, data_type=record.elem_type, dims=record.shape)
    values = decode(record)
    publisher.store(weight, values.nbytes, lambda: values)
    graph.initializer.append(weight)
    for result in record.results:
        _replace_producer(proto, record, result)


def _replace_producer(proto: onnx.ModelProto, record: Record, result: Result) -> None:
    """Put standard nodes in the place of the node that computes a result."""
    for graph in graphs(proto.graph):
        for index, node in enumerate(graph.node):
            if result.y in node.output:
                if node.op_type == LSTM_ON_INTEGERS or is_op(node, "LSTM"):
                    _restore_layer(node, record)
                    return
                if result.kind is UseKind.EXPERTS:
                    take_floats(node, result.x, record.name)
                    return
                nodes = list(graph.node)
                replace_field(graph.node, [*nodes[:index], *_standard_nodes(record, result), *nodes[index + 1 :]])
                return
    raise ModelError(f"no node makes {result.y!r}, which {record.name!r} was lowered to")


def _restore_layer(node: onnx.NodeProto, record: Record) -> None:
    """Let a recurrent layer read a float weight, in place; it is a standard one once both of its weights are restored."""
    place = next(i for i, name in enumerate(node.input) if name in record.plane_names)
    node.input[place] = record.name
    node.op_type, node.domain = "LSTM", ""
    del node.input[8:]


def _standard_nodes(record: Record, result: Result) -> list[onnx.NodeProto]:
    """Nodes of standard operators that compute a result from the float weight."""
    make, nodes, weight = onnx.helper.make_node, list[onnx.NodeProto](), record.name
    if result.half:
        weight = f"{result.y}/float16"
        nodes.append(make("Cast", [record.name], [weight], to=onnx.TensorProto.FLOAT16))
    if result.kind is UseKind.DENSE:
        return [*nodes, make("Identity", [weight], [result.y])]
    if result.kind is UseKind.LOOKUP:
        return [*nodes, make("Gather", [weight, result.x], [result.y], axis=0)]
    if record.perm != (1, 0):
        transposed = f"{result.y}/weight"
        nodes.append(make("Transpose", [weight], [transposed], perm=[1, 0]))
        weight = transposed
    product = f"{result.y}/product" if result.bias else result.y
    nodes.append(make("MatMul", [result.x, weight], [product]))
    if result.bias:
        nodes.append(make("Add", [product, result.bias], [result.y]))
    return nodes


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes of lowering whose outputs nothing reads, then every initializer that nothing reads.

    The value of an input stays: without it callers had to give one.
    """
    inputs = {i.name for i in graph.input}
    while True:
        names = {o.name for o in graph.output} | set(names_read(graph))
        nodes = [n for n in graph.node if any(o in names for o in n.output) or not _is_ours(n)]
        if len(nodes) == len(graph.node):
            break
        replace_field(graph.node, nodes)
    replace_field(graph.initializer, [t for t in graph.initializer if t.name in names | inputs])


def _is_ours(node: onnx.NodeProto) -> bool:
    """Whether lowering made a node: exporters have metadata of their own."""
    return any(entry.key in (SITE, ACTIVATION) for entry in node.metadata_props)
