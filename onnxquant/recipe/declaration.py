"""Declarations of options. The command line, files, schemas and pages are derived from these fields of dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from onnxquant.errors import RecipeError, nearest, shown
from onnxquant.formats import format_parameters
from onnxquant.formats.parameters import Parameter
from onnxquant.recipe.kinds import expected, holds, plain, plain_list

T = TypeVar("T")

Word = str | int


class Scope(StrEnum):
    """Part of the work that an option decides."""

    RULE = "rule"
    """One weight: a rule may set it for the weights that it matches, and files record it with their rules."""
    FILE = "file"
    """The whole file that is written, which records it."""
    SEARCH = "search"
    """The bounds and means of a search. A saved recipe holds the result of the search in their place."""
    RUN = "run"
    """The way of working, what is proven and what is reported. The file that is written is the same."""


class Needs(StrEnum):
    """Options without which others have no effect; the values name them on the command line."""

    STATIC = "--activations static"
    INTEGERS = "--activations"
    METRIC = "--metric"
    TUNE = "--tune or --tune-epochs"
    DATA = "--data"
    """Samples are no option: what needs them is refused where it is known whether there are any."""


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """Metadata of a field that is an option.

    Attributes:
        help: help text
        scope: part of the work that the option decides; None for keys of files that are no options
        flag: flag on the command line, where its name is not the field's
        short: flag of one letter
        metavar: word for the value in help texts
        choices: values that are allowed, or a function that asks a registry for them; empty: no restriction
        completion: function whose words a shell offers, where the choices are not all that is allowed
        minimum, maximum: bounds of a number
        is_path: function that says whether a value is a path, which is then relative to the folder of its file
        is_proof: whether the verdict of a proof depends on the option
        is_reported: whether a report lists the option among those that were given
        names_file: whether the value names a file to write beside the output
        alias_of: another option that sets the same thing; the one of higher priority wins
        needs: option without which it has no effect; None: it always has
    """

    help: str
    scope: Scope | None = None
    flag: str = ""
    short: str = ""
    metavar: str = ""
    choices: Sequence[Word] | Callable[[], Sequence[Word]] = ()
    completion: Callable[[], Sequence[str]] | None = None
    minimum: float | None = None
    maximum: float | None = None
    is_path: Callable[[str], bool] | None = None
    is_proof: bool = False
    is_reported: bool = True
    names_file: bool = False
    alias_of: str = ""
    needs: Needs | None = None


def option(default: T, help: str, scope: Scope, **more: object) -> T:
    """A dataclass field that is an option.

    Args:
        default: default value
        help: help text
        scope: part of the work that the option decides
        more: other attributes of its ``Declaration``
    """
    declaration = Declaration(help=help, scope=scope, **cast(dict[str, Any], more))
    return field(default=default, metadata={"declared": declaration})


def key(default: T | dataclasses._MISSING_TYPE, help: str, **more: object) -> T:
    """A dataclass field that is a key of a table in a file, but no option; ``MISSING`` as default: a required key."""
    declaration = Declaration(help=help, **cast(dict[str, Any], more))
    return cast(T, field(default=default, metadata={"declared": declaration}))


def any_path(value: str) -> bool:
    """True: every value is a path."""
    return True


@dataclass(frozen=True)
class Option:
    """One option, declared by a field of a dataclass or by a parameter of formats.

    Attributes:
        name: keyword, key in files and, with dashes, flag on the command line
        kinds: names that JSON Schema gives the types of the value
        default: default value; ``MISSING``: a required key
        declared: the declaration
        takes_functions: whether callers in Python may give a function
    """

    name: str
    kinds: tuple[str, ...]
    default: Any
    declared: Declaration
    takes_functions: bool = False

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return "array" in self.kinds

    @property
    def is_flag(self) -> bool:
        """Whether it is a switch."""
        return self.kinds == ("boolean",)

    @property
    def flag(self) -> str:
        """Flag on the command line; a switch that is on by default has one to turn it off."""
        words = self.name.replace("_", "-")
        return self.declared.flag or (f"--{words}/--no-{words}" if self.default is True else f"--{words}")

    def choices(self) -> list[Word]:
        """Values that are allowed; empty: no restriction."""
        choices = self.declared.choices
        return list(choices() if callable(choices) else choices)

    def plain(self, value: object) -> object:
        """A value as files hold it: several as a tuple, numbers of numpy as Python's, and paths as texts."""
        return plain_list(value) if self.is_list else plain(value)

    def check_type(self, value: object) -> None:
        """Refuse a value of the wrong type; None stands for the default.

        Raises:
            RecipeError: the value is refused; the message says what was expected.
        """
        allowed = (*self.kinds, *(["function"] if self.takes_functions else []))
        if value is None:
            return
        if not holds(value, allowed):
            raise RecipeError(f"{self.name} is {shown(value)}, {expected(value, allowed)}")
        for i, entry in enumerate(value if self.is_list and isinstance(value, (list, tuple)) else ()):
            if not holds(entry, ["string"]):
                raise RecipeError(f"{self.name}[{i}] is {shown(entry)}, {expected(entry, 'string')}")

    def check(self, value: object) -> None:
        """Refuse a value of the wrong type, that is no choice, or out of bounds.

        Raises:
            RecipeError: the value is refused; the message has the type, the nearest choice, or the bound.
        """
        if value is None:
            return
        self.check_type(value)
        choices = self.choices()
        for entry in value if self.is_list and isinstance(value, Sequence) else [value]:
            if choices and entry not in choices:
                raise RecipeError(f"{self.name} is {entry!r}{nearest(str(entry), list(map(str, choices)))}")
        least, most = self.declared.minimum, self.declared.maximum
        if least is not None and isinstance(value, (int, float)) and not value >= least:
            raise RecipeError(f"{self.name} is {value}, expected at least {least}")
        if most is not None and isinstance(value, (int, float)) and not value <= most:
            raise RecipeError(f"{self.name} is {value}, expected at most {most}")


def declared(cls: type[Any]) -> dict[str, Option]:
    """Options that the fields of a dataclass declare, by name."""
    if cls not in _DECLARED:
        hints = get_type_hints(cls)
        specs = [spec for spec in fields(cls) if "declared" in spec.metadata]
        _DECLARED[cls] = {
            s.name: Option(s.name, kinds(hints[s.name]), s.default, s.metadata["declared"], _is_function(hints[s.name]))
            for s in specs
        }
    return _DECLARED[cls]


def options_of(cls: type[Any]) -> dict[str, Option]:
    """Options of a class by name; the parameters of formats take the place of its field ``parameters``."""
    own, options = declared(cls), dict[str, Option]()
    for spec in fields(cls):
        if spec.name == "parameters":
            options |= format_options()
        elif spec.name in own:
            options[spec.name] = own[spec.name]
    return options


@cache
def format_options() -> dict[str, Option]:
    """Options that the formats declare as their parameters, by name."""
    return {name: _of_format(parameter) for name, parameter in format_parameters().items()}


def _of_format(parameter: Parameter) -> Option:
    """The option of a parameter of formats."""
    declaration = Declaration(
        help=parameter.help,
        scope=Scope.RULE,
        flag=parameter.flag,
        metavar=parameter.metavar,
        choices=parameter.choices,
    )
    # Where it is not given, the format's own default holds.
    return Option(parameter.name, kinds(_PARAMETER_TYPES[parameter.kind]), None, declaration)


def kinds(hint: object) -> tuple[str, ...]:
    """Names that JSON Schema gives the types of an annotation; a list of texts may be one text, too.

    >>> kinds(tuple[str, ...] | None)
    ('array', 'string')
    """
    if get_origin(hint) in (Union, UnionType):
        return tuple(dict.fromkeys(kind for part in get_args(hint) for kind in kinds(part)))
    origin = get_origin(hint) or hint
    if origin not in _KINDS:
        raise TypeError(f"no JSON Schema for a field of type {hint}")
    return _KINDS[origin]


def _is_function(hint: object) -> bool:
    """Whether an annotation allows functions."""
    return any(get_origin(part) is Callable for part in get_args(hint))


_PARAMETER_TYPES = {"bool": bool, "int": int, "float": float, "str": str}
_DECLARED: dict[type[Any], dict[str, Option]] = {}
# A function is named by a text in files.
_KINDS: dict[Any, tuple[str, ...]] = {
    str: ("string",), Literal: ("string",), Callable: ("string",), bool: ("boolean",), int: ("integer",),
    float: ("number",), tuple: ("array", "string"), Mapping: ("object",), NoneType: (),
}  # fmt: skip
