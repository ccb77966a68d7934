"""Models that compute the same function as another one and may be easier to round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxquant.activations.balance import candidates
from onnxquant.activations.calibrated import MAGNITUDES, MOMENTS, CalibratedModel
from onnxquant.activations.placement import Placement
from onnxquant.activations.settings import StaticSettings
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.passes.equivalent.equalize import Equalize
from onnxquant.passes.equivalent.rebase import Rebase
from onnxquant.passes.equivalent.smooth import Smooth

# Strengths of SmoothQuant. Weights have a scale per channel and lose little, activations one per tensor and gain much:
# strengths above the paper's 0.5 are the good ones (minilm_l6: 14.3 dB at 0.5, 21.9 at 0.7, 22.6 at 0.85, 16.7 without).
STRENGTHS = (0.7, 0.85)
# SmoothQuant is tried where at least one kernel in this many is a matrix product.
_KERNELS_PER_PRODUCT = 4


@dataclass(frozen=True)
class EqualFunction:
    """A model that computes the same function as another one.

    Attributes:
        change: the change in two or three words, for reports.
        document: the model.
        balance: strength of balancing its channels; None: that of the model which it is made from.
        is_stronger: whether it goes further than the one before it; it gains nothing where that one does not.
        fitted: whether the function itself comes from what samples show.
        folds: model of each fold of the samples, which the statistics of the other folds make; empty: the same one.
    """

    change: str
    document: Document
    balance: float | None = None
    is_stronger: bool = False
    fitted: bool = False
    folds: tuple[Document, ...] = ()


def change_observers(placement: Placement, streams: Sequence[str], *, smooth: bool) -> list[tuple[str, str]]:
    """Observers that equal functions are made by, each with the tensor that it sees.

    Args:
        placement: the units that compute on integers.
        streams: linear streams that may get another basis.
        smooth: whether products may be smoothed.
    """
    products = [u.node.input[0] for u in placement.kernels if u.node.op_type in ("Gemm", "MatMul")]
    return [(x, MAGNITUDES) for x in dict.fromkeys(products if smooth else [])] + [(x, MOMENTS) for x in streams]


def rebased(base: Document, model: CalibratedModel, settings: StaticSettings) -> Iterator[EqualFunction]:
    """A model with its linear streams in another basis.

    Args:
        base: the model to change.
        model: the calibrated original, for the moments of channels.
        settings: the changes to try; that moments are there says that this is one of them.
    """
    document, moments = base.copy(), model.moments()
    if moments and Rebase(moments)(document).changed:
        yield EqualFunction("rebased", document, fitted=True)


def balanced(base: Document, model: CalibratedModel, settings: StaticSettings) -> Iterator[EqualFunction]:
    """A model with channels balanced, and one with channels balanced fully.

    Args:
        base: the model to change.
        model: the calibrated original, for its placement.
        settings: the strength of balancing.
    """
    if settings.balance and candidates(GraphEditor(model.document.proto.graph), model.placement):
        yield EqualFunction("balanced", base, settings.balance)
        yield EqualFunction("balanced fully", base, 1.0, is_stronger=True)


def easier_to_round(base: Document, model: CalibratedModel, settings: StaticSettings) -> Iterator[EqualFunction]:
    """Models with channels equalized, or smoothed.

    Args:
        base: the model to change.
        model: the calibrated original, for the magnitudes of channels.
        settings: the changes to try.
    """
    document = base.copy()
    if settings.equalize and Equalize()(document).changed:
        yield EqualFunction("equalized", document)
    yield from smoothed(base, model, settings)


def smoothed(base: Document, model: CalibratedModel, settings: StaticSettings) -> Iterator[EqualFunction]:
    """Models with channels smoothed.

    Args:
        base: the model to change.
        model: the calibrated original, for the magnitudes of channels.
        settings: whether a Mul may be inserted.
    """
    # Where a product only ends a convolutional network nothing is won, and smoothing may insert an op for it.
    magnitudes = model.magnitudes()
    if _KERNELS_PER_PRODUCT * len(magnitudes) >= len(model.placement.kernels):
        copies = smoothed_copies(base, magnitudes, insert=settings.smoothing_muls)
        for i, (change, copy) in enumerate(copies.items()):
            yield EqualFunction(change, copy, is_stronger=i > 0, fitted=True)


def smoothed_copies(
    document: Document, magnitudes: Mapping[str, NDArray[np.float64]], *, insert: bool
) -> dict[str, Document]:
    """Smoothed copies of a model, by the change in words.

    Args:
        document: the model.
        magnitudes: largest magnitude of each channel of the inputs of products.
        insert: whether a Mul may be put where no op before an activation can take the division.
    """
    copies: dict[str, Document] = {}
    for strength in STRENGTHS if magnitudes else ():
        copy = document.copy()
        if Smooth(magnitudes, strength=strength, insert=insert)(copy).changed:
            copies[f"smoothed by {strength:g}"] = copy
    return copies
