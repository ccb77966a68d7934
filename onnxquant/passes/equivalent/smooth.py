"""SmoothQuant: outlying channels of activations are divided, and the weights that read them multiplied.

Xiao et al. 2022, arXiv 2211.10438, equation 4: ``s_j = max|x_j|^a / max|w_j|^(1 - a)`` per channel j, over all weights
that read the activation. Where the division goes is in ``rescale``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError
from onnxquant.graph.analysis.linear import Doubles, Linear
from onnxquant.graph.editor import graph_editors
from onnxquant.graph.io import Document
from onnxquant.passes.equivalent.rescale import fold, linear_readers, per_channel_values

# As in the paper's code: a channel that is almost zero would be blown up without limit.
SMALLEST = 1e-5


def smooth(
    document: Document, absmax: Mapping[str, NDArray[Any]], *, strength: float = 0.5, insert: bool = False
) -> str | None:
    """Smooth each activation that linear ops with constant weights read.

    Args:
        document: a prepared model.
        absmax: the largest absolute value of each channel of an activation, by tensor name.
        strength: the paper's alpha: 0 leaves activations as hard as they are, 1 moves all difficulty into weights.
        insert: where nothing before an activation can take the division, put a Mul for it.

    Returns:
        what was smoothed, and why the rest was left; None when there was nothing to smooth.

    Raises:
        RecipeError: the strength is not in [0, 1].
        FeedError: the maxima are not one finite number per channel.
    """
    if not 0 <= strength <= 1:
        raise RecipeError(f"strength {strength}: expected a number from 0 to 1")
    readers: dict[str, list[Linear]] = {}
    for editor in graph_editors(document):
        for name, ops in linear_readers(editor, absmax).items():
            readers.setdefault(name, []).extend(ops)
    scales = {name: _scale(document, name, ops, absmax[name], strength) for name, ops in readers.items()}
    return fold(document, scales, insert=insert).sentence("smoothed")


def _scale(document: Document, name: str, readers: list[Linear], absmax: NDArray[Any], strength: float) -> Doubles:
    channels = readers[0].inputs
    largest = per_channel_values(name, "maxima", absmax, channels)
    alike = [op for op in readers if op.inputs == channels]
    weights = np.max([np.abs(op.blocks(document)).max(axis=(1, 3)).reshape(-1) for op in alike], axis=0)
    scale = np.maximum(largest, SMALLEST) ** strength / np.maximum(weights, SMALLEST) ** (1 - strength)
    # Nothing to balance in a channel that is always zero or that no weight reads.
    return np.where((largest > 0) & (weights > 0), np.maximum(scale, SMALLEST), 1.0)
