"""SmoothQuant: outlying channels of activations become part of the weights that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError
from onnxquant.graph.analysis.linear import Linear
from onnxquant.graph.analysis.scale_paths import ScalePathFinder
from onnxquant.graph.editor import graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.shapes import infer
from onnxquant.numerics.arrays import Doubles
from onnxquant.passes.base import Pass
from onnxquant.passes.equivalent.rescale import (
    ChannelResult,
    DivideChannels,
    linear_readers,
    path_to_maker,
    per_channel_values,
    shared_weight,
)

# As in the paper's code: a channel that is almost zero would be blown up without limit.
SMALLEST = 1e-5


@dataclass(frozen=True)
class Smooth(Pass):
    """Divides outlying channels of activations, and multiplies the weights that read them (SmoothQuant).

    Xiao et al. 2022, arXiv 2211.10438, equation 4: ``s_j = max|x_j|^a / max|w_j|^(1 - a)`` per channel j, over all weights
    that read the activation.

    1. Each activation that linear ops with constant weights read is divided by s; ``DivideChannels`` says where.

           MatMul(LayerNormalization(x, g, b), W)   ->   MatMul(LayerNormalization(x, g / s, b / s), s W)

    Attributes:
        absmax: largest absolute value of each channel of an activation, by tensor name.
        strength: the paper's alpha: 0 leaves activations as hard as they are, 1 moves all difficulty into weights.
        insert: whether a Mul is put where no op before an activation can take the division.
    """

    name = "smooth"
    summary = "SmoothQuant: moves outlying channels of activations into the weights that read them"

    absmax: Mapping[str, NDArray[Any]]
    strength: float = 0.5
    insert: bool = False

    def __call__(self, document: Document) -> ChannelResult:  # noqa: D102
        if not 0 <= self.strength <= 1:
            raise RecipeError(f"strength {self.strength}: expected a number from 0 to 1")
        readers: dict[str, list[Linear]] = {}
        for editor in graph_editors(document):
            for name, ops in linear_readers(editor, self.absmax).items():
                readers.setdefault(name, []).extend(ops)
        scales = {n: _scale(document, n, ops, self.absmax[n], self.strength) for n, ops in readers.items()}
        return DivideChannels(scales, insert=self.insert, verb="smoothed")(document)


def products_without_maker(document: Document) -> list[str]:
    """Activations of matrix products that no operator before them can divide: only a Mul of its own smooths each."""
    known = infer(document)
    inserted: list[str] = []
    for editor in graph_editors(document):
        finder = ScalePathFinder(document, editor, known)
        inputs = [node.input[0] for node in editor.nodes if is_op(node, "MatMul", "Gemm")]
        for name, readers in linear_readers(editor, inputs).items():
            path = path_to_maker(finder, name, readers)
            makers = [] if isinstance(path, Refusal) or path.end is None else [path.end]
            if isinstance(path, Refusal) or shared_weight(editor, [*readers, *makers]):
                inserted.append(name)
    return inserted


def _scale(document: Document, name: str, readers: list[Linear], absmax: NDArray[Any], strength: float) -> Doubles:
    channels = readers[0].inputs
    largest = per_channel_values(name, "maxima", absmax, channels)
    alike = [op for op in readers if op.inputs == channels]
    weights = np.max([np.abs(op.blocks(document)).max(axis=(1, 3)).reshape(-1) for op in alike], axis=0)
    scale = np.maximum(largest, SMALLEST) ** strength / np.maximum(weights, SMALLEST) ** (1 - strength)
    # Nothing to balance in a channel that is always zero or that no weight reads.
    return np.where((largest > 0) & (weights > 0), np.maximum(scale, SMALLEST), 1.0)
