"""Boxes of detectors that return an entry for every place where a box could be, before any of them is suppressed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onnxquant.numerics.arrays import Array

# Fewer entries are no anchors, and more numbers in an entry are no scores of classes.
_FEWEST, _MOST_CLASSES = 100, 1024
# Lower scores are no boxes; boxes that overlap more are the same; more are not shown.
_LEAST_SCORE, _SAME_BOX, _MOST_BOXES = 0.25, 0.5, 30


def boxes_of_anchors(outputs: Mapping[str, Array]) -> NDArray[np.float64] | None:
    """The corners of the best boxes of one sample [boxes, 4]; None where the outputs are no anchors with scores.

    An entry is a center, a size and scores in one output (YOLO), or there are boxes in one output and scores in another.

    Args:
        outputs: outputs by name.
    """
    tables = [t for a in outputs.values() if (t := _entries(a)) is not None]
    for table in tables:
        if table.shape[1] > 4 and _are_scores(table[:, 4:]):
            return _suppressed(_from_center(table[:, :4]), table[:, 4:].max(1))
    boxes = next((t for t in tables if t.shape[1] == 4), None)
    scores = next((t for t in tables if t.shape[1] != 4 and _are_scores(t)), None)
    if boxes is None or scores is None or len(boxes) != len(scores):
        return None
    is_corners = bool((boxes[:, 2:] > boxes[:, :2]).mean() > 0.9)
    # The last class of several stands for an object where the first one stands for none.
    best = scores[:, 1:].max(1) if scores.shape[1] > 1 else scores[:, 0]
    return _suppressed(boxes if is_corners else _from_center(boxes), best)


def _entries(array: Array) -> NDArray[np.float64] | None:
    """An output as entries of numbers [entries, numbers]; None where it has another form."""
    if array.dtype.kind != "f" or array.ndim != 3 or array.shape[0] != 1 or not np.isfinite(array).all():
        return None
    table = array[0] if array.shape[1] >= array.shape[2] else array[0].T
    return table.astype(np.float64) if len(table) >= _FEWEST and table.shape[1] <= _MOST_CLASSES else None


def _are_scores(table: NDArray[np.float64]) -> bool:
    return bool(table.min() >= 0 and table.max() <= 1)


def _from_center(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners of boxes with a center and a size."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _suppressed(corners: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The boxes of high scores that overlap no better one."""
    left = [int(i) for i in np.argsort(-scores) if scores[i] >= _LEAST_SCORE][: 10 * _MOST_BOXES]
    chosen: list[int] = []
    while left and len(chosen) < _MOST_BOXES:
        best = left.pop(0)
        chosen.append(best)
        left = [i for i in left if _overlap(corners[best], corners[i]) <= _SAME_BOX]
    return corners[chosen]


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The common part of two boxes over their union."""
    sides = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)
    areas = [float(np.prod(box[2:] - box[:2])) for box in (one, other)]
    common = float(np.prod(sides))
    return common / max(sum(areas) - common, 1e-12)
