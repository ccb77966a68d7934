"""Weights as initializers: one place to look for them, whatever the exporter did."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import onnx

from onnxquant.graph.io import Document
from onnxquant.graph.traverse import graphs, names_read, replace_field
from onnxquant.graph.wire import OUTLINE_ABOVE
from onnxquant.passes.base import Pass, PassResult

# From IR 4 on an initializer need not be a graph input; functions need 8.
IR_WITH_FUNCTIONS = 8


@dataclass(frozen=True)
class RaiseIrVersion(Pass):
    """Raises the IR version to 8.

    1. An IR version below 8 becomes 8, the first with model-local functions.
    2. Initializers of IR 3, which had to be graph inputs, are inputs no longer.

           inputs x, w; initializer w   ->   input x; initializer w
    """

    name = "raise-ir-version"
    summary = "raises the IR version to 8, and frees initializers of IR 3 from being graph inputs"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        proto = document.proto
        if proto.ir_version >= IR_WITH_FUNCTIONS:
            return PassResult()
        before = proto.ir_version
        freed = sum(map(free_inputs, graphs(proto.graph))) if before < 4 else 0
        proto.ir_version = IR_WITH_FUNCTIONS
        note = f"IR version raised from {before} to {IR_WITH_FUNCTIONS}"
        return PassResult(True, (note + (f", {freed} initializers no longer graph inputs" if freed else ""),))


@dataclass(frozen=True)
class FreeInitializers(Pass):
    """Frees initializers from being graph inputs, as which exporters of old habits list them.

    A caller may feed such an input another value (from IR 4 on), so that it is no constant.

    1. An input that has an initializer is an input no longer.

           inputs x, w; initializer w   ->   input x; initializer w

    Attributes:
        names: names of the inputs to free; None: all.
    """

    name = "free-initializers"
    summary = "takes initializers that are graph inputs for constants, which callers can no longer override"

    names: frozenset[str] | None = None

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        freed = sum(free_inputs(graph, self.names) for graph in graphs(document.proto.graph))
        return PassResult(True, (f"{freed} initializers no longer graph inputs",)) if freed else PassResult()


def free_inputs(graph: onnx.GraphProto, names: Container[str] | None = None) -> int:
    """Number of inputs of a graph that have an initializer and are inputs no longer.

    Args:
        graph: the graph.
        names: names of the inputs that may go; None: any.
    """
    constants = {t.name for t in graph.initializer if names is None or t.name in names}
    inputs = [i for i in graph.input if i.name not in constants]
    freed = len(graph.input) - len(inputs)
    if freed:
        replace_field(graph.input, inputs)
    return freed


@dataclass(frozen=True)
class ConstantsToInitializers(Pass):
    """Turns Constant nodes into initializers of the same graph, where weights are looked for.

    1. A Constant that holds more than 1 KiB, or external data, becomes an initializer.
    2. A Constant that is an output of its graph stays.

           MatMul(x, Constant)   ->   MatMul(x, initializer)
    """

    name = "constants-to-initializers"
    summary = "turns Constant nodes that hold more than 1 KiB into initializers"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        moved = sum(_move_constants(graph) for graph in graphs(document.proto.graph))
        return PassResult(True, (f"{moved} Constant nodes became initializers",)) if moved else PassResult()


@dataclass(frozen=True)
class DropUnread(Pass):
    """Drops initializers that nothing reads.

    1. An initializer goes if no node, output or annotation names it, and no caller can feed it.
    """

    name = "drop-unread"
    summary = "drops initializers that nothing reads"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        if document.proto.training_info:  # which reads initializers, too
            return PassResult()
        dropped = sum(map(_drop_unread, graphs(document.proto.graph)))
        return PassResult(True, (f"{dropped} initializers that nothing reads dropped",)) if dropped else PassResult()


def _drop_unread(graph: onnx.GraphProto) -> int:
    """Number of initializers of a graph that nothing read."""
    names = {*names_read(graph), *(value.name for value in graph.input)}
    names.update(entry.value for a in graph.quantization_annotation for entry in a.quant_parameter_tensor_names)
    read = [t for t in graph.initializer if t.name in names]
    dropped = len(graph.initializer) - len(read)
    if dropped:
        replace_field(graph.initializer, read)
    return dropped


def _move_constants(graph: onnx.GraphProto) -> int:
    """Number of Constant nodes of a graph that became initializers."""
    outputs = {o.name for o in graph.output}
    others = []
    for node in graph.node:
        tensor = _large_constant(node)
        if tensor is None or node.output[0] in outputs:
            others.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    moved = len(graph.node) - len(others)
    if moved:
        replace_field(graph.node, others)
    return moved


def _large_constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node that is large; None for other nodes."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name != "value" or attribute.type != onnx.AttributeProto.TENSOR:
        return None
    tensor = onnx.TensorProto()
    tensor.CopyFrom(attribute.t)
    large = tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.ByteSize() > OUTLINE_ABOVE
    return tensor if large else None
