"""Changes of single entries of a JSON file that leave all other bytes as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from onnxquant.errors import RecipeError
from onnxquant.json_data import JsonObject, JsonValue

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class _Entry(NamedTuple):
    """The place of an entry: where its name begins, and its value begins and ends."""

    name: str
    begin: int
    value: int
    end: int


def parsed(text: str, name: str) -> JsonObject:
    """The object of a JSON text.

    Raises:
        RecipeError: it is none.
    """
    try:
        data = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{name}: is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{name}: expected an object")
    return data


def with_value(text: str, path: Sequence[str], value: JsonValue) -> str:
    """A JSON text in which one entry has another value, or is new.

    Args:
        text: an object.
        path: names of the entry and of the objects around it, from the outside in.
        value: the value.

    >>> with_value('{"a": 1, "b": {"c": 2}}', ["b", "d"], True)
    '{"a": 1, "b": {"c": 2, "d": true}}'
    """
    return _changed(text, text.index("{"), path, value)


def _changed(text: str, at: int, path: Sequence[str], value: JsonValue, depth: int = 0) -> str:
    """The text with an entry changed in the object that begins at a place; ``depth`` objects are around that."""
    name, *inner = path
    entry = {entry.name: entry for entry in _entries(text, at)}.get(name)
    if entry is not None and inner and text[entry.value] == "{":
        return _changed(text, entry.value, inner, value, depth + 1)
    for outer in reversed(inner):
        value = {outer: value}
    if entry is None:
        return _inserted(text, at, name, value, depth)
    return text[: entry.value] + _dumped(value, text, _space_before(text, entry.begin)) + text[entry.end :]


def _entries(text: str, at: int) -> Iterator[_Entry]:
    """Entries of the object that begins at a place."""
    place = _after_space(text, at + 1)
    while text[place] != "}":
        begin = place
        name, place = _DECODER.raw_decode(text, place)
        value = _after_space(text, _after_space(text, place) + 1)
        _, end = _DECODER.raw_decode(text, value)
        yield _Entry(name, begin, value, end)
        place = _after_space(text, end)
        place = _after_space(text, place + 1) if text[place] == "," else place


def _after_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _space_before(text: str, place: int) -> str:
    """White space before a place: from the last end of a line on, if there is one."""
    match = re.search(r"(?:\r?\n)?[ \t]*$", text[:place])
    return match[0] if match else ""


def _inserted(text: str, at: int, name: str, value: JsonValue, depth: int) -> str:
    """The text with a new entry at the end of an object, in the style of the entries before it."""
    entries = list(_entries(text, at))
    if entries:
        space, end = _space_before(text, entries[-1].begin), entries[-1].end
        space = " " if len(entries) == 1 and not space else space
        return text[:end] + f",{space}{json.dumps(name)}: {_dumped(value, text, space)}" + text[end:]
    line = "\r\n" if "\r\n" in text else "\n"
    unit = _unit(text)
    space = line + unit * (depth + 1)
    close = text.index("}", at)
    return text[: at + 1] + f"{space}{json.dumps(name)}: {_dumped(value, text, space)}{line}{unit * depth}" + text[close:]


def _unit(text: str) -> str:
    """White space of one level: that of the first line that has some."""
    match = re.search(r"\n([ \t]+)\"", text)
    return match[1] if match else "  "


def _dumped(value: JsonValue, text: str, space: str) -> str:
    """A value as text, in lines where the entry stands on a line of its own."""
    if "\n" not in space:
        return json.dumps(value, ensure_ascii=False)
    line, indent = ("\r\n" if "\r\n" in space else "\n"), space.rpartition("\n")[2]
    return json.dumps(value, ensure_ascii=False, indent=_unit(text)).replace("\n", line + indent)
