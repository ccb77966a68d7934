"""Dataclasses as JSON data, and JSON data as dataclasses.

A dataclass becomes an object with a key per field, in the order of the fields. JSON has no infinities and no NaN: they are
the words ``inf``, ``-inf`` and ``nan``. A named tuple becomes an array.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

if TYPE_CHECKING:
    JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
else:  # resolving the type's own name in every module that has it in a dataclass would be needless
    JsonValue = object
JsonObject = dict[str, JsonValue]
T = TypeVar("T")
_KEY = "json"


@dataclass(frozen=True)
class JsonKey:
    """The place of a field in its JSON object, where that is not simply the field's name.

    Attributes:
        name: key of the field; empty: the field's name.
        optional: the key is left out where the value is None.
        empty: None is written as an empty object.
        inline: the value is a dataclass, whose keys stand among those of the class that holds it (None has no keys); or it is
            a mapping of all keys that the class does not name.
    """

    name: str = ""
    optional: bool = False
    empty: bool = False
    inline: bool = False

    @property
    def metadata(self) -> dict[str, JsonKey]:
        """Argument ``metadata`` of ``dataclasses.field``."""
        return {_KEY: self}


OPTIONAL = JsonKey(optional=True).metadata
EMPTY = JsonKey(empty=True).metadata
INLINE = JsonKey(inline=True).metadata


def number(value: float) -> float | str:
    """A float as JSON can hold it.

    >>> number(0.5), number(float("-inf"))
    (0.5, '-inf')
    """
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return "nan" if math.isnan(value) else value


def to_json(value: object) -> JsonValue:
    """JSON data of a dataclass, a container or a plain value.

    Raises:
        TypeError: JSON has no form for the value.
    """
    if isinstance(value, Enum):
        return to_json(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating)):
        return number(float(value))
    if isinstance(value, np.integer):
        return int(value)
    if dataclasses.is_dataclass(value):
        return to_object(value)
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def to_object(value: object) -> JsonObject:
    """JSON object of a dataclass or a mapping."""
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    out: JsonObject = {}
    for field in dataclasses.fields(cast(Any, value)):
        place, entry = _key(field), getattr(value, field.name)
        if place.inline:
            out.update({} if entry is None else to_object(entry))
        elif entry is not None or not place.optional:
            out[place.name or field.name] = {} if entry is None and place.empty else to_json(entry)
    return out


def from_json(kind: type[T], data: JsonValue) -> T:
    """A value of a type from its JSON data; keys that the type does not know are ignored.

    Args:
        kind: a dataclass, or the type of one of its fields.
        data: JSON data.

    Raises:
        ValueError: the data is not of that type.
    """
    return cast(T, _read(kind, data))


def _key(field: dataclasses.Field[Any]) -> JsonKey:
    return cast(JsonKey, field.metadata.get(_KEY, JsonKey()))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: object, data: JsonValue) -> object:
    """The value of a type in JSON data, checked by the type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is JsonValue:
        return data
    if origin in (Union, types.UnionType):
        return _read_union(arguments, data)
    if origin is Literal:
        _expect(data in arguments, data, f"one of {arguments}")
        return data
    if origin in (list, tuple, Sequence):
        return _read_array(kind, data)
    if origin in (dict, Mapping):
        _expect(isinstance(data, dict), data, "an object")
        return {k: _read(arguments[1], v) for k, v in cast(JsonObject, data).items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(cast(type, kind), data)
    if isinstance(kind, type) and issubclass(kind, tuple):
        return _read_array(kind, data)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    return _read_plain(cast(type, kind), data)


def _read_plain(kind: type, data: JsonValue) -> object:
    if kind is float:
        if isinstance(data, str) and data in ("inf", "-inf", "nan"):
            return float(data)
        _expect(isinstance(data, (int, float)) and not isinstance(data, bool), data, "a number")
        return data
    right = isinstance(data, kind) and (kind is bool or not isinstance(data, bool))
    _expect(right, data, kind.__name__)
    return data


def _read_union(kinds: Sequence[Any], data: JsonValue) -> object:
    """The first of several types that the data is of; a dataclass must have the literal values that the data has."""
    if data is None and type(None) in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not type(None)]
    problem = ValueError(f"{str(data)[:60]!r} is of no type that is expected")
    for kind in kinds:
        if isinstance(data, dict) and dataclasses.is_dataclass(kind) and not _is_marked(cast(type, kind), data):
            continue
        try:
            return _read(kind, data)
        except ValueError as error:
            problem = error
    raise problem


def _is_marked(kind: type, data: JsonObject) -> bool:
    """Whether the data has the values of those fields that a dataclass fixes."""
    marks = {f.name: get_args(_hints(kind)[f.name]) for f in dataclasses.fields(kind) if not f.init}
    return all(data.get(name) in values for name, values in marks.items())


def _read_array(kind: object, data: JsonValue) -> object:
    """A list, a tuple of one type, a tuple of a fixed length, or a named tuple."""
    _expect(isinstance(data, list), data, "an array")
    entries = cast(list[JsonValue], data)
    arguments = get_args(kind)
    if get_origin(kind) in (list, Sequence):
        return [_read(arguments[0], v) for v in entries]
    if get_origin(kind) is tuple and arguments[-1] is Ellipsis:
        return tuple(_read(arguments[0], v) for v in entries)
    types_ = arguments or tuple(_hints(kind).values())
    _expect(len(types_) == len(entries), data, f"{len(types_)} entries")
    values = [_read(t, v) for t, v in zip(types_, entries, strict=True)]
    return cast(Callable[..., object], kind)(*values) if not arguments else tuple(values)


def _read_dataclass(kind: type, data: JsonValue) -> object:
    _expect(isinstance(data, dict), data, f"an object with the keys of {kind.__name__}")
    entries, values = cast(JsonObject, data), {}
    for field in dataclasses.fields(kind):
        place, expected = _key(field), _hints(kind)[field.name]
        key = place.name or field.name
        if place.inline:
            values[field.name] = _read_inline(kind, expected, entries)
        elif key in entries:
            entry = entries[key]
            value = None if place.empty and entry == {} else _named(key, expected, entry)
            if field.init:
                values[field.name] = value
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"the key {key!r} is missing")
    return kind(**values)


def _read_inline(holder: type, expected: object, entries: JsonObject) -> object:
    """A dataclass or mapping whose keys stand among others; None where it may be and no key of its own is there."""
    if _is_rest(expected):
        known = _keys(holder)
        return {key: value for key, value in entries.items() if key not in known}
    kinds = [k for k in get_args(expected) or (expected,) if k is not type(None)]
    own = {key for kind in kinds for key in _keys(kind)}
    if len(kinds) < len(get_args(expected)) and not own & entries.keys():
        return None
    return _read_union(kinds, entries)


def _is_rest(expected: object) -> bool:
    """Whether an inline field takes all keys that no other field has."""
    return get_origin(expected) in (dict, Mapping)


def _keys(kind: type) -> set[str]:
    """Keys that the fields of a dataclass have, those of its inline dataclasses included."""
    keys = set()
    for field in dataclasses.fields(kind):
        expected, place = _hints(kind)[field.name], _key(field)
        if not place.inline:
            keys.add(place.name or field.name)
        elif not _is_rest(expected):
            keys |= {key for k in get_args(expected) or (expected,) if k is not type(None) for key in _keys(k)}
    return keys


def _named(key: str, expected: object, entry: JsonValue) -> object:
    try:
        return _read(expected, entry)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _expect(right: bool, data: JsonValue, expected: str) -> None:
    if not right:
        raise ValueError(f"{str(data)[:60]!r} is not {expected}")
