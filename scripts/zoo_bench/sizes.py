"""Sizes of models with their data files."""

from __future__ import annotations

from pathlib import Path

from onnxquant.graph.io import load


def size_of(model: Path) -> int:
    """Bytes of a model and of the files that its tensors refer to."""
    return sum(path.stat().st_size for path in (model, *load(model).data_files()))
