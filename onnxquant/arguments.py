"""Types of the arguments of public functions: a value of another type than a function declares is refused in our words."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import onnx

from onnxquant.errors import RecipeError, shown

P = ParamSpec("P")
T = TypeVar("T")
# Each of these stands for objects of other libraries, too: whoever reads them refuses the rest.
_OPEN = (Any, object, onnx.ModelProto, np.ndarray)
_CLASSES: Mapping[object, tuple[type, ...]] = {
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (int, float, np.integer, np.floating),
    Path: (os.PathLike,),
}
_TEXTS = (str, Path)
_WORDS: Mapping[object, str] = {Mapping: "mapping", Iterable: "iterable", Sequence: "sequence"}


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """A function that refuses arguments of other types than it declares; those of ``**options`` are not its own.

    >>> @checked
    ... def half(number: int) -> float:
    ...     return number / 2
    >>> half("4")
    Traceback (most recent call last):
    onnxquant.errors.RecipeError: number is '4', expected int
    """
    signature = inspect.signature(function)

    @wraps(function)
    def with_checks(*values: P.args, **keywords: P.kwargs) -> T:
        for name, value in _own(signature.bind(*values, **keywords)):
            types = _types(function).get(name, _OPEN)  # cls has none
            if not any(_fits(value, kind) for kind in types):
                is_text = isinstance(value, str) and any(kind in _TEXTS for kind in types)
                expected = "text without NUL" if is_text else _words(types)
                raise RecipeError(f"{name} is {shown(value)}, expected {expected}")
        return function(*values, **keywords)

    return with_checks


def _own(bound: inspect.BoundArguments) -> Iterator[tuple[str, object]]:
    """Names and values of the arguments that a function declares, each of ``*values`` for itself."""
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((name, entry) for entry in value)
        elif kind is not inspect.Parameter.VAR_KEYWORD:
            yield name, value


@cache
def _types(function: Callable[..., object]) -> Mapping[str, tuple[object, ...]]:
    """Types that each argument may have."""
    return {name: _parts(hint) for name, hint in get_type_hints(function).items()}


def _parts(hint: object) -> tuple[object, ...]:
    """The types of a union; any other type alone."""
    return (hint,) if get_origin(hint) not in (Union, UnionType) else get_args(hint)


def _fits(value: object, kind: object) -> bool:
    """Whether a value is of a type."""
    base: Any = get_origin(kind) or kind
    if base in _OPEN or str(getattr(base, "__module__", "")).startswith("numpy._typing"):  # part of ArrayLike
        return True
    if isinstance(value, str):
        return base in _TEXTS and "\0" not in value
    if _is_function(base):
        return callable(value)
    if isinstance(value, (bytes, bool)):
        return base is bool and isinstance(value, bool)
    if not isinstance(value, _CLASSES.get(base, base)):
        return False
    if not isinstance(value, (list, tuple, set)) or not get_args(kind):
        return True
    return all(any(_fits(entry, part) for part in _parts(get_args(kind)[0])) for entry in value)


def _is_function(base: object) -> bool:
    """Whether a type is one of functions: ``Callable``, or a protocol of ours with a call."""
    return base is Callable or (getattr(base, "_is_protocol", False) and "__call__" in vars(base))


def _words(types: Iterable[object]) -> str:
    """The types in words: ``str, Path or iterable of str``."""
    words = [_word(kind) for kind in types if kind is not NoneType]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _word(kind: object) -> str:
    base = get_origin(kind) or kind
    if _is_function(base):
        return "function"
    word = _WORDS.get(base) or str(getattr(base, "__name__", base))
    entries = get_args(kind)
    return f"{word} of {_words(_parts(entries[0]))}" if len(entries) == 1 and entries[0] not in _OPEN else word
