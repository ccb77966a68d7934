"""Our operator MapCodes: a function of each element between codes and codes, as a table of 256 codes.

A table holds what onnxruntime computes of every code, so that nothing changes but the time. The operator's body is the
nodes that it replaces; each function of a model has a body, and with it a name, MapCodes1 and so on. The nodes' constants are
inputs, which the kernel does not read: functions that differ in them alone share a body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN, NameAllocator
from onnxquant.graph.node import STANDARD, is_op
from onnxquant.graph.shapes import UNKNOWN, Known, infer
from onnxquant.graph.traverse import names_of, replace_field
from onnxquant.targets.code_regions import CodeRegion, code_regions, constant_inputs

MAP_CODES = "MapCodes"
# Names that the compiled library has.
MOST_NAMES = 16
_TABLES, _AXIS = "tables", "axis"

Fresh = Callable[[str], str]


@dataclass(frozen=True)
class _Channels:
    """Channels of which each has a table.

    Attributes:
        axis: their axis, from the end.
        count: number of channels.
    """

    axis: int = -1
    count: int = 1


@dataclass(frozen=True)
class _Call:
    """A call in the place of a region.

    Attributes:
        region: the region.
        channels: its channels.
        constants: names of the constants that its nodes read, in their order.
        nodes: its nodes with the names that they have in a body: they read ``X`` and ``c1`` and so on, and compute ``Y``.
    """

    region: CodeRegion
    channels: _Channels
    constants: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]

    def body(self, name: str, opsets: Sequence[onnx.OperatorSetIdProto]) -> onnx.FunctionProto:
        """Its body.

        Args:
            name: name of the function.
            opsets: the model's versions of domains.
        """
        function = onnx.FunctionProto(domain=DOMAIN, name=name, output=["Y"], attribute=[_TABLES, _AXIS])
        function.input.extend(["X", *(f"c{i + 1}" for i in range(len(self.constants)))])
        used = {_domain(node.domain) for node in self.nodes}
        function.opset_import.extend(entry for entry in opsets if _domain(entry.domain) in used)
        function.node.extend(self.nodes)
        return function


def add_code_maps(proto: onnx.ModelProto) -> int:
    """Replace regions between codes and codes in the main graph by tables, in place.

    Args:
        proto: a model with integer activations.

    Returns:
        the number of regions replaced.
    """
    editor = GraphEditor(proto.graph)
    regions = code_regions(editor)
    if not regions:
        return 0
    shapes = infer(Document(proto, memoryview(b""), None))
    possible = [call for region in regions if (call := _call(editor, region, shapes)) is not None]
    numbers: dict[bytes, int] = {}
    calls: dict[str, list[_Call]] = {}
    for call in possible:
        number = numbers.setdefault(call.body("", ()).SerializeToString(), len(numbers) + 1)
        if number <= MOST_NAMES:
            calls.setdefault(f"{MAP_CODES}{number}", []).append(call)
    if not calls:
        return 0
    proto.functions.extend(first.body(name, proto.opset_import) for name, (first, *_) in calls.items())
    named = [(name, call) for name, same in calls.items() for call in same]
    for (name, call), tables in zip(named, _tables(proto, editor, [call for _, call in named]), strict=True):
        _replace(editor, call, name, tables)
    editor.apply(keep_unread=True)
    proto.opset_import.add(domain=DOMAIN, version=1)
    return len(named)


def is_code_map(node: onnx.NodeProto) -> bool:
    """Whether a node is our operator."""
    return node.domain == DOMAIN and node.op_type.startswith(MAP_CODES)


def expand_code_maps(proto: onnx.ModelProto) -> None:
    """Replace the tables of a model by the nodes that they stand for, in place."""
    bodies = {f.name: f for f in proto.functions if f.domain == DOMAIN and f.name.startswith(MAP_CODES)}
    if not bodies:
        return
    fresh = NameAllocator(names_of(proto)).fresh
    outputs = {node.output[0] for node in proto.graph.node if is_code_map(node)}
    # Whoever takes the roundings out gives these tensors another type.
    replace_field(proto.graph.value_info, [value for value in proto.graph.value_info if value.name not in outputs])
    editor = GraphEditor(proto.graph)
    for node in list(proto.graph.node):
        if is_code_map(node) and node.op_type in bodies:
            _expand(editor, node, bodies[node.op_type], fresh)
    editor.apply(keep_unread=True)
    replace_field(proto.functions, [f for f in proto.functions if f.domain != DOMAIN or f.name not in bodies])


def _call(editor: GraphEditor, region: CodeRegion, shapes: Mapping[str, Known]) -> _Call | None:
    """The call for a region; None where the shape of what it computes is not certainly that of what it reads."""
    channels = _channels_of(editor, region, shapes.get(region.source, UNKNOWN))
    if channels is None:
        return None
    names, constants, nodes = {region.source: "X", region.output: "Y"}, list[str](), list[onnx.NodeProto]()
    for node in region.nodes:
        copy = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
        copy.attribute.extend(node.attribute)
        copy.metadata_props.extend(node.metadata_props)
        places = {place for place, _ in constant_inputs(editor, node)}
        for place, name in enumerate(node.input):
            if place in places:
                constants.append(name)
            copy.input.append(f"c{len(constants)}" if place in places else names[name] if name else "")
        copy.output.append(names.setdefault(node.output[0], f"t{len(names)}"))
        nodes.append(copy)
    return _Call(region, channels, tuple(constants), tuple(nodes))


def _channels_of(editor: GraphEditor, region: CodeRegion, known: Known) -> _Channels | None:
    """The channels by which constants of a region differ; None where there is another shape, or constants are not at hand."""
    channels, rank = _Channels(), 0
    for node in region.nodes:
        for _, tensor in constant_inputs(editor, node):
            if tensor.data_location == onnx.TensorProto.EXTERNAL or 0 in tensor.dims:
                return None
            rank = max(rank, 0 if is_op(node, "QuantizeLinear", "DequantizeLinear") else len(tensor.dims))
            axes = [i - len(tensor.dims) for i, length in enumerate(tensor.dims) if length > 1]
            if not axes:
                continue
            own = _Channels(axes[0], tensor.dims[axes[0]])
            if len(axes) > 1 or is_op(node, "QuantizeLinear", "DequantizeLinear") or channels not in (own, _Channels()):
                return None
            channels = own
    shape = known.shape
    if shape is None:
        return channels if rank == 0 else None
    if rank > len(shape) or (channels.count > 1 and shape[channels.axis] != channels.count):
        return None
    return channels


def _tables(proto: onnx.ModelProto, editor: GraphEditor, calls: Sequence[_Call]) -> list[NDArray[Any]]:
    """The tables of calls: what onnxruntime computes of every code, [256] or [channels, 256].

    All are computed in one session. Codes are on an axis before all others: constants are broadcast as in the model.
    """
    model = onnx.ModelProto(ir_version=proto.ir_version)
    model.opset_import.extend(proto.opset_import)
    graph = model.graph
    graph.name = "tables"
    feed: dict[str, NDArray[Any]] = {}
    for number, call in enumerate(calls):
        kind, channels = call.region.code_type, call.channels
        codes = np.arange(256, dtype=np.uint8).view(onnx.helper.tensor_dtype_to_np_dtype(kind))
        shape = (256, channels.count, *([1] * (-1 - channels.axis)))
        feed[f"{number}/X"] = np.ascontiguousarray(np.broadcast_to(codes.reshape(-1, *[1] * (len(shape) - 1)), shape))
        graph.input.append(onnx.helper.make_tensor_value_info(f"{number}/X", kind, shape))
        graph.output.append(onnx.helper.make_tensor_value_info(f"{number}/Y", kind, None))
        for node in call.nodes:
            graph.node.append(
                _renamed(node, {name: f"{number}/{name}" for name in (*node.input, *node.output) if name})
            )
        for place, name in enumerate(call.constants):
            if (constant := editor.constant(name)) is not None:
                tensor = graph.initializer.add()
                tensor.CopyFrom(constant)
                tensor.name = f"{number}/c{place + 1}"
    session = runtime.open_session(model.SerializeToString(), runtime.session_options(threads=1), library=False)
    outputs = runtime.run(session, feed, [f"{number}/Y" for number in range(len(calls))])
    tables = [array.reshape(256, call.channels.count).T for call, array in zip(calls, outputs.values(), strict=True)]
    return [np.ascontiguousarray(table if len(table) > 1 else table[0]) for table in tables]


def _replace(editor: GraphEditor, call: _Call, name: str, tables: NDArray[Any]) -> None:
    """Put a call in the place of a region; a DequantizeLinear that others read stays."""
    region, fresh, last = call.region, editor.names.fresh, call.region.nodes[-1]
    mapping = onnx.helper.make_node(
        name,
        [region.source, *call.constants],
        [region.output],
        name=fresh(f"{region.output}/{MAP_CODES}"),
        domain=DOMAIN,
    )
    mapping.attribute.append(onnx.helper.make_attribute(_TABLES, onnx.numpy_helper.from_array(tables, _TABLES)))
    if call.channels.count > 1:
        mapping.attribute.append(onnx.helper.make_attribute(_AXIS, call.channels.axis))
    for old in reversed(region.nodes):
        if old is last or not editor.is_read(old.output[0]):
            editor.remove(old)
    editor.insert_after(last, [mapping])
    # Tools that infer types know nothing of our operators.
    values = editor.graph.value_info
    if all(value.name != region.output for value in (*values, *editor.graph.output)):
        values.append(onnx.helper.make_tensor_value_info(region.output, region.code_type, None))


def _expand(editor: GraphEditor, call: onnx.NodeProto, body: onnx.FunctionProto, fresh: Fresh) -> None:
    """Put the nodes of a body in the place of a call."""
    inner, output = list(body.node), str(call.output[0])
    names = dict(zip((*body.input, *body.output), (*call.input, *call.output), strict=True))
    for node in inner:
        for name in node.output:
            names.setdefault(name, fresh(f"{output}/{node.op_type}"))
    expanded = [_renamed(node, names) for node in inner]
    for node in expanded:
        node.name = fresh(f"{node.output[0]}/node")
    editor.remove(call)
    editor.insert_after(call, expanded)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of a node whose tensors have other names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


def _domain(name: str) -> str:
    return "" if name in STANDARD else name
