"""Outputs with a number for each class: logits and probabilities, told by their values and names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Tolerance for the sum of a row of probabilities, float16 ones too; and the smallest probability that counts.
_ROUNDING, _SMALLEST = 1e-2, 1e-9
# Parts of names of outputs that hold a number per class, of features, of others without classes; and whole words of the last.
_CLASSES, _PREDICTIONS = ("logit", "prob", "class", "score", "softmax"), ("pred", "cls")
_FEATURES = ("embed", "feature", "hidden", "pool")
_OTHERS = (
    "fingerprint", "latent", "memory", "state", "box", "coord", "landmark", "keypoint", "point", "pose", "offset", "regress",
    "depth", "mask", "vector", "wave", "audio",
)  # fmt: skip
_WORDS = frozenset({"h", "c", "hn", "cn", "loc", "kps", "reg"})
# Classes of outputs with positions: the entries of a vocabulary.
_VOCABULARY = 1000
# Widths of features are multiples of these: of rows that are no classes by their names, and of positions.
_WIDTH, _LEAST_WIDTH, _WIDTH_OF_POSITIONS = 64, 128, 16
# Positions, and classes at each, that outputs of one length have at least; and rows whose top classes differ.
_POSITIONS, _CLASSES_OF_POSITIONS, _ROWS = 16, 8, 8


def has_classes(output: str, samples: Sequence[NDArray[Any]], *, is_chosen: bool = False) -> bool:
    """Whether an output looks like logits or probabilities, a number for each class on the last axis.

    Args:
        output: its name.
        samples: its values on each sample.
        is_chosen: whether the user has named it as what matters.
    """
    if not samples or not all(a.ndim > 1 and a.shape[-1] > 1 and a.size and np.isfinite(a).all() for a in samples):
        return False
    if all(are_probabilities(a) or ((a <= 0).all() and are_probabilities(np.exp(a))) for a in samples):
        return True
    name = output.lower()
    are_units = all(np.allclose(np.linalg.norm(a, axis=-1), 1, atol=_ROUNDING) for a in samples)
    if are_units or any(word in name for word in _FEATURES):
        return False
    axes = {a.ndim for a in samples}
    is_predicted = any(word in name for word in _PREDICTIONS) and not any(word in name for word in _OTHERS)
    is_named = is_predicted or any(word in name for word in _CLASSES)
    if axes == {2}:
        return is_chosen or is_named or (not _is_other(name, samples) and not _is_width_of_features(samples[0].shape[-1]))
    return axes == {3} and (is_named or (not _is_other(name, samples) and _are_positions(samples)))


def _is_other(name: str, samples: Sequence[NDArray[Any]]) -> bool:
    """Whether an output is plainly no number for each class, by its name, its lengths, or as no row has another top class."""
    if any(word in name for word in _OTHERS) or _WORDS & set(re.split(r"[^a-z]+", name)):
        return True
    if len({a.shape[-1] for a in samples}) > 1 or _are_boxes(samples):
        return True
    tops = np.concatenate([a.argmax(-1).reshape(-1) for a in samples])
    return len(tops) >= _ROWS and bool((tops == tops[0]).all()) and any(np.ptp(a, axis=-1).any() for a in samples)


def _is_width_of_features(width: int) -> bool:
    return width >= _LEAST_WIDTH and width % _WIDTH == 0


def _are_boxes(samples: Sequence[NDArray[Any]]) -> bool:
    """Whether all rows are corners of boxes: of four numbers the last two are no smaller than the first."""
    rows = sum(a.size // 4 for a in samples)
    return rows >= _ROWS and all(a.shape[-1] == 4 and (a[..., 2:] >= a[..., :2]).all() for a in samples)


def _are_positions(samples: Sequence[NDArray[Any]]) -> bool:
    """Whether an output [batch, positions, width] has a number for each class at each position, such as those of a tagger."""
    width, lengths = samples[0].shape[-1], {a.shape[1] for a in samples}
    if width >= _VOCABULARY:
        return True
    if width % _WIDTH_OF_POSITIONS == 0 or all((a >= 0).all() and (a <= 1).all() for a in samples):
        return False  # features, or independent probabilities
    return len(lengths) > 1 or (min(lengths) >= _POSITIONS and width >= _CLASSES_OF_POSITIONS)


def are_probabilities(values: NDArray[Any]) -> bool:
    """Whether each row could be the output of a Softmax."""
    can_be = values.ndim > 0 and values.shape[-1] > 1 and bool((values >= 0).all())
    return can_be and bool(np.allclose(values.sum(-1, dtype=np.float64), 1, atol=_ROUNDING))


def logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inputs of a Softmax that have these outputs, with mean zero."""
    logs = np.log(np.maximum(probabilities, _SMALLEST))
    centred: NDArray[np.float64] = logs - logs.mean(-1, keepdims=True)
    return centred
