"""Outputs with a number for each class: logits and probabilities, told by their values and names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Tolerance for the sum of a row of probabilities, float16 ones too; and the smallest probability that counts.
_ROUNDING, _SMALLEST = 1e-2, 1e-9
# Parts of names of outputs that hold a number per class, and of those that do not.
_CLASSES = ("logit", "prob", "class", "score", "softmax", "pred", "cls")
_FEATURES = ("embed", "feature", "hidden", "pool")
# Classes of outputs with positions: the entries of a vocabulary.
_VOCABULARY = 1000


def has_classes(output: str, values: NDArray[Any]) -> bool:
    """Whether an output looks like logits or probabilities, a number for each class on the last axis."""
    if values.ndim < 2 or values.shape[-1] < 2 or not values.size or not np.isfinite(values).all():
        return False
    if are_probabilities(values):
        return True
    name = output.lower()
    if any(word in name for word in _FEATURES) or np.allclose(np.linalg.norm(values, axis=-1), 1, atol=_ROUNDING):
        return False
    return values.ndim == 2 or (
        values.ndim == 3 and (values.shape[-1] >= _VOCABULARY or any(w in name for w in _CLASSES))
    )


def are_probabilities(values: NDArray[Any]) -> bool:
    """Whether each row could be the output of a Softmax."""
    can_be = values.ndim > 0 and values.shape[-1] > 1 and bool((values >= 0).all())
    return can_be and bool(np.allclose(values.sum(-1, dtype=np.float64), 1, atol=_ROUNDING))


def logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inputs of a Softmax that have these outputs, with mean zero."""
    logs = np.log(np.maximum(probabilities, _SMALLEST))
    centred: NDArray[np.float64] = logs - logs.mean(-1, keepdims=True)
    return centred
