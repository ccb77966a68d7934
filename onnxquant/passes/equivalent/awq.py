"""AWQ: channels that activations make important are multiplied in the weights that read them, so that they round finer.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", arXiv 2306.00978,
section 3.2: ``s_j = a_j^alpha`` with ``a_j`` the mean of ``|x_j|``, divided by ``sqrt(max s * min s)``, and alpha the one of
20 in [0, 1) under which the rounded weights give outputs nearest to those of the float ones. Instead of running them, the
Gram matrix H of the activation tells: over all weights W that read it, the least sum of

    tr((W - Q(W s) / s) H (W - Q(W s) / s)^T)

Scales go where ``rescale`` can fold them; no Mul is added for them, which would cost time in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.matrix import Matrix
from onnxquant.graph.analysis.linear import Doubles, Linear, rounded
from onnxquant.graph.analysis.scale_paths import Path, Search
from onnxquant.graph.editor import graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.shapes import infer
from onnxquant.passes.equivalent.rescale import Folded, fold, linear_readers, per_channel_values, tied, unfit, way
from onnxquant.solvers.base import Inputs, losses

Quantizer = Callable[[Matrix], Matrix]
"""A float weight [rows, cols] -> what it is decoded to once it is encoded."""
STRENGTHS = 20
# Of the largest magnitude: what a channel counts for that is smaller, or zero, in what was seen. The paper's code has 1e-4.
SMALLEST = 1e-4


@dataclass(frozen=True)
class Choice:
    """Scales of one activation: ``a^alpha``, and the objective without and with them."""

    alpha: float
    before: float
    after: float


@dataclass
class Scaled:
    """What became of activations: where scales are now or why there are none, and how those that are were chosen."""

    folded: Folded
    choices: dict[str, Choice] = field(default_factory=dict)


def awq(
    document: Document,
    magnitudes: Mapping[str, NDArray[Any]],
    inputs: Callable[[str], Inputs],
    quantizer: Callable[[str], Quantizer | None],
) -> Scaled:
    """Scale the channels of each activation that linear ops with constant weights read, where the objective falls.

    Args:
        document: a prepared model.
        magnitudes: the mean absolute value of each channel of an activation, by tensor name.
        inputs: the Gram matrix [1, channels, channels] of an activation, asked for by name, of those that can be scaled.
        quantizer: for the name of a weight, what its planned format makes of one; None: it stays in float.

    Raises:
        FeedError: magnitudes are not one finite number per channel.
        WeightError: a Gram matrix does not fit.
    """
    known = infer(document)
    scales: dict[str, Doubles] = {}
    choices: dict[str, Choice] = {}
    left: dict[str, str] = {}
    for editor in graph_editors(document):
        search = Search(document, editor, known)
        for name, readers in linear_readers(editor, magnitudes).items():
            magnitude = per_channel_values(name, "magnitudes", magnitudes[name], readers[0].inputs)
            path = _way(search, name, readers)
            if isinstance(path, str):
                left.setdefault(name, path)
                continue
            weights = [_weight(search, op, found) for op in readers if (found := quantizer(op.node.input[1]))]
            if not weights or not magnitude.any():
                left[name] = "it was always zero" if weights else "no weight that reads it is encoded"
                continue
            magnitude = np.repeat(magnitude.reshape(-1, path.repeat).mean(axis=1), path.repeat)
            choices[name], scales[name] = _search(weights, magnitude, inputs(name))
            if not choices[name].alpha:
                left[name] = "no scales lose less"
                del choices[name], scales[name]
    folded = fold(document, scales)
    folded.left = left | folded.left
    return Scaled(folded, {name: choice for name, choice in choices.items() if name in folded.done})


@dataclass(frozen=True)
class _Weight:
    """A weight [rows, cols] that is to be encoded, and its type in the model."""

    matrix: Matrix
    dtype: np.dtype[Any]
    quantizer: Quantizer

    def error(self, scale: Doubles, inputs: Inputs) -> float:
        """The objective: what this weight adds to it; infinite where the scaled weight does not fit its type."""
        scaled = rounded(self.matrix * scale, self.dtype)
        if scaled is None:
            return np.inf
        decoded = self.quantizer(scaled.astype(np.float32)) / scale
        return float(losses(self.matrix, decoded.astype(np.float32), inputs).sum())


def _weight(search: Search, op: Linear, quantizer: Quantizer) -> _Weight:
    return _Weight(op.blocks(search.document)[0, :, :, 0].astype(np.float32), op.dtype, quantizer)


def _way(search: Search, name: str, readers: list[Linear]) -> Path | str:
    """As of ``rescale``, for products of a whole row of channels with weights that nothing else reads."""
    path = way(search, name, readers)
    if isinstance(path, str):
        return path
    ops = [*readers, path.end] if path.end else readers
    return unfit(readers) or tied(search.editor, ops) or path


def _search(weights: list[_Weight], magnitude: Doubles, inputs: Inputs) -> tuple[Choice, Doubles]:
    """The best power of the magnitudes; 0 where none is better than no scales."""
    for weight in weights:
        inputs.check(*weight.matrix.shape)
    best, scales = Choice(0.0, np.inf, np.inf), np.ones_like(magnitude)
    for alpha in np.arange(STRENGTHS) / STRENGTHS:
        scale = np.maximum(magnitude, SMALLEST * magnitude.max()) ** alpha
        scale /= np.sqrt(scale.max() * scale.min())
        error = sum(weight.error(scale, inputs) for weight in weights)
        if not alpha:
            best = Choice(0.0, error, error)
        elif error < best.after:
            best, scales = Choice(float(alpha), best.before, error), scale
    return best, scales
