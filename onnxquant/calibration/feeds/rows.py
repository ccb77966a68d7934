"""Inputs made of rows: tables with a column for each input, for a text, for an image, or for each feature."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from onnxquant.calibration.feeds.base import DTYPES, Input, Raw, SampleOrigin, expected
from onnxquant.calibration.feeds.facts import ModelFacts
from onnxquant.calibration.feeds.images import pixels_of
from onnxquant.calibration.feeds.labels import LABEL, is_label_name
from onnxquant.calibration.feeds.settings import entries_without
from onnxquant.calibration.feeds.text import text_maker
from onnxquant.errors import FeedError, nearest

Row = Mapping[str, Any]
# Columns that hold the text, where several could.
_TEXTS = ("text", "sentence", "content", "document", "question", "query", "review", "prompt", "title")
COLUMN = "column"


@dataclass(frozen=True)
class RowMaker:
    """Makes the inputs of a model of a row.

    Attributes:
        make: function of a row and its place that gives the inputs.
        label: column of the labels; None: there is none.
        origin: origin of the samples.
    """

    make: Callable[[Row, str], Raw]
    label: str | None
    origin: SampleOrigin

    def __call__(self, row: Row, where: str) -> Raw:
        """The inputs of a row, and its label."""
        raw = self.make(row, where)
        return raw if self.label is None else {**raw, LABEL: _label(row[self.label])}


def _label(value: Any) -> Any:  # noqa: ANN401 - what a column holds
    """The label in a column; text that is a whole number is the number of a class."""
    is_whole = isinstance(value, str) and _is_number(value) and float(value).is_integer()
    return np.array(int(float(value))) if is_whole else array_of(value)


def row_maker(
    row: Row, where: str, inputs: Sequence[Input], values: Mapping[str, Any], facts: ModelFacts
) -> RowMaker | None:
    """The maker for rows like one; None where no inputs can be made of it.

    Args:
        row: the first row.
        where: place of the rows, for messages.
        inputs: inputs of the model.
        values: values of the description.
        facts: facts about the model.

    Raises:
        FeedError: a column that is not there, or steps that do not fit.
    """
    names = {i.name for i in inputs}
    label = next((str(name) for name in row if name not in names and is_label_name(name)), None)
    column, steps = values.get(COLUMN), entries_without(values, COLUMN)
    if column is not None and column not in row:
        raise FeedError(f"{where}: has no column {column!r}{nearest(str(column), list(map(str, row)))}")
    needed = [i.name for i in inputs if not i.optional]
    if column is None and needed and all(name in row for name in needed) and not any(is_image(row[n]) for n in needed):
        others = [str(name) for name in row if name not in names and name != label]
        assumed = (f"columns that are no inputs: {', '.join(others)}",) if others else None
        return RowMaker(lambda r, _: _inputs(r, inputs), label, SampleOrigin(assumed=assumed))
    columns = [column] if column is not None else [str(name) for name in row if name != label]
    if (image := next((name for name in columns if is_image(row[name])), None)) is not None:
        pixels = pixels_of(where, inputs, steps, facts, lambda: [(where, row[image].size)])
        return RowMaker(lambda r, place: {pixels.spec.name: pixels(r[image], place)}, label, pixels.origin)
    if column is None:
        _refuse_other_numbers(row, where, columns, inputs)
    texts = [name for name in columns if isinstance(row[name], str) and not _is_number(row[name])]
    if texts and (column is not None or not _is_table(row, columns, inputs)):
        text = next((name for name in _TEXTS if name in texts), texts[0] if len(texts) == 1 else None)
        if text is None:
            listed = ", ".join(columns)
            raise FeedError(f"{where}: has the columns {listed}: --preprocess column=NAME says which holds the text")
        make, origin = text_maker(Path(where), inputs, steps, facts)
        assumed = (*(origin.assumed or ()), *(() if column else (f"column={text}",)))
        return RowMaker(lambda r, _: make(str(r[text])), label, replace(origin, assumed=assumed))
    if _is_table(row, columns, inputs):
        numbers = [name for name in columns if _is_number(row[name])]
        spec = next(i for i in inputs if not i.optional)
        return RowMaker(
            lambda r, _: {spec.name: np.array([[_number(r, name) for name in numbers]], np.float32)}, label,
            SampleOrigin(assumed=(f"{spec.name} holds the columns {', '.join(numbers)}",)),
        )  # fmt: skip
    return None


def _inputs(row: Row, inputs: Sequence[Input]) -> Raw:
    """The inputs that columns are called like."""
    return {i.name: with_batch(_typed(row[i.name], i), i) for i in inputs if i.name in row}


def _typed(value: Any, spec: Input) -> Any:  # noqa: ANN401 - what a column holds
    """A value; text in the type of its input where that is a number."""
    if spec.element.startswith("seq("):
        return value
    dtype = DTYPES.get(spec.element, np.str_)
    is_text = isinstance(value, str) and dtype is not np.str_
    return np.array(float(value) if np.dtype(dtype).kind == "f" else int(value)) if is_text else array_of(value)


def with_batch(value: Any, spec: Input) -> Any:  # noqa: ANN401 - an array, or what the model takes in its place
    """A value with the axis for samples that its input has, and the axis for the only feature."""
    if not isinstance(value, np.ndarray) or not spec.shape:
        return value
    if value.ndim == 0:
        return value.reshape((1,) * len(spec.shape))
    return value[None] if value.ndim + 1 == len(spec.shape) else value


def array_of(value: Any) -> Any:  # noqa: ANN401 - what users have
    """An array, of a tensor of torch or of what numpy takes; other values as they are."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if isinstance(value, str):
        return np.array(value, object)
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths
        return value


def is_image(value: object) -> TypeGuard[Any]:
    """Whether a value is an image of Pillow."""
    module = sys.modules.get("PIL.Image")
    return module is not None and importlib.util.find_spec("PIL") is not None and isinstance(value, module.Image)


def _is_number(value: object) -> bool:
    if isinstance(value, (bool, int, float, np.number)):
        return True
    try:
        float(str(value) if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def _is_table(row: Row, columns: Sequence[str], inputs: Sequence[Input]) -> bool:
    """Whether the only input takes the columns of numbers as its features."""
    spec, count = _features(inputs), sum(_is_number(row[name]) for name in columns)
    return spec is not None and count > 0 and spec.shape[1] in (count, None)


def _features(inputs: Sequence[Input]) -> Input | None:
    """The only input that a sample needs, where it is a row of floats; None where it is none."""
    needed = [i for i in inputs if not i.optional]
    if len(needed) != 1 or len(needed[0].shape) != 2 or np.dtype(DTYPES.get(needed[0].element, np.str_)).kind != "f":
        return None
    return needed[0]


def _refuse_other_numbers(row: Row, where: str, columns: Sequence[str], inputs: Sequence[Input]) -> None:
    """Refuse rows of another number of features than the only input takes.

    Raises:
        FeedError: a column is empty, or there are more or fewer.
    """
    spec = _features(inputs)
    if spec is None:
        return
    width = spec.shape[1]
    numbers = [name for name in columns if _is_number(row[name])]
    if not isinstance(width, int) or width < 1 or len(numbers) == width:
        return
    empty = [name for name in columns if isinstance(row[name], str) and not row[name].strip()]
    if empty and len(numbers) + len(empty) == width:
        raise FeedError(f"{where}, row 1: column {empty[0]!r} is empty, expected a number")
    others = [name for name in columns if name not in numbers]
    texts = f" (and {', '.join(others)}, which hold none)" if others else ""
    raise FeedError(
        f"{where}: input {spec.name!r} takes {width} features, found {len(numbers)} columns of numbers: "
        f"{', '.join(numbers) or 'none'}{texts}; {expected(inputs)}"
    )


def _number(row: Row, name: str) -> float:
    """The number in a column.

    Raises:
        ValueError: it holds none.
    """
    value = row[name]
    if not _is_number(value):
        problem = "is empty" if isinstance(value, str) and not value.strip() else f"holds {value!r}"
        raise ValueError(f"column {name!r} {problem}, expected a number")
    return float(value)


def no_maker(row: Row, where: str, inputs: Sequence[Input]) -> FeedError:
    """The error for rows that no inputs can be made of."""
    return FeedError(f"{where}: has the columns {', '.join(map(str, row))}; {expected(inputs)}")
