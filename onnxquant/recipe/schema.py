"""JSON Schemas of the tables that files may hold, and the check of values read from a file against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from typing import Any

from jsonschema import Draft202012Validator, TypeChecker, ValidationError
from jsonschema.validators import extend

from onnxquant.errors import RecipeError, nearest
from onnxquant.recipe.declaration import Option

Schema = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
# What messages call the types of JSON Schema.
_TYPES = {"string": "str", "boolean": "bool", "integer": "int", "number": "float", "array": "list", "object": "table"}


def of_option(option: Option) -> Schema:
    """JSON Schema of the value of one option."""
    declared = option.declared
    schema: Schema = {"description": declared.help}
    choices = {"enum": option.choices()} if option.choices() else {}
    if option.is_list:
        schema["items"] = {"type": "string", **choices}
    schema["type"] = option.kinds[0] if len(option.kinds) == 1 else list(option.kinds)
    if not option.is_list:
        schema |= choices
    if declared.minimum is not None:
        schema["minimum"] = declared.minimum
    if declared.maximum is not None:
        schema["maximum"] = declared.maximum
    return schema


def of_table(options: Mapping[str, Option], description: str, more: Mapping[str, Schema] | None = None) -> Schema:
    """JSON Schema of a table that holds the keys of some options and no others.

    Args:
        options: options by key; those without a default are required
        description: description of the table
        more: schemas of further keys
    """
    required = [name for name, option in options.items() if option.default is MISSING]
    return {
        "type": "object",
        "description": description,
        "properties": {**{name: of_option(option) for name, option in options.items()}, **(more or {})},
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def check(value: object, schema: Schema, where: str) -> None:
    """Refuse a value that its schema does not allow.

    Args:
        value: value read from a file, or given by a caller
        schema: schema of the value
        where: beginning of messages: a file, or a place in one

    Raises:
        RecipeError: an unknown key (the nearest is named), a missing one, or a value of the wrong type.

    >>> check({"bits": True}, {"properties": {"bits": {"type": "integer"}}}, "recipe.toml")
    Traceback (most recent call last):
    onnxquant.errors.RecipeError: recipe.toml: bits is True, expected int
    """
    error = next(_Validator(schema).iter_errors(value), None)
    if error is not None:
        raise RecipeError(f"{where}: {_message(error)}")


def _is_integer(checker: TypeChecker, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # 4.0 is an integer of JSON, but no number of bits


def _is_text(checker: TypeChecker, value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_list(checker: TypeChecker, value: object) -> bool:
    return isinstance(value, (list, tuple))


def _is_table(checker: TypeChecker, value: object) -> bool:
    return isinstance(value, Mapping)


_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "string": _is_text, "array": _is_list, "object": _is_table}
    ),
)


def _message(error: ValidationError) -> str:
    """The error in our words, with its place: ``models[0]: bits is True, expected int``."""
    tables, key = _place(error.absolute_path)
    if error.validator in ("additionalProperties", "required"):
        return ": ".join([*tables, *([key] if key else []), _wrong_keys(error)])
    if not key:
        return f"is no {_names(error.validator_value)}"
    return ": ".join([*tables, f"{key} is {error.instance!r}{_expected(error)}"])


def _expected(error: ValidationError) -> str:
    """The end of an error's sentence: the values that would be right."""
    value, allowed = error.instance, error.validator_value
    if error.validator == "enum":
        return nearest(str(value), [str(choice) for choice in allowed])
    if error.validator == "minimum":
        return f", expected at least {allowed}"
    if error.validator == "maximum":
        return f", expected at most {allowed}"
    return (
        ", expected text without NUL" if isinstance(value, str) and "\0" in value else f", expected {_names(allowed)}"
    )


def _wrong_keys(error: ValidationError) -> str:
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{missing[0]} is missing"
    known = list(error.schema["properties"])
    unknown = [name for name in error.instance if name not in known]
    return f"unknown key {unknown[0]!r}{nearest(str(unknown[0]), known)}"


def _place(path: Iterable[str | int]) -> tuple[list[str], str]:
    """The tables on the way to a value, and the key of the value in the last of them."""
    keys: list[str] = []
    for part in path:
        if isinstance(part, int):
            keys[-1] += f"[{part}]"
        else:
            keys.append(str(part))
    return (keys[:-1], keys[-1]) if keys else ([], "")


def _names(kinds: str | list[str]) -> str:
    return " or ".join(_TYPES[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))
