"""Comparable values of outputs whose shapes or order depend on values: boxes that are the same, and common beginnings.

Non-maximum suppression, or durations of speech, give outputs of other lengths as soon as one value crosses a threshold.
Boxes are then matched by their overlap, with the scores and labels in their rows; other outputs are cut to the common length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.numerics.arrays import Array

# Ways of comparing outputs whose shape depends on values, as reports name them.
BY_BOXES, BY_BEGINNINGS = "matched by boxes", "common beginnings"
# Boxes that overlap by this part of their union are the same.
_SAME_BOX = 0.5
# Numbers of columns of an array of boxes: corners, perhaps with a score, a label and the sample.
_COLUMNS = range(4, 8)
# Forms of a box in a row.
_CORNERS, _SAMPLE_FIRST, _CENTER = "corners", "sample, corners", "center and size"
# Outputs of one shape are taken for boxes from this many on.
_FEWEST_BOXES = 8
# More rows than this are anchors, which have their places.
_MOST_BOXES = 1000
# Boxes of lower scores are not counted, where there are scores.
_LEAST_SCORE = 0.25


@dataclass(frozen=True)
class Aligned:
    """Outputs of one sample with arrays of the same shapes on both sides.

    Attributes:
        expected, outputs: the arrays by output.
        same, boxes: number of boxes that are on both sides, and of all; None where there are none.
        matched: outputs that were matched by boxes.
        cut: outputs that were cut to the common length.
        incomparable: outputs with both shapes, where they have another number of axes.
    """

    expected: Mapping[str, Array]
    outputs: Mapping[str, Array]
    same: int | None = None
    boxes: int | None = None
    matched: frozenset[str] = frozenset()
    cut: frozenset[str] = frozenset()
    incomparable: Mapping[str, str] = field(default_factory=dict)

    def remark(self, output: str) -> str:
        """The way in which an output was compared; empty: value with value."""
        return BY_BOXES if output in self.matched else BY_BEGINNINGS if output in self.cut else ""


@dataclass(frozen=True)
class _Detections:
    """Boxes of one side, with the outputs whose rows belong to them.

    Attributes:
        corners: the boxes as corners [boxes, 4].
        rows: rows of these boxes.
    """

    corners: NDArray[np.float64]
    rows: NDArray[np.intp]


def arrays_of(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Outputs as arrays by name; entries of sequences have their place behind the name, maps are their values."""
    flat: dict[str, Array] = {}
    for name, value in outputs.items():
        if isinstance(value, list):
            flat |= arrays_of({f"{name}[{i}]": entry for i, entry in enumerate(value)})
        else:
            flat[name] = np.asarray(list(value.values()) if isinstance(value, dict) else value)
    return flat


def align(expected: Mapping[str, Array], outputs: Mapping[str, Array]) -> Aligned:
    """The comparable values of one sample's outputs.

    Args:
        expected: outputs of the reference.
        outputs: outputs to compare with them.

    >>> a, b = np.float32([[0, 0, 9, 9], [20, 20, 30, 30]]), np.float32([[20, 20, 30, 31]])
    >>> aligned = align({"boxes": a}, {"boxes": b})
    >>> aligned.same, aligned.boxes, aligned.expected["boxes"].tolist()
    (1, 2, [[20.0, 20.0, 30.0, 30.0]])
    """
    names = [n for n in expected if n in outputs]
    incomparable = {
        n: f"{list(outputs[n].shape)} instead of {list(expected[n].shape)}"
        for n in names
        if expected[n].ndim != outputs[n].ndim
    }
    a = {n: expected[n] for n in names if n not in incomparable}
    aligned = Aligned(a, {n: outputs[n] for n in a}, incomparable=incomparable)
    if (boxes := _name_of_boxes(aligned)) is not None:
        aligned = _matched(aligned, boxes)
    elif (rows := _name_of_rows(aligned)) is not None:
        aligned = _common_rows(aligned, rows)
    return _cut(aligned)


def boxes_of(expected: Mapping[str, Array], outputs: Mapping[str, Array]) -> list[Array] | None:
    """The corners of the boxes that count, of the reference and of the outputs [boxes, 4]; None where there are none.

    Args:
        expected: outputs of the reference.
        outputs: outputs to compare with them.
    """
    names = [n for n in expected if n in outputs and expected[n].ndim == outputs[n].ndim]
    aligned = Aligned({n: expected[n] for n in names}, {n: outputs[n] for n in names})
    boxes = _name_of_boxes(aligned)
    if boxes is None:
        return None
    sides = (aligned.expected, aligned.outputs)
    group = _group(aligned, boxes)
    tables = [side[boxes].reshape(-1, side[boxes].shape[-1]).astype(np.float64) for side in sides]
    form = _form(tables[0] if len(tables[0]) else tables[1])
    return [_detections(side, boxes, group, form).corners for side in sides]


def _name_of_boxes(aligned: Aligned) -> str | None:
    """Name of the output that holds boxes, a row each, whose number or order depends on values; None where there is none."""
    for name, a in aligned.expected.items():
        b = aligned.outputs[name]
        is_table = a.dtype.kind == "f" and a.ndim >= 2 and a.shape[-1] == b.shape[-1] and a.shape[-1] in _COLUMNS
        if not is_table or any(np.prod(v.shape[:-2], dtype=int) != 1 or v.shape[-2] > _MOST_BOXES for v in (a, b)):
            continue
        tables = [v.reshape(-1, v.shape[-1]).astype(np.float64) for v in (a, b)]
        if not all(np.isfinite(table).all() for table in tables):
            continue
        if a.shape != b.shape or (len(tables[0]) >= _FEWEST_BOXES and _is_picture(tables[0])):
            known = next((table for table in tables if len(table)), tables[0])
            if _form(known) is not None:
                return name
    return None


def _is_picture(table: NDArray[np.float64]) -> bool:
    """Whether rows look like boxes in a picture, rather than like logits: corners, hardly any of them negative."""
    used = _used(table)
    return len(used) >= _FEWEST_BOXES and _form(table) == _CORNERS and used[:, :4].min() >= -0.1 * used[:, :4].max()


def _used(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows that are no padding."""
    return np.asarray(table[np.any(table[:, :4] != 0, axis=1)])


def _form(table: NDArray[np.float64]) -> str | None:
    """The way in which rows hold a box; None where they hold none."""
    used = _used(table)
    if not len(used):
        return _CORNERS
    if bool((used[:, 2:4] > used[:, :2]).all()):
        return _CORNERS
    if used.shape[1] == 7 and bool((used[:, 3:5] > used[:, 1:3]).all()) and not used[:, 0].any():
        return _SAMPLE_FIRST
    return _CENTER if bool((used[:, 2:4] > 0).all()) else None


def _corners(table: NDArray[np.float64], form: str | None) -> NDArray[np.float64]:
    """The corners of boxes."""
    if form == _SAMPLE_FIRST:
        return table[:, 1:5]
    if form == _CENTER:
        half = table[:, 2:4] / 2
        return np.concatenate([table[:, :2] - half, table[:, :2] + half], axis=1)
    return table[:, :4]


def _name_of_rows(aligned: Aligned) -> str | None:
    """Name of a table of whole numbers whose number of rows depends on values, such as indices of boxes."""
    for name, a in aligned.expected.items():
        b = aligned.outputs[name]
        if a.dtype.kind in "iu" and a.ndim == 2 and a.shape != b.shape and a.shape[1] == b.shape[1]:
            return name
    return None


def _common_rows(aligned: Aligned, name: str) -> Aligned:
    """The rows of a table of whole numbers that are on both sides."""
    sides = [[tuple(map(int, row)) for row in side[name]] for side in (aligned.expected, aligned.outputs)]
    both = set(sides[0]) & set(sides[1])
    common = aligned.expected[name][[row in both for row in sides[0]]]
    return replace(
        aligned,
        expected={**aligned.expected, name: common},
        outputs={**aligned.outputs, name: common},
        same=len(both),
        boxes=max(map(len, sides)),
        matched=frozenset([name]),
    )


def _matched(aligned: Aligned, boxes: str) -> Aligned:
    """The rows of boxes that are on both sides, in the same order."""
    sides = (aligned.expected, aligned.outputs)
    counts = [side[boxes].shape[-2] for side in sides]
    group = _group(aligned, boxes)
    tables = [side[boxes].reshape(-1, side[boxes].shape[-1]).astype(np.float64) for side in sides]
    form = _form(tables[0] if len(tables[0]) else tables[1])
    one, two = (_detections(side, boxes, group, form) for side in sides)
    pairs = _pairs(one.corners, two.corners)
    first, second = one.rows[[i for i, _ in pairs]], two.rows[[j for _, j in pairs]]
    labels = [n for n in group if aligned.expected[n].dtype.kind in "iu" and aligned.expected[n].size == counts[0]]
    same = np.ones(len(pairs), bool)
    for n in labels:
        same &= aligned.expected[n].reshape(-1)[first] == aligned.outputs[n].reshape(-1)[second]
    return replace(
        aligned,
        expected={n: np.take(v, first, group[n]) if n in group else v for n, v in aligned.expected.items()},
        outputs={n: np.take(v, second, group[n]) if n in group else v for n, v in aligned.outputs.items()},
        same=int(same.sum()),
        boxes=max(len(one.rows), len(two.rows)),
        matched=frozenset(group),
    )


def _group(aligned: Aligned, boxes: str) -> dict[str, int]:
    """The outputs that have a row for each box, and the axis of their rows."""
    counts = [side[boxes].shape[-2] for side in (aligned.expected, aligned.outputs)]
    axis = {n: _row_axis(aligned.expected[n], aligned.outputs[n], counts) for n in aligned.expected}
    axis[boxes] = aligned.expected[boxes].ndim - 2
    return {n: x for n, x in axis.items() if x is not None}


def _row_axis(expected: Array, outputs: Array, counts: list[int]) -> int | None:
    """The axis along which an output has an entry for each box; None where it has none."""
    for axis in range(min(2, expected.ndim)):
        if [expected.shape[axis], outputs.shape[axis]] == counts and (axis == 0 or expected.shape[0] == 1):
            return axis
    return None


def _detections(side: Mapping[str, Array], boxes: str, group: Mapping[str, int], form: str | None) -> _Detections:
    """The boxes of one side that count."""
    table = side[boxes].reshape(-1, side[boxes].shape[-1]).astype(np.float64)
    counted = np.any(table[:, :4] != 0, axis=1)
    scores = [v.reshape(-1) for n, v in side.items() if n in group and n != boxes and v.dtype.kind == "f"]
    scores += [table[:, column] for column in range(4, table.shape[1])]
    for values in scores:
        if values.shape == counted.shape and values.size and values.min() >= 0 and values.max() <= 1:
            counted &= values >= min(_LEAST_SCORE, float(values.max()))
            break
    rows = np.flatnonzero(counted)
    return _Detections(_corners(table[rows], form), rows)


def _pairs(expected: NDArray[np.float64], outputs: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of boxes that overlap most, each box in one pair at most, in the order of the first ones."""
    if not len(expected) or not len(outputs):
        return []
    low = np.maximum(expected[:, None, :2], outputs[None, :, :2])
    high = np.minimum(expected[:, None, 2:], outputs[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1) for b in (expected, outputs)]
    union = areas[0][:, None] + areas[1][None] - common
    overlap = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    pairs, taken = list[tuple[int, int]](), (set[int](), set[int]())
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = (int(v) for v in np.unravel_index(flat, overlap.shape))
        if overlap[i, j] < _SAME_BOX:
            break
        if i not in taken[0] and j not in taken[1]:
            pairs.append((i, j))
            taken[0].add(i)
            taken[1].add(j)
    return sorted(pairs)


def _cut(aligned: Aligned) -> Aligned:
    """Outputs of other lengths cut to the common ones."""
    cut = frozenset(n for n, v in aligned.expected.items() if v.shape != aligned.outputs[n].shape)
    common = {
        n: tuple(slice(min(pair)) for pair in zip(aligned.expected[n].shape, aligned.outputs[n].shape, strict=True))
        for n in cut
    }
    return replace(
        aligned,
        expected={n: v[common[n]] if n in cut else v for n, v in aligned.expected.items()},
        outputs={n: v[common[n]] if n in cut else v for n, v in aligned.outputs.items()},
        cut=cut,
    )
