"""Which tensors to observe when nobody says so."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnxquant.errors import StatisticsError
from onnxquant.graph.io import Document
from onnxquant.graph.traverse import graphs

# What quantized models put QuantizeLinear and DequantizeLinear around.
# fmt: off
_OPS = frozenset((
    "Conv", "ConvTranspose", "FusedConv", "Gemm", "MatMul", "FusedMatMul", "Attention", "Add", "Mul", "BiasGelu",
    "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool", "Resize",
    "Upsample", "Softmax", "LayerNormalization", "SkipLayerNormalization", "Relu", "LeakyRelu", "PRelu",
    "ThresholdedRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Tanh", "Elu", "Selu", "Celu",
    "Gelu", "QuickGelu", "FastGelu", "Erf", "Mish", "Softplus", "Softsign",
))
# fmt: on


_FOLDED = ("Relu", "Clip", "BatchNormalization")


def quantizable(document: Document, pattern: str | None = None) -> list[str]:
    """Tensors of the main graph that quantized models quantize, without constants.

    Those are what matrix products, convolutions, sums, products, concatenations, pools, Resize, Softmax,
    LayerNormalization and activations read and write. Left out is what only a Relu, a Clip or a BatchNormalization reads:
    quantizing folds those into what comes before, and a run that must show such a tensor cannot fuse them.

    Args:
        document: the float model.
        pattern: only names in which this regular expression is found.

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
    # Sizes and scales of Resize, bounds of Clip: what follows the first input says how, and holds no activations.
    read = [
        n
        for node in graph.node
        if node.op_type in _OPS
        for n in [*_activations(node.op_type, node.input), *node.output]
    ]
    folded = _folded(document)
    found = [name for name in dict.fromkeys(read) if name not in constants and name not in folded]
    chosen = [name for name in found if matches(name)]
    if found and not chosen:
        raise StatisticsError(f"tensors {pattern!r}: matches none of {len(found)} tensors, {found[0]!r} the first")
    return chosen


def _folded(document: Document) -> set[str]:
    """Computed tensors with a single reader, which becomes a part of what computes them."""
    graph = document.proto.graph
    readers: dict[str, list[str]] = {}
    for inner in graphs(graph):
        for node in inner.node:
            for name in node.input:
                readers.setdefault(name, []).append(node.op_type)
    kept = {value.name for value in (*graph.output, *graph.input)}
    return {n for n, ops in readers.items() if len(ops) == 1 and ops[0] in _FOLDED and n not in kept}


def _activations(op: str, inputs: Iterable[str]) -> list[str]:
    return list(inputs)[: 1 if op in ("Resize", "Upsample", "Clip") else None]
