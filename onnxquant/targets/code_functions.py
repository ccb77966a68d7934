"""Functions of a code alone: nodes between codes and codes, and the tables of what onnxruntime computes by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.node import is_op, renamed
from onnxquant.graph.shapes import Known
from onnxquant.targets.code_regions import CodeRegion, constant_inputs


@dataclass(frozen=True)
class Channels:
    """Channels of which each has a table.

    Attributes:
        axis: their axis, from the end.
        count: number of channels.
    """

    axis: int = -1
    count: int = 1


@dataclass(frozen=True)
class CodeFunction:
    """A function of each code.

    Attributes:
        nodes: the nodes that compute it: they read ``X`` and ``c1`` and so on, and compute ``Y``.
        constants: names of the constants that they read, in their order.
        code_type: ONNX element type of the codes.
        channels: the channels by which it differs.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[str, ...]
    code_type: int
    channels: Channels


def code_function(editor: GraphEditor, region: CodeRegion, known: Known) -> CodeFunction | None:
    """The function that a region computes; None where the shape of what it computes is not certainly that of what it reads.

    Args:
        editor: editor of the graph.
        region: the region.
        known: shape of what it reads.
    """
    channels = _channels_of(editor, region, known)
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
    return CodeFunction(tuple(nodes), tuple(constants), region.code_type, channels)


def _channels_of(editor: GraphEditor, region: CodeRegion, known: Known) -> Channels | None:
    """The channels by which constants of a region differ; None where there is another shape, or constants are not at hand."""
    channels, rank = Channels(), 0
    for node in region.nodes:
        for _, tensor in constant_inputs(editor, node):
            if tensor.data_location == onnx.TensorProto.EXTERNAL or 0 in tensor.dims:
                return None
            rank = max(rank, 0 if is_op(node, "QuantizeLinear", "DequantizeLinear") else len(tensor.dims))
            axes = [i - len(tensor.dims) for i, length in enumerate(tensor.dims) if length > 1]
            if not axes:
                continue
            own = Channels(axes[0], tensor.dims[axes[0]])
            if len(axes) > 1 or is_op(node, "QuantizeLinear", "DequantizeLinear") or channels not in (own, Channels()):
                return None
            channels = own
    shape = known.shape
    if shape is None:
        return channels if rank == 0 else None
    if rank > len(shape) or (channels.count > 1 and shape[channels.axis] != channels.count):
        return None
    return channels


def code_tables(
    proto: onnx.ModelProto, editor: GraphEditor, functions: Sequence[CodeFunction]
) -> list[NDArray[Any]]:
    """The tables of functions: what onnxruntime computes of every code, [256] or [channels, 256] of the codes' type.

    All are computed in one session. Codes are on an axis before all others: constants are broadcast as in the model.

    Args:
        proto: the model, for its versions of operators.
        editor: editor of the graph that has the constants.
        functions: the functions.
    """
    if not functions:
        return []
    model = onnx.ModelProto(ir_version=proto.ir_version)
    model.opset_import.extend(proto.opset_import)
    graph = model.graph
    graph.name = "tables"
    feed: dict[str, NDArray[Any]] = {}
    for number, function in enumerate(functions):
        kind, channels = function.code_type, function.channels
        codes = np.arange(256, dtype=np.uint8).view(onnx.helper.tensor_dtype_to_np_dtype(kind))
        shape = (256, channels.count, *([1] * (-1 - channels.axis)))
        feed[f"{number}/X"] = np.ascontiguousarray(np.broadcast_to(codes.reshape(-1, *[1] * (len(shape) - 1)), shape))
        graph.input.append(onnx.helper.make_tensor_value_info(f"{number}/X", kind, shape))
        graph.output.append(onnx.helper.make_tensor_value_info(f"{number}/Y", kind, None))
        for node in function.nodes:
            graph.node.append(renamed(node, {name: f"{number}/{name}" for name in (*node.input, *node.output) if name}))
        for place, name in enumerate(function.constants):
            if (constant := editor.constant(name)) is not None:
                tensor = graph.initializer.add()
                tensor.CopyFrom(constant)
                tensor.name = f"{number}/c{place + 1}"
    session = runtime.open_session(model.SerializeToString(), runtime.session_options(threads=1), library=False)
    outputs = runtime.run(session, feed, [f"{number}/Y" for number in range(len(functions))])
    return [_table(array, function) for function, array in zip(functions, outputs.values(), strict=True)]


def _table(values: NDArray[Any], function: CodeFunction) -> NDArray[Any]:
    table = values.reshape(256, function.channels.count).T
    return np.ascontiguousarray(table if len(table) > 1 else table[0])
