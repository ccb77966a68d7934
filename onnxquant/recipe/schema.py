"""What files of options may hold: JSON Schemas made from dataclass fields, and the check that reads by them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any

from onnxquant.errors import RecipeError, nearest
from onnxquant.formats.parameters import Parameter

Schema = dict[str, Any]
# JSON Schema's names of types, Python's types, and what messages call them. In a file a function is named by a string.
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "str"),
    "boolean": ((bool,), "bool"),
    "integer": ((int,), "int"),
    "number": ((int, float), "float"),
    "array": ((list, tuple), "list"),
    "object": ((Mapping,), "table"),
}
_ANNOTATIONS = {
    "str": "string", "bool": "boolean", "int": "integer", "float": "number", "tuple": "array", "Mapping": "object",
    "Strategy": "string",
}  # fmt: skip


def of_field(spec: Field[Any]) -> Schema:
    """The schema of one field, from its annotation and its metadata: ``help``, ``choices``.

    A tuple of strings may be written as one string, too.
    """
    names = [re.split(r"\[", part)[0].strip() for part in re.split(r"\|(?![^\[]*\])", str(spec.type))]
    kinds = [_ANNOTATIONS[n] for n in names if n in _ANNOTATIONS]
    out: Schema = {"description": spec.metadata.get("help", "")}
    if "array" in kinds:
        kinds.append("string")
        out["items"] = {"type": "string"}
    out["type"] = kinds[0] if len(kinds) == 1 else kinds
    if choices := spec.metadata.get("choices"):
        out["enum"] = list(choices)
    return out


def of_parameter(parameter: Parameter) -> Schema:
    """The schema of a format's parameter."""
    out: Schema = {"description": parameter.help, "type": _ANNOTATIONS[parameter.kind]}
    return out | ({"enum": list(parameter.choices)} if parameter.choices else {})


def table(properties: Mapping[str, Schema], description: str = "", **more: Any) -> Schema:
    """The schema of a table that holds these keys and no others."""
    return {
        "type": "object",
        "description": description,
        "properties": dict(properties),
        "additionalProperties": False,
        **more,
    }


def of_class(cls: type[Any]) -> dict[str, Schema]:
    """Schemas of a dataclass' fields that have a help text."""
    return {f.name: of_field(f) for f in fields(cls) if f.metadata.get("help")}


def check(value: Any, schema: Schema, where: str, key: str = "") -> None:
    """Refuse a value that its schema does not allow.

    Args:
        value: as read from a file.
        schema: of this module's making.
        where: what messages begin with: a file, or a place in one.
        key: of the value, as messages call it.

    Raises:
        RecipeError: an unknown key (the nearest is named), a missing one, or a value of the wrong type.

    >>> check({"bits": True}, table({"bits": {"type": "integer"}}), "recipe.toml")
    Traceback (most recent call last):
    onnxquant.errors.RecipeError: recipe.toml: bits is True, expected int
    """
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(_is(value, kind) for kind in kinds):
        expected = " or ".join(_TYPES[kind][1] for kind in kinds)
        raise RecipeError(f"{where}: {key} is {value!r}, expected {expected}" if key else f"{where}: is no {expected}")
    if isinstance(value, str) and "\0" in value:
        raise RecipeError(f"{where}: {key} is {value!r}, expected text without NUL")
    if "enum" in schema and value not in schema["enum"]:
        raise RecipeError(f"{where}: {key} is {value!r}{nearest(str(value), [str(v) for v in schema['enum']])}")
    if isinstance(value, Mapping) and "properties" in schema:
        _check_table(value, schema, f"{where}: {key}" if key else where)
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            check(item, schema["items"], where, f"{key}[{i}]")


def _check_table(value: Mapping[Any, Any], schema: Schema, where: str) -> None:
    known = schema["properties"]
    for name, item in value.items():
        if name not in known:
            raise RecipeError(f"{where}: unknown key {name!r}{nearest(str(name), list(known))}")
        check(item, known[name], where, name)
    for name in schema.get("required", ()):
        if name not in value:
            raise RecipeError(f"{where}: {name} is missing")


def _is(value: Any, kind: str) -> bool:
    wanted = _TYPES[kind][0]
    return isinstance(value, wanted) and (not isinstance(value, bool) or bool in wanted)
