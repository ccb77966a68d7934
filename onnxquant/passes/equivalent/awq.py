"""AWQ: channels scaled so that the weights that important activations meet round finer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.matrix import Matrix
from onnxquant.graph.analysis.linear import Linear, rounded
from onnxquant.graph.analysis.scale_paths import ScalePath, ScalePathFinder
from onnxquant.graph.editor import graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.shapes import infer
from onnxquant.numerics.arrays import Doubles
from onnxquant.passes.base import Pass
from onnxquant.passes.equivalent.rescale import (
    ChannelResult,
    DivideChannels,
    linear_readers,
    no_single_matrix,
    path_to_maker,
    per_channel_values,
    shared_weight,
)
from onnxquant.solvers.base import Inputs, losses

Quantizer = Callable[[Matrix], Matrix]
"""Rounds a float weight [rows, cols]: encodes and decodes it."""
STRENGTHS = 20
# Floor for a channel's magnitude, as a share of the largest. It avoids division by zero for channels that were always
# zero; the paper's code uses 1e-4.
SMALLEST = 1e-4


@dataclass(frozen=True, eq=False)
class ScaleChoice:
    """The scales of one activation.

    Attributes:
        alpha: power of the magnitudes; 0: no scales lose less.
        before: objective without scales.
        after: objective with them.
        scale: one scale per channel.
    """

    alpha: float
    before: float
    after: float
    scale: Doubles


@dataclass(frozen=True)
class AwqResult(ChannelResult):
    """The result of AWQ.

    Attributes:
        choices: scales of the activations that were scaled, by tensor name.
    """

    choices: Mapping[str, ScaleChoice] = field(default_factory=dict)


@dataclass(frozen=True)
class ScaleForAwq(Pass):
    """Multiplies weights in the channels that activations make important, so that they round finer (AWQ).

    Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", arXiv 2306.00978,
    section 3.2: ``s_j = a_j^alpha`` with ``a_j`` the mean of ``|x_j|``, divided by ``sqrt(max s * min s)``, and alpha the
    one of 20 in [0, 1) under which the rounded weights give outputs nearest to those of the float ones. The outputs are not
    computed: the Gram matrix H of the activation gives the objective, the sum over all weights W that read it of

        tr((W - Q(W s) / s) H (W - Q(W s) / s)^T)

    1. Each activation that only products with whole rows of constant weights read is divided by s, where that lowers the
       objective and an op before it can take the division. No Mul is added: it would cost time in every run.

           MatMul(LayerNormalization(x, g, b), W)   ->   MatMul(LayerNormalization(x, g / s, b / s), s W)

    2. Weights that are read elsewhere too, and activations that were always zero, stay.

    Attributes:
        magnitudes: mean absolute value of each channel of an activation, by tensor name.
        inputs: function that gives the Gram matrix [1, channels, channels] of an activation, by name; it is asked for
            those that can be scaled.
        quantizer: function that gives, for the name of a weight, its rounding in the planned format; None: it stays in
            float.
    """

    name = "awq-scaling"
    summary = "AWQ: scales channels so that the weights that important activations meet round finer"

    magnitudes: Mapping[str, NDArray[Any]]
    inputs: Callable[[str], Inputs]
    quantizer: Callable[[str], Quantizer | None]

    def __call__(self, document: Document) -> AwqResult:
        """Scale the channels.

        Raises:
            FeedError: magnitudes are not one finite number per channel.
            WeightError: a Gram matrix does not fit.
        """
        known = infer(document)
        choices: dict[str, ScaleChoice] = {}
        refused: dict[str, str] = {}
        for editor in graph_editors(document):
            finder = ScalePathFinder(document, editor, known)
            for name, readers in linear_readers(editor, self.magnitudes).items():
                choice = self._choice(finder, name, readers)
                if isinstance(choice, Refusal):
                    refused.setdefault(name, choice.reason)
                else:
                    choices[name] = choice
        divided = DivideChannels({name: choice.scale for name, choice in choices.items()})(document)
        result = ChannelResult.of("scaled", divided.moved, refused | dict(divided.refused))
        chosen = {name: choice for name, choice in choices.items() if name in divided.moved}
        return AwqResult(**vars(result), choices=chosen)

    def _choice(self, finder: ScalePathFinder, name: str, readers: list[Linear]) -> ScaleChoice | Refusal:
        """The best scales of one activation; or the reason why there are none."""
        magnitude = per_channel_values(name, "magnitudes", self.magnitudes[name], readers[0].inputs)
        path = _path(finder, name, readers)
        if isinstance(path, Refusal):
            return path
        weights = [_weight(finder, op, q) for op in readers if (q := self.quantizer(op.node.input[1]))]
        if not weights:
            return Refusal("no weight that reads it is encoded")
        if not magnitude.any():
            return Refusal("it was always zero")
        magnitude = np.repeat(magnitude.reshape(-1, path.repeat).mean(axis=1), path.repeat)
        choice = _best_scale(weights, magnitude, self.inputs(name))
        return choice if choice.alpha else Refusal("no scales lose less")


@dataclass(frozen=True)
class _ScalableWeight:
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


def _weight(finder: ScalePathFinder, op: Linear, quantizer: Quantizer) -> _ScalableWeight:
    return _ScalableWeight(op.blocks(finder.document)[0, :, :, 0].astype(np.float32), op.dtype, quantizer)


def _path(finder: ScalePathFinder, name: str, readers: list[Linear]) -> ScalePath | Refusal:
    """The path of ``rescale``, for products of a whole row of channels with weights that nothing else reads."""
    path = path_to_maker(finder, name, readers)
    if isinstance(path, Refusal):
        return path
    ops = [*readers, path.end] if path.end else readers
    return no_single_matrix(readers) or shared_weight(finder.editor, ops) or path


def _best_scale(weights: list[_ScalableWeight], magnitude: Doubles, inputs: Inputs) -> ScaleChoice:
    """The best power of the magnitudes; 0 where none is better than no scales."""
    for weight in weights:
        inputs.check(*weight.matrix.shape)
    best = ScaleChoice(0.0, np.inf, np.inf, np.ones_like(magnitude))
    for alpha in np.arange(STRENGTHS) / STRENGTHS:
        scale = np.maximum(magnitude, SMALLEST * magnitude.max()) ** alpha
        scale /= np.sqrt(scale.max() * scale.min())
        error = sum(weight.error(scale, inputs) for weight in weights)
        if not alpha:
            best = replace(best, before=error, after=error)
        elif error < best.after:
            best = ScaleChoice(float(alpha), best.before, error, scale)
    return best
