"""Bits per weight: one count for files of all tools."""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx

# In the metadata of a model of floats that stands for an encoded one: bytes that this would not take.
SAVED = "accuracy_bench.saved_bytes"


def bits_per_weight(original: Path, converted: Path) -> float:
    """Bits of all constants of a file, scales and whatever stayed float included, per float constant of the original.

    Args:
        original: the float model.
        converted: file that a tool made of it.
    """
    # Imported here, because other tools' environments read the name above only.
    from onnxquant.graph.io import nbytes
    from onnxquant.graph.traverse import tensors

    before, after = (onnx.load(path, load_external_data=False) for path in (original, converted))
    weights = sum(prod(t.dims) for t in tensors(before) if t.data_type == onnx.TensorProto.FLOAT)
    saved = sum(int(p.value) for p in after.metadata_props if p.key == SAVED)
    return 8 * (sum(nbytes(t) for t in tensors(after)) - saved) / weights
