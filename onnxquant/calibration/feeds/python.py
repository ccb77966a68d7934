"""Samples from Python: iterables, functions that return one, and module:function."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard, cast

from onnxquant.calibration.feeds.arrays import in_memory
from onnxquant.calibration.feeds.base import Input, Raw, SampleOrigin, Source, expected
from onnxquant.errors import FeedError, nearest

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Listed:
    """Samples of an iterable that can be iterated over again, or of a function that returns one each time.

    A sample is ``{input name: array}``, or the array alone where the model has one input.
    """

    files: Sequence[Path] = ()
    classes: Sequence[str] = ()

    def __init__(
        self, make: Callable[[], Iterable[Any]], inputs: Sequence[Input], name: str, limit: int | None
    ) -> None:
        self.origin = SampleOrigin()
        self._make, self._inputs, self._name = make, inputs, name
        samples = make()
        if isinstance(samples, Sequence):
            self._count = len(samples)
        else:  # counted once, without looking at the samples
            self._count = sum(1 for _ in islice(_each(samples, name), limit))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        for i, sample in enumerate(_each(self._make(), self._name)):
            where = f"{self._name}, sample {i}"
            yield where, self._named(sample, where)

    def _named(self, sample: object, where: str) -> Raw:
        if isinstance(sample, Mapping):
            return sample
        if hasattr(sample, "__array__") and len(self._inputs) == 1:
            return {self._inputs[0].name: sample}
        raise FeedError(f"{where}: is {_kind(sample)}, expected {{input name: array}}; {expected(self._inputs)}")


def _each(iterable: Iterable[Any], name: str) -> Iterator[Any]:
    """The entries; errors of the user's code become FeedErrors."""
    try:
        yield from iterable
    except FeedError:
        raise
    except Exception as error:
        raise FeedError(f"{name}: fails with {type(error).__name__}: {error}") from error


def from_python(data: object, inputs: Sequence[Input], name: str, limit: int | None) -> Source:
    """The samples of a mapping of arrays, an iterable, an iterator (which is read once into memory) or a function.

    Raises:
        FeedError: it is none of these, or fails.
    """
    if callable(data) and not isinstance(data, Iterable):
        result = _call(data, name)
        if isinstance(result, Mapping):
            return in_memory(result, inputs, name)
        if not _is_samples(result):
            raise FeedError(f"{name}: gives {_kind(result)}, expected samples to go through; {expected(inputs)}")
        return Listed(_repeatable(result, data, name), inputs, name, limit)
    if isinstance(data, Mapping):
        return in_memory(data, inputs, name)
    if not _is_samples(data):
        raise FeedError(f"{name}: is {_kind(data)}, expected {{input name: array}} for each sample; {expected(inputs)}")
    if isinstance(data, Iterator):
        samples = list(islice(_each(data, name), limit))
        return Listed(lambda: samples, inputs, name, limit)
    return Listed(lambda: data, inputs, name, limit)


def _is_samples(value: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and not hasattr(value, "__array__")


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
