"""Kinds of values by the names that JSON Schema gives them: which values are of one, and the word for it in messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

import numpy as np

# "function" is no kind of JSON's: callers in Python alone have functions.
WORDS = {
    "string": "str", "boolean": "bool", "integer": "int", "number": "float", "array": "list", "object": "table",
    "function": "function",
}  # fmt: skip


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # 4.0 is an integer of JSON, but no number of bits


HOLDS: Mapping[str, Callable[[object], bool]] = {
    "string": lambda value: isinstance(value, str) and "\0" not in value,
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "number": lambda value: _is_integer(value) or isinstance(value, float),
    "array": lambda value: isinstance(value, (list, tuple)),
    "object": lambda value: isinstance(value, Mapping),
    "function": callable,
}


def holds(value: object, kinds: Iterable[str]) -> bool:
    """Whether a value is of one of some kinds."""
    return any(HOLDS[kind](value) for kind in kinds)


def words(kinds: str | Iterable[str]) -> str:
    """The words for a kind, or for several.

    >>> words(["integer", "string"])
    'int or str'
    """
    return " or ".join(WORDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))


def expected(value: object, kinds: str | Iterable[str]) -> str:
    """The end of a sentence on a value of the wrong kind: what would be right.

    >>> expected(True, "integer")
    'expected int'
    """
    return "expected text without NUL" if isinstance(value, str) and "\0" in value else f"expected {words(kinds)}"


def plain(value: object) -> object:
    """A value as files hold it: numbers of numpy become Python's, and paths texts."""
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def plain_list(value: object) -> object:
    """Several values as a tuple of plain ones; one text stands for itself alone."""
    value = plain(value)
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        return tuple(plain(entry) for entry in value)
    return value
