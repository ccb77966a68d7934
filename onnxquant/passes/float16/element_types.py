"""Element types of a model's values, those of operators that onnx does not know included."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.shape_inference

from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.traverse import graphs
from onnxquant.passes.float16.scope import FLOAT
from onnxquant.runtime import outputs_of, session_of
from onnxquant.runtime.signatures import Signature, signatures

# Stands for any type but float32.
NO_FLOAT = int(onnx.TensorProto.UNDEFINED)
SignatureOf = Callable[[onnx.NodeProto], Signature | None]


def element_types(document: Document) -> dict[str, int]:
    """Element types by name, as far as onnx infers them or onnxruntime knows them."""
    return _inferred(document.proto) | _foreign(document)


def _inferred(proto: onnx.ModelProto) -> dict[str, int]:
    """Element types that onnx infers."""
    try:
        model = onnx.shape_inference.infer_shapes(proto)
    except Exception:  # a model that onnx cannot infer is converted by what its operators say
        model = proto
    return {
        v.name: v.type.tensor_type.elem_type
        for graph in graphs(model.graph)
        for v in graph.value_info
        if v.type.HasField("tensor_type")
    }


def _foreign(document: Document) -> dict[str, int]:
    """Types of what operators of unknown signatures give, where onnxruntime knows the operators."""
    signature = signatures(document.proto)
    foreign = [n for n in document.proto.graph.node if signature(n) is None]
    outputs = [name for node in foreign for name in node.output if name]
    if not outputs:
        return {}
    try:
        with session_of(document, outputs, threads=1) as session:
            types = outputs_of(session)
    except ModelError:  # it cannot run the model: operators that were not registered
        return {}
    return {name: FLOAT if types[name] == "tensor(float)" else NO_FLOAT for name in outputs}


def read_as_integers(graph: onnx.GraphProto, name: str, signature: SignatureOf) -> bool:
    """Whether a value cannot be float32 because a node that reads it, or what is made of it, takes no floats there."""
    names = {name}
    for node in graph.node:
        known = signature(node)
        for index, read in enumerate(node.input):
            slot = known.input(index) if known and read in names else None
            if known is None or slot is None:
                continue
            if "tensor(float)" not in slot.allowed:
                return True
            names.update(o for j, o in enumerate(node.output) if (s := known.output(j)) and s.parameter == slot.parameter)
    return False
