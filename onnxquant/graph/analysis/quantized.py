"""Recognition of models whose weights are integers already."""

from __future__ import annotations

from collections import Counter
from math import prod

import onnx

from onnxquant.graph.functions import with_kernels
from onnxquant.graph.sites import MIN_ELEMENTS
from onnxquant.graph.traverse import graphs

ALREADY_QUANTIZED = "is quantized already ({}); quantize the original, whose weights are floats"
# Operators on integer weights, of the default domain and of onnxruntime's.
_INTEGER_OPS = frozenset({
    "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
    "QGemm", "QAttention", "MatMulNBits", "GatherBlockQuantized", "DynamicQuantizeLSTM", "QMoE", "QEmbedLayerNormalization",
})  # fmt: skip
INTEGERS = frozenset({
    onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4, onnx.TensorProto.UINT4,
    onnx.TensorProto.INT16, onnx.TensorProto.UINT16,
})  # fmt: skip


def integer_weights(proto: onnx.ModelProto) -> str:
    """The ops that read integer weights in a model, with their numbers; empty where there are none.

    >>> integer_weights(proto)
    '54 DequantizeLinear of weights, 1 MatMulInteger'
    """
    counts: Counter[str] = Counter()
    for graph in graphs(with_kernels(proto).graph):
        weights = {t.name for t in graph.initializer if t.data_type in INTEGERS and prod(t.dims) >= MIN_ELEMENTS}
        for node in graph.node:
            if node.op_type in _INTEGER_OPS:
                counts[node.op_type] += 1
            elif node.op_type == "DequantizeLinear" and node.input[0] in weights:
                counts["DequantizeLinear of weights"] += 1
    return ", ".join(f"{count} {op}" for op, count in counts.most_common())


def rounds_activations(proto: onnx.ModelProto) -> bool:
    """Whether nodes of the main graph round tensors that are no constants to codes, for other nodes to decode."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    decoded = {node.input[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    # A Clip leaves fewer codes.
    decoded |= {node.input[0] for node in proto.graph.node if node.op_type == "Clip" and node.output[0] in decoded}
    return any(
        node.op_type == "QuantizeLinear" and node.input[0] not in constants and node.output[0] in decoded
        for node in proto.graph.node
    )
