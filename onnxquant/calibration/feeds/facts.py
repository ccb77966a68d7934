"""Facts about a model that say how its samples are prepared: its files, metadata, outputs and first layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.calibration.feeds.preparation import Preparation
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document

# Operators between an input and the arithmetic on its values.
_MOVES = ("Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Resize", "Upsample", "Pad", "Flatten")
_ARITHMETIC = ("Sub", "Add", "Mul", "Div", "BatchNormalization")
# Steps that are followed, at most.
_LONGEST = 16
# Means and largest results that only pixels from 0 to 255 have, and the deviations of values from 0 to 1.
_LEAST_MEAN, _LARGEST_RESULT, _MEANS, _DEVIATIONS = 8.0, 16.0, (0.2, 0.7), (0.1, 0.6)


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model.

    Attributes:
        folder: folder of its file; None where it is an object.
        metadata: entries of its metadata.
        outputs: length of the last axis of each output, where it is fixed.
        recorded: preparation of samples that the file records.
        largest_pixel: value of the brightest pixel that the model's own first layers expect, by input, where they tell.
    """

    folder: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, int | None] = field(default_factory=dict)
    largest_pixel: Mapping[str, int] = field(default_factory=dict)
    recorded: Preparation | None = None

    def file(self, *names: str) -> Path | None:
        """The first of these files in the folder of the model, or in the one around a folder called ``onnx``."""
        if self.folder is None:
            return None
        folders = [self.folder, *([self.folder.parent] if self.folder.name == "onnx" else [])]
        return next((path for f in folders for name in names if (path := f / name).is_file()), None)

    def table(self, *names: str) -> tuple[dict[str, Any], Path] | None:
        """The contents of the first of these JSON files that is a table, and the file."""
        for name in names:
            path = self.file(name)
            try:
                contents = json.loads(path.read_text(encoding="utf-8")) if path else None
            except (OSError, ValueError, RecursionError):
                continue
            if path and isinstance(contents, dict):
                return contents, path
        return None


NO_FACTS = ModelFacts()
"""Facts about a model of which nothing is known but its inputs."""


def facts_of(document: Document, *others: Document) -> ModelFacts:
    """The facts about a model.

    Args:
        document: the model.
        others: models of the same function, whose records of samples count too.

    Raises:
        ModelError: a record is damaged.
    """
    records = (Preparation.read(model.proto) for model in (*others, document))
    graph = document.proto.graph
    editor = GraphEditor(graph)
    constants = {t.name for t in graph.initializer}
    pixels = {}
    for value in graph.input:
        if value.name not in constants and (largest := _largest_pixel(document, editor, value.name)):
            pixels[value.name] = largest
    return ModelFacts(
        folder=document.path.resolve().parent if document.path else None,
        metadata={entry.key: entry.value for entry in document.proto.metadata_props},
        outputs={value.name: _last_axis(value) for value in graph.output},
        largest_pixel=pixels,
        recorded=next((record for record in records if record), None),
    )


def _last_axis(value: onnx.ValueInfoProto) -> int | None:
    axes = value.type.tensor_type.shape.dim
    return axes[-1].dim_value or None if len(axes) else None


def _largest_pixel(document: Document, editor: GraphEditor, name: str) -> int | None:
    """The brightest pixel that the first layers behind an input expect: 255, 1, or None where they do not tell."""
    slope, offset, is_changed = np.ones(1), np.zeros(1), False
    for _ in range(_LONGEST):
        readers = [node for node in editor.consumers(name) if node.op_type != "Shape"]
        if len(readers) != 1 or not readers[0].output:
            break
        node = readers[0]
        if node.op_type in _ARITHMETIC:
            step = _step(document, editor, node, name)
            if step is None or step[0].size > 4 or step[1].size > 4:
                break
            slope, offset, is_changed = slope * step[0], offset * step[0] + step[1], True
        elif node.op_type not in _MOVES or node.input[0] != name:
            break
        name = node.output[0]
    if not is_changed or not slope.all():
        return None
    mean, deviation = np.abs(offset / slope).max(), np.abs(1 / slope).max()
    if mean > _LEAST_MEAN or 255 * np.abs(slope).max() <= _LARGEST_RESULT:
        return 255
    is_unit = _MEANS[0] <= mean <= _MEANS[1] and _DEVIATIONS[0] <= deviation <= _DEVIATIONS[1]
    return 1 if is_unit else None


def _step(
    document: Document, editor: GraphEditor, node: onnx.NodeProto, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Factor and summand of a node's arithmetic, one or one for each channel; None where they are no constants."""
    others = [i for i in node.input if i != name]
    tensors = [editor.constant(other) for other in others]
    if len(others) != len(node.input) - 1 or not all(tensors):
        return None
    values = [document.array(t).astype(np.float64).reshape(-1) for t in tensors if t is not None]
    one, none = np.ones(1), np.zeros(1)
    if node.op_type == "BatchNormalization":
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = values[0] / np.sqrt(values[3] + epsilon)
        return factor, values[1] - values[2] * factor
    value, is_first = values[0], node.input[0] == name
    if node.op_type == "Add":
        return one, value
    if node.op_type == "Sub":
        return (one, -value) if is_first else (-one, value)
    if node.op_type == "Mul":
        return value, none
    return (1 / value, none) if is_first and value.all() else None
