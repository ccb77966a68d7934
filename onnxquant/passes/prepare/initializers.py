"""Weights become initializers: one place to look for them, whatever the exporter did."""

from __future__ import annotations

import onnx

from onnxquant.graph.io import Document
from onnxquant.graph.traverse import graphs, replace_field
from onnxquant.graph.wire import OUTLINE_ABOVE

# From IR 4 on an initializer need not be a graph input; functions need 8.
IR_WITH_FUNCTIONS = 8


def raise_ir_version(document: Document) -> str | None:
    """Raise the IR version to 8, and free initializers of IR 3 from being graph inputs."""
    proto = document.proto
    if proto.ir_version >= IR_WITH_FUNCTIONS:
        return None
    before = proto.ir_version
    freed = 0
    if before < 4:
        for graph in graphs(proto.graph):
            constants = {t.name for t in graph.initializer}
            kept = [i for i in graph.input if i.name not in constants]
            freed += len(graph.input) - len(kept)
            replace_field(graph.input, kept)
    proto.ir_version = IR_WITH_FUNCTIONS
    return f"IR version raised from {before} to {IR_WITH_FUNCTIONS}" + (
        f", {freed} initializers no longer graph inputs" if freed else ""
    )


def constants_to_initializers(document: Document) -> str | None:
    """Turn Constant nodes that hold more than 1 KiB into initializers of the same graph."""
    moved = 0
    for graph in graphs(document.proto.graph):
        outputs = {o.name for o in graph.output}
        kept = []
        for node in graph.node:
            tensor = _large_constant(node)
            if tensor is None or node.output[0] in outputs:
                kept.append(node)
                continue
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
            moved += 1
        if len(kept) != len(graph.node):
            replace_field(graph.node, kept)
    return f"{moved} Constant nodes became initializers" if moved else None


def _large_constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name != "value" or attribute.type != onnx.AttributeProto.TENSOR:
        return None
    tensor = onnx.TensorProto()
    tensor.CopyFrom(attribute.t)
    large = tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.ByteSize() > OUTLINE_ABOVE
    return tensor if large else None
