"""Outputs that hold answers: a class for each row, a yes or no, labels; told by the graph, by names and by values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
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
    "depth", "mask", "vector", "wave", "audio", "forecast", "horizon", "quantile",
)  # fmt: skip
_WORDS = frozenset({"h", "c", "hn", "cn", "loc", "kps", "reg"})
# Classes of outputs with positions: the entries of a vocabulary; and numbers of columns that only classes of ImageNet have.
_VOCABULARY, _IMAGENET = 1000, (1000, 1001)
# Widths of features are multiples of these: of rows that are no classes by their names, and of positions.
_WIDTH, _LEAST_WIDTH, _WIDTH_OF_POSITIONS = 64, 128, 16
# Positions, and classes at each, that outputs of one length have at least; and rows whose top classes differ.
_POSITIONS, _CLASSES_OF_POSITIONS, _ROWS = 16, 8, 8


class AnswerKind(StrEnum):
    """Kinds of answers; the values are their names in reports."""

    TOP_CLASSES = "top classes"
    """The class with the largest number, of each row."""

    YES_OR_NO = "yes/no answers"
    """Whether the only number of a row is above a half, or as a logit above zero."""

    LABELS = "labels"
    """Labels that are given: of several independent probabilities of a row those above a half."""

    LARGEST = "largest values"
    """The place of the largest number of each row, where nothing says that columns are classes: it judges no file."""

    BOXES = "boxes"
    """Boxes that both sides find."""

    VALUES = "values"
    """Whole numbers and texts."""


@dataclass(frozen=True)
class Answering:
    """The way in which an output holds answers.

    Attributes:
        kind: kind of the answers.
        threshold: number above which an answer is yes.
    """

    kind: AnswerKind
    threshold: float = 0.5


@dataclass(frozen=True)
class Heads:
    """Facts about the outputs of a model that its values do not tell: names of outputs.

    Attributes:
        sigmoids: those that a Sigmoid makes.
        logits: those that a Sigmoid reads.
        classes: those whose largest value a node looks for, or that a Softmax reads.
        has_labels: whether samples come with the number of their class.
    """

    sigmoids: frozenset[str] = frozenset()
    logits: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()
    has_labels: bool = False


NO_FACTS = Heads()


def answering(
    output: str, samples: Sequence[NDArray[Any]], heads: Heads = NO_FACTS, *, is_chosen: bool = False
) -> Answering | None:
    """The way in which an output holds answers; None where it holds none.

    Args:
        output: its name.
        samples: its values on each sample.
        heads: facts about the outputs.
        is_chosen: whether the user has named it as what matters.
    """
    if not samples or not all(a.ndim and a.size and np.isfinite(a).all() for a in samples):
        return None
    if all(a.shape[1:] == (1,) * (a.ndim - 1) for a in samples):
        return _yes_or_no(output, samples, heads)
    if output in heads.sigmoids and all(a.ndim == 2 for a in samples) and not all(map(are_probabilities, samples)):
        return None if _is_named_otherwise(output) else Answering(AnswerKind.LABELS)
    if not _may_have_classes(output, samples, is_chosen=is_chosen or output in heads.classes):
        return None
    is_certain = is_chosen or output in heads.classes or heads.has_labels or _says_classes(output, samples)
    return Answering(AnswerKind.TOP_CLASSES if is_certain else AnswerKind.LARGEST)


def _yes_or_no(output: str, samples: Sequence[NDArray[Any]], heads: Heads) -> Answering | None:
    """The threshold of an output of one number for each row; None where nothing says that it is a yes or no."""
    if output in heads.sigmoids:
        return Answering(AnswerKind.YES_OR_NO)
    if sum(len(a) for a in samples if a.ndim > 1 or a.size == 1) != sum(a.size for a in samples):
        return None  # of one axis, which may be anything
    is_probability = all((a >= 0).all() and (a <= 1).all() for a in samples) and any(a.any() for a in samples)
    if is_probability and sum(a.size for a in samples) >= _ROWS and not _is_named_otherwise(output):
        return Answering(AnswerKind.YES_OR_NO)
    is_logit = output in heads.logits or "logit" in output.lower()
    return Answering(AnswerKind.YES_OR_NO, 0.0) if is_logit else None


def _says_classes(output: str, samples: Sequence[NDArray[Any]]) -> bool:
    """Whether values, the name or the number of columns say that there is a number for each class."""
    if _are_distributions(samples) or any(word in output.lower() for word in (*_CLASSES, "cls")):
        return True
    width = samples[0].shape[-1]
    return width in _IMAGENET if samples[0].ndim == 2 else width >= _VOCABULARY


def _may_have_classes(output: str, samples: Sequence[NDArray[Any]], *, is_chosen: bool) -> bool:
    """Whether an output may be logits or probabilities, a number for each class on the last axis.

    Args:
        output: its name.
        samples: its values on each sample.
        is_chosen: whether the user or the graph says so.
    """
    if not all(a.ndim > 1 and a.shape[-1] > 1 for a in samples):
        return False
    if _are_distributions(samples):
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


def _are_distributions(samples: Sequence[NDArray[Any]]) -> bool:
    """Whether all rows are probabilities of classes, or their logarithms."""
    return all(are_probabilities(a) or ((a <= 0).all() and are_probabilities(np.exp(a))) for a in samples)


def _is_named_otherwise(output: str) -> bool:
    """Whether the name of an output says that it holds no answers."""
    name = output.lower()
    return any(word in name for word in _OTHERS) or bool(_WORDS & set(re.split(r"[^a-z]+", name)))


def _is_other(name: str, samples: Sequence[NDArray[Any]]) -> bool:
    """Whether an output is plainly no number for each class, by its name, its lengths, or as no row has another top class."""
    if _is_named_otherwise(name):
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
