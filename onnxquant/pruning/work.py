"""The work of a model that its channels decide: parameters, and multiplications of products and convolutions."""

from __future__ import annotations

from math import prod

from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.shapes import infer
from onnxquant.graph.sites import FLOATS
from onnxquant.graph.traverse import tensors
from onnxquant.pruning.records import Work


def work_of(document: Document) -> Work:
    """The work of a model for one sample: a first axis of unknown length counts as one."""
    parameters = sum(prod(t.dims) for t in tensors(document.proto) if t.data_type in FLOATS)
    known, graph = infer(document), document.proto.graph
    weights = {t.name: tuple(t.dims) for t in graph.initializer}
    total = 0
    for node in graph.node:
        if not is_op(node, "Conv", "Gemm", "MatMul") or node.input[1] not in weights:
            continue
        shape = known[node.output[0]].shape if node.output[0] in known else None
        if shape is None or None in shape[1:]:
            return Work(parameters)
        dims = weights[node.input[1]]
        if is_op(node, "Conv"):
            reads = prod(dims[1:])
        else:
            reads = dims[1] if is_op(node, "Gemm") and attribute(node, "transB", 0) else dims[-2]
        total += prod(length or 1 for length in shape) * reads
    return Work(parameters, total)
