"""Parts of outputs that are judged by themselves: slices along an axis that differ in scale, or those that the user names.

Boxes of hundreds of pixels beside scores below 1 hide what happens to the scores: of their common error nearly all is the
boxes'. Slices along one axis are therefore grouped by their root mean square, split where it jumps by a factor of eight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError, nearest

Index = tuple[slice | NDArray[np.intp], ...]
# Slices whose scales differ by this factor are of different kinds.
_JUMP = 8.0
# Axes longer than this are positions, not kinds of values; and axes of images and texts are mostly longer, too.
_LONGEST = 1024
# A group of a smaller part of all slices is an outlier, no kind of its own.
_LEAST_SHARE = 1 / 128
# Scores lie between 0 and 1, and are mostly far below their highest value, or never above this one.
_SPARSE, _ABSENT = 0.25, 0.1


@dataclass(frozen=True, eq=False)
class Part:
    """A part of an output.

    Attributes:
        output: name of the output.
        index: the part, as an index of numpy; empty: all of it.
        text: the index as text.
    """

    output: str
    index: Index = ()
    text: str = ""

    @property
    def title(self) -> str:
        """The part in reports: ``output`` or ``output[:, 0:4]``."""
        return self.output + self.text

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """The part of an array, as far as its axes go; all of it where it has too few of them."""
        if len(self.index) > values.ndim:
            return values
        pairs = zip(self.index, values.shape, strict=False)
        return values[tuple(part if isinstance(part, slice) else part[part < length] for part, length in pairs)]


def parts_by_scale(output: str, arrays: Sequence[NDArray[Any]]) -> list[Part]:
    """The parts of a float output whose scales differ; one part, the whole, where none do.

    Args:
        output: name of the output.
        arrays: its values on each sample.

    >>> boxes, scores = np.full((1, 4, 9), 300.0), np.full((1, 6, 9), 0.5)
    >>> [part.title for part in parts_by_scale("y", [np.concatenate([boxes, scores], 1)])]
    ['y[:, 0:4]', 'y[:, 4:10]']
    """
    best: list[NDArray[np.intp]] = []
    best_axis, best_jump = 0, 0.0
    for axis in _axes(arrays[0].shape) if arrays else ():
        lengths = {a.shape[axis] if a.ndim > axis else 0 for a in arrays}
        if len(lengths) == 1 and 2 <= min(lengths) <= _LONGEST:
            groups, jump = _groups(arrays, axis)
            if jump > best_jump:
                best, best_axis, best_jump = groups, axis, jump
    if len(best) < 2:
        return [Part(output)]
    return [
        Part(output, (*[slice(None)] * best_axis, group), f"[{':, ' * best_axis}{_ranges(group)}]") for group in best
    ]


def _axes(shape: tuple[int, ...]) -> list[int]:
    """Axes whose slices may be of several kinds: not the samples, and of images the channels alone."""
    if len(shape) == 4:
        return [1 if shape[1] <= shape[3] else 3]
    return [len(shape) - 1] if len(shape) > 4 else list(range(1, len(shape)))


def _groups(arrays: Sequence[NDArray[Any]], axis: int) -> tuple[list[NDArray[np.intp]], float]:
    """Groups of slices along an axis that differ in scale, in order, and the largest jump between two of them."""
    scales = _scales(arrays, axis)
    alive = np.flatnonzero(scales > 0)
    order = alive[np.argsort(scales[alive], kind="stable")]
    if len(order) < 2:
        return [], 0.0
    jumps = scales[order[1:]] / scales[order[:-1]]
    least = _LEAST_SHARE * len(scales)
    groups, start = list[NDArray[np.intp]](), 0
    largest = 0.0
    for end in [*np.flatnonzero(jumps >= _JUMP) + 1, len(order)]:
        if end - start < least or (end < len(order) and len(order) - end < least):
            continue
        groups.append(np.sort(order[start:end]))
        largest = max(largest, float(jumps[start - 1]) if start else 0.0)
        start = int(end)
    if start < len(order) and groups:
        groups[-1] = np.sort(np.concatenate([groups[-1], order[start:]]))
    return sorted(groups, key=lambda group: int(group[0])), largest


def _scales(arrays: Sequence[NDArray[Any]], axis: int) -> NDArray[np.float64]:
    """Root mean square of each slice; of all scores the largest, since classes that no sample shows have no scale."""
    length = arrays[0].shape[axis]
    squares, low, high = np.zeros(length), np.full(length, np.inf), np.full(length, -np.inf)
    count = 0
    for array in arrays:
        values = np.nan_to_num(np.moveaxis(array, axis, 0).reshape(length, -1).astype(np.float64), posinf=0, neginf=0)
        count += values.shape[1]
        squares += np.square(values).sum(1)
        low = np.minimum(low, values.min(1, initial=np.inf))
        high = np.maximum(high, values.max(1, initial=-np.inf))
    scales = np.sqrt(squares / max(count, 1))
    scores = (low >= 0) & (high <= 1) & ((scales < _SPARSE * high) | (high < _ABSENT))
    scales[scores] = scales.max(initial=0, where=scores)
    return np.asarray(scales)


def _ranges(places: NDArray[np.intp]) -> str:
    """Places as ranges.

    >>> _ranges(np.array([0, 1, 2, 5]))
    '0:3, 5'
    """
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    texts = [f"{run[0]}:{run[-1] + 1}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(texts) if len(texts) <= 3 else f"{texts[0]}, {texts[1]} ... {texts[-1]}"


def named_part(text: str, outputs: Sequence[str]) -> Part:
    """The part that a text names: ``output``, or ``output:`` and an index of numpy such as ``[:, 0:4]``.

    Raises:
        RecipeError: no such output, or no index.

    >>> named_part("y:[:, 0:4]", ["x", "y"]).title
    'y[:, 0:4]'
    """
    if text in outputs:
        return Part(text)
    for name in sorted(outputs, key=len, reverse=True):
        if text.startswith(f"{name}:"):
            index = text[len(name) + 1 :].strip().removeprefix("[").removesuffix("]")
            return Part(name, _index(text, index), f"[{', '.join(part.strip() for part in index.split(','))}]")
    raise RecipeError(f"judge {text!r}: no output of that name{nearest(text.split(':')[0], list(outputs))}")


def _index(text: str, index: str) -> Index:
    """The slices of an index of numpy in text; ``text`` names the whole part in errors."""
    parts = []
    for part in index.split(","):
        numbers = re.fullmatch(r"\s*(-?\d+)?\s*(:)?\s*(-?\d+)?\s*", part)
        if numbers is None or (numbers[2] is None and numbers[1] is None):
            raise RecipeError(
                f"judge {text!r}: {part.strip()!r} is no slice, expected numbers and colons, such as [:, 0:4]"
            )
        start = None if numbers[1] is None else int(numbers[1])
        if numbers[2] is None and start is not None:
            parts.append(slice(start, None if start == -1 else start + 1))
        else:
            parts.append(slice(start, None if numbers[3] is None else int(numbers[3])))
    return tuple(parts)
