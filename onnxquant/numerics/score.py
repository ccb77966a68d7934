"""Score of outputs: the distance of a candidate's outputs from those of the float model, by which candidates are chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxquant.numerics.decibels import decibels

# Tolerance for the sum of a row of probabilities, float16 ones too; and the smallest probability that counts.
_ROUNDING, _SMALLEST = 1e-2, 1e-9


class Score(NamedTuple):
    """Signal to noise ratios of outputs against those of the float model, of the worst output, in decibels.

    Attributes:
        criterion: ratio by which candidates are compared. Probabilities are replaced by the logits that a Softmax made them
            from: the error of a probability near 1/2 is many thousand times that of one near 1, so that otherwise a few
            samples would decide.
        total: ratio of the outputs as they are.
    """

    criterion: float
    total: float


def closeness(reference: Sequence[Mapping[str, Any]], got: Sequence[Mapping[str, Any]]) -> Score:
    """The score of some samples' float outputs; infinite where there is nothing to compare.

    Args:
        reference: outputs of the float model by name, a mapping per sample.
        got: outputs of the candidate.
    """
    powers: dict[str, NDArray[np.float64]] = {}
    for expected, outputs in zip(reference, got, strict=True):
        for name, value in expected.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                a, b = value.astype(np.float64), np.asarray(outputs[name], np.float64)
                criterion = _powers(_logits(a), _logits(b)) if _are_probabilities(a) else _powers(a, b)
                powers[name] = powers.get(name, np.zeros((2, 2))) + np.array([criterion, _powers(a, b)])
    ratios = [[decibels(*p) for p in both] for both in powers.values() if both[:, 0].all()]
    return Score(*(min(r) for r in zip(*ratios, strict=True))) if ratios else Score(math.inf, math.inf)


def _powers(expected: NDArray[np.float64], outputs: NDArray[np.float64]) -> tuple[float, float]:
    """Powers of the signal and of the noise."""
    finite = np.isfinite(expected)
    return float((expected[finite] ** 2).sum()), float(((expected - outputs)[finite] ** 2).sum())


def _are_probabilities(values: NDArray[np.float64]) -> bool:
    """Whether each row could be the output of a Softmax."""
    several = values.ndim > 0 and values.shape[-1] > 1 and bool((values >= 0).all())
    return several and bool(np.allclose(values.sum(-1), 1, atol=_ROUNDING))


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inputs of a Softmax that have these outputs, with mean zero."""
    logs = np.log(np.maximum(probabilities, _SMALLEST))
    centred: NDArray[np.float64] = logs - logs.mean(-1, keepdims=True)
    return centred
