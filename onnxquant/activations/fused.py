"""Units that ONNX Runtime leaves in float, read from the graph that it runs.

A unit becomes an integer kernel only if no other fusion takes its nodes first. Otherwise the file decodes its weight, or
converts its inputs and outputs, on every call, and is slower than the float model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx

from onnxquant.activations.insert import exact_name
from onnxquant.activations.op_kinds import OpKind
from onnxquant.activations.placement import Cause, FloatKernel, Unit
from onnxquant.artifact.records import Record
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.node import is_op

NOT_TAKEN = FloatKernel(Cause.OPERATOR, "ONNX Runtime takes no integer kernel for it in this graph")
FOR_SPEED = FloatKernel(
    Cause.OPERATOR, "on integers it takes more time here, and the whole file took more than the original"
)
_DECODE = "DequantizeLinear"


def units_in_float(units: Iterable[Unit], records: Iterable[Record], optimized: onnx.ModelProto) -> list[Unit]:
    """The units that compute in float in an optimized graph.

    Args:
        units: units of the float model.
        records: records of the weights of the file.
        optimized: the graph that ONNX Runtime makes of the file (``runtime.optimized_graph``).
    """
    editor = GraphEditor(optimized.graph)
    # Of a weight with several readers the first decodes the plane itself, and each other one a copy that Reshape makes.
    tensors = {record.name: {*record.plane_names, *(result.y for result in record.results)} for record in records}
    decoded = {name for node in editor.nodes if is_op(node, _DECODE) for name in (node.input[0], node.output[0])}
    return [
        unit
        for unit in units
        if unit.kind is not OpKind.FUNCTION
        and (
            decoded & tensors.get(unit.node.input[1], set())
            if unit.kind is OpKind.KERNEL
            else any(_is_encoded_after(editor, name) for name in {unit.node.output[0], *unit.outputs})
        )
    ]


@dataclass
class GraphRemedies:
    """Remedies for units that ONNX Runtime left in float: another form of a node where one helps, else float.

    Attributes:
        sums: outputs of Adds to write as Sum.
        in_float: units that stay in float, by the first output of their nodes.
        slow: first outputs of the kernels that stay in float because they are slower on integers.
    """

    sums: set[str] = field(default_factory=set)
    in_float: dict[str, FloatKernel] = field(default_factory=dict)
    slow: tuple[str, ...] = ()

    @property
    def excluded(self) -> dict[str, FloatKernel]:
        """All units that stay in float."""
        return {**dict.fromkeys(self.slow, FOR_SPEED), **self.in_float}

    def add(self, editor: GraphEditor, units: Iterable[Unit]) -> None:
        """Add remedies for more units.

        With known shapes ONNX Runtime makes one Gemm of a MatMul and an Add before it looks for integer kernels. A Sum it
        leaves alone.
        """
        for unit in units:
            add = editor.single_consumer(unit.node.output[0]) if is_op(unit.node, "MatMul") else None
            if add is not None and is_op(add, "Add") and add.output[0] not in self.sums:
                self.sums.add(add.output[0])
            else:
                self.in_float[unit.node.output[0]] = NOT_TAKEN


def _is_encoded_after(editor: GraphEditor, name: str) -> bool:
    """Whether a node computes a tensor in float that is then rounded to codes."""
    for tensor in (name, exact_name(name)):
        producer = editor.producer(tensor)
        if producer is not None and not is_op(producer, _DECODE):
            return any(is_op(reader, "QuantizeLinear") for reader in editor.consumers(tensor))
    return False
