"""Evaluation of nodes whose inputs are constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.reference
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.graph.io import Document
from onnxquant.graph.node import STANDARD
from onnxquant.graph.random_draws import RANDOM_OPS

# Stored codes stay codes: decoding them here would undo a quantization.
_CODES = {"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"}
NEVER_FOLDED = RANDOM_OPS | _CODES


def computation(node: onnx.NodeProto) -> bytes:
    """The computation of a node as bytes: the same for nodes of equal operators, attributes and inputs."""
    bare = onnx.NodeProto(op_type=node.op_type, domain=node.domain, input=node.input, attribute=node.attribute)
    return bare.SerializeToString(deterministic=True)


def model_of(
    document: Document, nodes: Sequence[onnx.NodeProto], tensors: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """A model of some nodes of a document, whose outputs are those of the last one."""
    outputs = [onnx.ValueInfoProto(name=name) for name in nodes[-1].output if name]
    graph = onnx.helper.make_graph(nodes, "folding", [], outputs, list(tensors))
    opsets = [o for o in document.proto.opset_import if o.domain in STANDARD]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=max(document.proto.ir_version, 8))


def renamed(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """A copy of a tensor under another name."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def evaluate(
    document: Document, nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, onnx.TensorProto]
) -> list[NDArray[Any]] | None:
    """The outputs of the last of some nodes, by onnxruntime, or by ONNX's reference for types that it does not hand out.

    Args:
        document: the model that they are of.
        nodes: the nodes, each after those whose outputs it reads.
        inputs: the constants that they read.

    Returns:
        the outputs; None where neither knows an op or its type.
    """
    tensors = [renamed(t, name) for name, t in inputs.items()]
    for tensor in tensors:
        document.inline(tensor)
    model = model_of(document, nodes, tensors)
    try:
        options = runtime.session_options(threads=1, optimize=False)
        values = list(runtime.run(runtime.open_session(model.SerializeToString(), options), {}).values())
    except Exception:
        try:
            values = list(onnx.reference.ReferenceEvaluator(model).run(None, {}))
        except Exception:
            return None
    plain = all(isinstance(v, (np.ndarray, np.generic)) and np.asarray(v).dtype.kind != "O" for v in values)
    return [np.asarray(v) for v in values] if plain else None
