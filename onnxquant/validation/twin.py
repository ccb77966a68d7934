"""The dense twin: the original graph with each encoded weight replaced by the float values it stands for.

float against twin is what quantization cost; twin against the lowered model is what nodes and kernels add. No
end-to-end figure can tell the two apart.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxquant.artifact.read import decode_weight, plane_index
from onnxquant.artifact.records import records
from onnxquant.graph.io import Document
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import find_sites


def _same(values: NDArray[Any]) -> NDArray[Any]:
    return values


def write_twin(original: Document, quantized: Document, path: Path) -> int:
    """Write the twin of a prepared original, and return the number of weights that it replaced.

    One weight at a time is decoded from the quantized file's planes; the twin keeps them in a data file, so that a
    session maps them.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(original.proto)
    copy = Document(proto, memoryview(b""), original.path)
    copy.least_elements = original.least_elements
    by_name = {s.name: s.tensor for s in find_sites(copy)[0]}
    index = plane_index(quantized.proto)
    replaced = 0
    with Publisher(path, external=True, force=True) as publisher:
        for record in records(quantized.proto):
            tensor = by_name.get(record.name)
            if tensor is None or tuple(tensor.dims) != record.shape:
                continue
            values = decode_weight(quantized, record, index)
            publisher.store(tensor, values.nbytes, partial(_same, values))
            replaced += 1
        publisher.keep(proto, original)
        publisher.publish(proto)
    return replaced
