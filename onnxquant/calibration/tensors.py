"""The choice of tensors to observe: those that quantized models quantize."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnxquant.errors import StatisticsError
from onnxquant.graph.io import Document
from onnxquant.graph.traverse import graphs

# Operators around which quantized models put QuantizeLinear and DequantizeLinear.
# fmt: off
_OPS = frozenset((
    "Conv", "ConvTranspose", "FusedConv", "Gemm", "MatMul", "FusedMatMul", "Attention", "Add", "Mul", "BiasGelu",
    "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool", "Resize",
    "Upsample", "Softmax", "LayerNormalization", "SkipLayerNormalization", "Relu", "LeakyRelu", "PRelu",
    "ThresholdedRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Tanh", "Elu", "Selu", "Celu",
    "Gelu", "QuickGelu", "FastGelu", "Erf", "Mish", "Softplus", "Softsign",
))
# fmt: on
# Operators that become a part of the operator before them.
_ABSORBED = ("Relu", "Clip", "BatchNormalization")


def quantizable(document: Document, pattern: str | None = None) -> list[str]:
    """Tensors of the main graph that quantized models quantize, without constants.

    Those are the inputs and outputs of matrix products, convolutions, sums, products, concatenations, pools, Resize,
    Softmax, LayerNormalization and activations. Tensors that only a Relu, a Clip or a BatchNormalization reads are left
    out: quantizing makes that operator a part of the one before it, which a run that shows the tensor could not do.

    Args:
        document: the float model.
        pattern: regular expression; only names in which it is found are returned.

    Raises:
        StatisticsError: the pattern is no regular expression, or matches nothing.
    """
    try:
        matches = re.compile(pattern or "").search
    except re.error as error:
        raise StatisticsError(f"tensors {pattern!r}: not a regular expression: {error}") from None
    graph = document.proto.graph
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer} | {""}
    constants |= {o for n in graph.node if n.op_type == "Constant" for o in n.output}
    names = [
        name
        for node in graph.node
        if node.op_type in _OPS
        for name in [*_activations(node.op_type, node.input), *node.output]
    ]
    absorbed = _absorbed(document)
    tensors = [name for name in dict.fromkeys(names) if name not in constants and name not in absorbed]
    matching = [name for name in tensors if matches(name)]
    if tensors and not matching:
        raise StatisticsError(f"tensors {pattern!r}: matches none of {len(tensors)} tensors, {tensors[0]!r} the first")
    return matching


def _absorbed(document: Document) -> set[str]:
    """Computed tensors whose single reader becomes a part of the operator that computes them."""
    graph = document.proto.graph
    readers: dict[str, list[str]] = {}
    for inner in graphs(graph):
        for node in inner.node:
            for name in node.input:
                readers.setdefault(name, []).append(node.op_type)
    visible = {value.name for value in (*graph.output, *graph.input)}
    return {n for n, ops in readers.items() if len(ops) == 1 and ops[0] in _ABSORBED and n not in visible}


def _activations(op: str, inputs: Iterable[str]) -> list[str]:
    """Inputs that hold activations, and not sizes or scales (Resize) or bounds (Clip)."""
    return list(inputs)[: 1 if op in ("Resize", "Upsample", "Clip") else None]
