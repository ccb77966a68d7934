"""JSON Schemas of the tables that files may hold, and the check of values read from a file against them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from functools import partial
from typing import Any

from jsonschema import Draft202012Validator, TypeChecker, ValidationError
from jsonschema.validators import extend

from onnxquant.errors import RecipeError, nearest, shown
from onnxquant.recipe import kinds
from onnxquant.recipe.declaration import Option

Schema = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"


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


def _is_of_kind(holds: Callable[[object], bool], checker: TypeChecker, value: object) -> bool:
    return holds(value)


_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {kind: partial(_is_of_kind, holds) for kind, holds in kinds.HOLDS.items()}
    ),
)


def _message(error: ValidationError) -> str:
    """The error in our words, with its place: ``models[0]: bits is True, expected int``."""
    tables, key = _place(error.absolute_path)
    if error.validator in ("additionalProperties", "required"):
        return ": ".join([*tables, *([key] if key else []), _wrong_keys(error)])
    if not key:
        return f"is no {kinds.words(error.validator_value)}"
    return ": ".join([*tables, f"{key} is {shown(error.instance)}{_expected(error)}"])


def _expected(error: ValidationError) -> str:
    """The end of an error's sentence: the values that would be right."""
    value, allowed = error.instance, error.validator_value
    if error.validator == "enum":
        return nearest(str(value), [str(choice) for choice in allowed])
    if error.validator == "minimum":
        return f", expected at least {allowed}"
    if error.validator == "maximum":
        return f", expected at most {allowed}"
    return f", {kinds.expected(value, allowed)}"


def _wrong_keys(error: ValidationError) -> str:
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{missing[0]} is missing"
    known = list(error.schema["properties"])
    unknown = [name for name in error.instance if name not in known]
    if unknown[0] == "for" and "clients" in known:  # the command line's name; it is a keyword of Python
        return "unknown key 'for'; did you mean 'clients'?"
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
