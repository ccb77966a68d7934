"""Samples from Python: iterables, functions that return one, and module:function."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard, cast

import numpy as np

from onnxquant.calibration.feeds.arrays import in_memory
from onnxquant.calibration.feeds.base import Input, Raw, SampleOrigin, Source, expected
from onnxquant.calibration.feeds.facts import ModelFacts
from onnxquant.calibration.feeds.labels import LABEL
from onnxquant.calibration.feeds.rows import RowMaker, array_of, is_image, row_maker
from onnxquant.errors import FeedError, nearest


@dataclass(frozen=True)
class Target:
    """A model that samples are made for.

    Attributes:
        inputs: its inputs.
        values: values of the description of steps.
        facts: facts about it.
    """

    inputs: Sequence[Input]
    values: Mapping[str, Any]
    facts: ModelFacts


_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Listed:
    """Samples of an iterable that can be iterated over again, or of a function that returns one each time.

    A sample is ``{input name: array}``, the array alone where the model has one input, a text, an image of Pillow, a row of a
    table, or a tuple of these with a label behind them. Batches of another size than the model's are taken apart.

    Args:
        make: function that returns the samples.
        name: name of the data, for messages.
        limit: largest number of samples that are counted; None: all.
        target: inputs of the model, values of the description and facts about the model.
    """

    files: Sequence[Path] = ()
    classes: Sequence[str] = ()

    def __init__(self, make: Callable[[], Iterable[Any]], name: str, limit: int | None, target: Target) -> None:
        self._make, self._name, self._target = make, name, target
        self._maker: RowMaker | None = None
        self.origin = SampleOrigin()
        self._is_taken_apart = False
        for sample in islice(_each(make(), name), 1):  # the first decides how samples are read
            first = _entries(self._inputs(sample, f"{name}, sample 0"), target.inputs)
            self._is_taken_apart = first.are_taken_apart
        if self._maker is not None:
            self.origin = self._maker.origin
        samples = make()
        if self._is_taken_apart:
            self._count = sum(1 for _ in islice(iter(self), limit))
        elif isinstance(samples, Sized):
            self._count = len(samples)
        else:  # counted once, without looking at the samples
            self._count = sum(1 for _ in islice(_each(samples, name), limit))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        for i, sample in enumerate(_each(self._make(), self._name)):
            where = f"{self._name}, sample {i}"
            raw = self._inputs(sample, where)
            entries = _entries(raw, self._target.inputs)
            if self._is_taken_apart:
                for k in range(entries.count):
                    yield f"{where}, entry {k}", _part(raw, entries.count, [k])
            elif 1 < entries.count < (entries.fixed or 0):  # the last batch of a loader
                repeated = _part(raw, entries.count, [k % entries.count for k in range(entries.fixed or 0)])
                yield where, {**repeated, **({LABEL: raw[LABEL]} if LABEL in raw else {})}
            else:
                yield where, raw

    def _inputs(self, sample: object, where: str) -> Raw:
        """The inputs of one sample."""
        target, names = self._target, [i.name for i in self._target.inputs if not i.optional]
        if isinstance(sample, (tuple, list)) and not isinstance(sample, str):
            if len(sample) == 2 and isinstance(sample[0], Mapping):  # the inputs by name, and the label
                return {**self._inputs(sample[0], where), LABEL: array_of(sample[1])}
            if len(sample) in (len(names), len(names) + 1) and all(map(_is_value, sample)):
                row = dict(zip([*names, LABEL], sample, strict=False))
                label = {LABEL: array_of(row.pop(LABEL))} if LABEL in row else {}
                return {**self._inputs(row, where), **label}
        if isinstance(sample, (str, bytes)) or is_image(sample):
            sample = {"text" if isinstance(sample, str) else "image": sample}
        if hasattr(sample, "__array__") and not isinstance(sample, Mapping) and len(target.inputs) == 1:
            sample = {target.inputs[0].name: sample}
        if not isinstance(sample, Mapping):
            raise FeedError(f"{where}: is {_kind(sample)}, expected {{input name: array}}; {expected(target.inputs)}")
        if self._maker is None:
            self._maker = row_maker(sample, where, target.inputs, target.values, target.facts)
        return dict(sample) if self._maker is None else self._maker(sample, where)


def _is_value(value: object) -> bool:
    """Whether a part of a tuple may be an input or a label."""
    return hasattr(value, "__array__") or isinstance(value, (str, int, float)) or is_image(value)


@dataclass(frozen=True)
class _Entries:
    """Numbers of entries along the first axis of the inputs, where all agree.

    Attributes:
        count: number in a sample.
        fixed: number that the model takes; None: any.
    """

    count: int = 1
    fixed: int | None = None

    @property
    def are_taken_apart(self) -> bool:
        """Whether the sample is a batch that the model does not take."""
        return self.count > 1 and self.fixed not in (None, self.count)


def _entries(raw: Raw, inputs: Sequence[Input]) -> _Entries:
    """The numbers of entries of a sample."""
    pairs = {
        (len(array), spec.shape[0])
        for spec in inputs
        if isinstance(array := raw.get(spec.name), np.ndarray) and 1 < len(spec.shape) == array.ndim
    }
    count, first = next(iter(pairs)) if len(pairs) == 1 else (1, None)
    return _Entries(count, first if isinstance(first, int) and first > 0 else None)


def _part(raw: Raw, count: int, places: list[int]) -> dict[str, Any]:
    """Some entries of the arrays that have so many."""
    return {
        name: array[places] if isinstance(array, np.ndarray) and array.ndim and len(array) == count else array
        for name, array in raw.items()
    }


def _each(iterable: Iterable[Any], name: str) -> Iterator[Any]:
    """The entries; errors of the user's code become FeedErrors."""
    try:
        if isinstance(iterable, Iterable):
            yield from iterable
        else:  # entries by number
            yield from (iterable[i] for i in range(len(iterable)))
    except FeedError:
        raise
    except Exception as error:
        raise FeedError(f"{name}: fails with {type(error).__name__}: {error}") from error


def from_python(data: object, name: str, limit: int | None, target: Target) -> Source:
    """The samples of a mapping of arrays, an iterable, an iterator (which is read once into memory) or a function.

    Args:
        data: the samples.
        name: their name, for messages.
        limit: largest number of samples; None: all.
        target: inputs of the model, values of the description and facts about the model.

    Raises:
        FeedError: it is none of these, or fails.
    """
    inputs = target.inputs
    if callable(data) and not _is_samples(data):
        result = _call(data, name)
        if isinstance(result, Mapping):
            return _arrays(result, name, target)
        if not _is_samples(result):
            raise FeedError(f"{name}: gives {_kind(result)}, expected samples to go through; {expected(inputs)}")
        return _checked(Listed(_repeatable(result, data, name), name, limit, target), target)
    if isinstance(data, Mapping):
        return _arrays(data, name, target)
    if not _is_samples(data):
        raise FeedError(f"{name}: is {_kind(data)}, expected {{input name: array}} for each sample; {expected(inputs)}")
    if isinstance(data, Iterator) or _is_shuffled(data):
        samples = list(islice(_each(data, name), limit))
        return _checked(Listed(lambda: samples, name, limit, target), target)
    return _checked(Listed(lambda: data, name, limit, target), target)


def _arrays(data: Mapping[str, Any], name: str, target: Target) -> Source:
    """The samples of a mapping of arrays."""
    if data and all(hasattr(part, "column_names") for part in data.values()):
        raise FeedError(f"{name}: holds the splits {', '.join(data)}: give one of them, such as data[{next(iter(data))!r}]")
    return _checked(in_memory({k: array_of(v) for k, v in data.items()}, target.inputs, name), target)


def _checked(source: Source, target: Target) -> Source:
    """A source, where the description fits its kind."""
    if target.values and source.origin.kind is None:
        raise FeedError(f"data: preprocess is for folders of images and for texts; {expected(target.inputs)}")
    return source


def _is_samples(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether a value holds samples: an iterable, or what has a length and entries by number, as datasets of torch."""
    if isinstance(value, (str, bytes, type)) or hasattr(value, "__array__"):
        return False
    return isinstance(value, Iterable) or (hasattr(value, "__getitem__") and hasattr(value, "__len__"))


def _is_shuffled(data: object) -> bool:
    """Whether a loader of torch gives its samples in another order each time."""
    return "Random" in type(getattr(data, "sampler", None)).__name__


def _call(function: Callable[[], Any], name: str) -> object:
    try:
        return function()
    except Exception as error:
        raise FeedError(f"{name}: fails with {type(error).__name__}: {error}") from error


def _repeatable(first: Iterable[Any], function: Callable[[], Any], name: str) -> Callable[[], Iterable[Any]]:
    """A function that returns the samples: the first result where it can be iterated over again, else a new one."""
    return (lambda: cast(Iterable[Any], _call(function, name))) if isinstance(first, Iterator) else (lambda: first)


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def is_reference(text: str) -> bool:
    """Whether a text reads as ``module:function``, and not as a file that is there."""
    return _REFERENCE.fullmatch(text) is not None and not Path(text).exists()


def resolve(reference: str) -> object:
    """The object that ``module:function`` names; the current folder is on the path while it is looked up.

    Raises:
        FeedError: no such module or name, or importing it fails.
    """
    module_name, _, attributes = reference.partition(":")
    with _current_folder_on_path():
        try:
            target: Any = importlib.import_module(module_name)
        except Exception as error:
            missing = isinstance(error, ModuleNotFoundError) and (error.name or "") in _parents(module_name)
            why = f"no module {error.name!r}" if missing else f"importing it fails with {type(error).__name__}: {error}"  # type: ignore[attr-defined]
            raise FeedError(f"{reference}: {why} (looked up from {Path.cwd()}); expected module:function") from None
    for attribute in attributes.split("."):
        if not hasattr(target, attribute):
            names = [n for n in dir(target) if not n.startswith("_")]
            near = nearest(attribute, names) if names else ""
            raise FeedError(f"{reference}: {module_name} has no {attribute!r}{near}")
        target = getattr(target, attribute)
    return target


def samples_named(reference: str) -> object:
    """The samples, or the function that gives them, that ``module:function`` names.

    Raises:
        FeedError: no such module or name, importing it fails, or it is neither.
    """
    target = resolve(reference)
    if not callable(target) and not isinstance(target, Iterable):
        raise FeedError(f"{reference}: is {_kind(target)}, expected a function that gives samples, or samples")
    return target


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


@contextmanager
def _current_folder_on_path() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
