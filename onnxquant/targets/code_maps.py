"""Our operator MapCodes: a function of each element between codes and codes, as a table of 256 codes.

A table holds what onnxruntime computes of every code, so that nothing changes but the time. The operator's body is the
nodes that it replaces; each function of a model has a body, and with it a name, MapCodes1 and so on. The nodes' constants are
inputs, which the kernel does not read: functions that differ in them alone share a body.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.functions import MOST_NAMES, expand_functions, import_domain, is_call, local_function
from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN, MAP_CODES
from onnxquant.graph.shapes import UNKNOWN, Known, infer
from onnxquant.targets.code_functions import CodeFunction, code_function, code_tables
from onnxquant.targets.code_regions import CodeRegion, code_regions

_TABLES, _AXIS = "tables", "axis"


@dataclass(frozen=True)
class _Call:
    """A call in the place of a region.

    Attributes:
        region: the region.
        function: the function that it computes, whose nodes are its body.
    """

    region: CodeRegion
    function: CodeFunction

    def body(self, name: str, imports: Iterable[onnx.OperatorSetIdProto]) -> onnx.FunctionProto:
        """Its body.

        Args:
            name: name of the function.
            imports: the model's versions of domains.
        """
        inputs = ["X", *(f"c{i + 1}" for i in range(len(self.function.constants)))]
        return local_function(name, inputs, ["Y"], [_TABLES, _AXIS], self.function.nodes, imports)


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
    tables = code_tables(proto, editor, [call.function for _, call in named])
    for (name, call), table in zip(named, tables, strict=True):
        _replace(editor, call, name, table)
    editor.apply(keep_unread=True)
    import_domain(proto)
    return len(named)


def is_code_map(node: onnx.NodeProto) -> bool:
    """Whether a node is our operator."""
    return is_call(node, MAP_CODES)


def expand_code_maps(proto: onnx.ModelProto) -> None:
    """Replace the tables of a model by the nodes that they stand for, in place."""
    expand_functions(proto, MAP_CODES)


def _call(editor: GraphEditor, region: CodeRegion, shapes: Mapping[str, Known]) -> _Call | None:
    function = code_function(editor, region, shapes.get(region.source, UNKNOWN))
    return None if function is None else _Call(region, function)


def _replace(editor: GraphEditor, call: _Call, name: str, tables: NDArray[Any]) -> None:
    """Put a call in the place of a region; a DequantizeLinear that others read stays."""
    region, fresh, last = call.region, editor.names.fresh, call.region.nodes[-1]
    mapping = onnx.helper.make_node(
        name,
        [region.source, *call.function.constants],
        [region.output],
        name=fresh(f"{region.output}/{MAP_CODES}"),
        domain=DOMAIN,
    )
    mapping.attribute.append(onnx.helper.make_attribute(_TABLES, onnx.numpy_helper.from_array(tables, _TABLES)))
    if call.function.channels.count > 1:
        mapping.attribute.append(onnx.helper.make_attribute(_AXIS, call.function.channels.axis))
    for old in reversed(region.nodes):
        if old is last or not editor.is_read(old.output[0]):
            editor.remove(old)
    editor.insert_after(last, [mapping])
    # Tools that infer types know nothing of our operators.
    values = editor.graph.value_info
    if all(value.name != region.output for value in (*values, *editor.graph.output)):
        values.append(onnx.helper.make_tensor_value_info(region.output, region.code_type, None))
