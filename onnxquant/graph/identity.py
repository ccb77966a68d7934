"""The digest that two files of the same model share."""

from __future__ import annotations

import hashlib

import onnx

from onnxquant.graph.io import Document
from onnxquant.graph.traverse import tensors


def digest(document: Document) -> str:
    """SHA-256 of a model's graph and weights; where tensors are stored, and texts for people, do not matter."""
    proto = onnx.ModelProto()
    proto.CopyFrom(document.proto)
    total = hashlib.sha256()
    for tensor in tensors(proto):
        total.update(f"{tensor.name}\0{tensor.data_type}\0{list(tensor.dims)}\0".encode())
        if tensor.data_type == onnx.TensorProto.STRING:
            total.update(b"\0".join(tensor.string_data))
        else:
            raw = document.raw(tensor)
            total.update(raw if raw is not None else document.array(tensor).tobytes())
        name = tensor.name
        tensor.Clear()
        tensor.name = name
    for field in ("producer_name", "producer_version", "doc_string", "metadata_props", "model_version"):
        proto.ClearField(field)
    total.update(proto.SerializeToString(deterministic=True))
    return total.hexdigest()
