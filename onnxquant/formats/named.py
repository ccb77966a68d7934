"""Formats by name: the class of each, and its parameters."""

from __future__ import annotations

import sys
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar, Self, TypeVar, cast

from onnxquant.errors import RecipeError, nearest, shown
from onnxquant.formats.facts import Facts
from onnxquant.formats.parameters import Parameter, parameters_of
from onnxquant.registry import classes


@dataclass(frozen=True)
class NamedFormat(ABC):
    """Base of ``Format``: a name, and the fields that are parameters.

    A class with a ``name`` is a format and must state ``bits`` and ``facts``; one without a name is a base of formats. The
    first line of its docstring is its summary for ``onnxquant list``.
    """

    name: ClassVar[str]
    bits: ClassVar[int]
    facts: ClassVar[Facts]

    def __init_subclass__(cls, **arguments: object) -> None:
        """Refuse a format that leaves something out.

        Raises:
            TypeError: the class and the attributes or methods that it lacks.
        """
        super().__init_subclass__(**arguments)
        if "name" not in vars(cls):
            return
        missing = [name for name in ("bits", "facts") if not hasattr(cls, name)]
        missing += [name for name in dir(cls) if getattr(getattr(cls, name, None), "__isabstractmethod__", False)]
        if missing:
            raise TypeError(f"format {cls.name!r}: class {cls.__qualname__} does not define {', '.join(missing)}")

    @classmethod
    def summary(cls) -> str:
        """The format in one line."""
        return (cls.__doc__ or cls.name).splitlines()[0].rstrip(".")

    @classmethod
    def parameters(cls) -> list[str]:
        """Names of the parameters a user may set."""
        return list(parameters_of(cls))

    def settings(self) -> dict[str, Any]:
        """Every field that is not at its default, internal ones included: ``make(settings())`` gives the format back."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def make(cls, parameters: Mapping[str, Any]) -> Self:
        """The format with these parameters.

        Raises:
            RecipeError: the format has no such parameter, or the value is of the wrong type or out of its range.
        """
        return cls().with_(**parameters)

    def with_(self, **parameters: object) -> Self:
        """A copy with other parameters.

        Raises:
            RecipeError: the format has no such parameter, or the value is of the wrong type or out of its range.
        """
        declared = {f.name: f for f in fields(self)}
        for key, value in parameters.items():
            if key not in declared:
                known = self.parameters()
                hint = nearest(key, known) if known else f"; {self.name} is one fixed point without parameters"
                raise RecipeError(f"format {self.name!r} has no parameter {shown(key)}{hint}")
            if value is not None and (mistake := Parameter.of(declared[key]).mistake(value)):
                raise RecipeError(f"format {self.name!r}: {mistake}")
        return replace(self, **cast(dict[str, Any], parameters))


F = TypeVar("F", bound=NamedFormat)


@cache
def registry_of(base: type[F]) -> dict[str, type[F]]:
    """Format classes by name, in the order of their bits."""
    by_name = classes(sys.modules[__package__], base, "onnxquant.formats", trial=_use)
    return dict(sorted(by_name.items(), key=lambda entry: -entry[1].bits))


def _use(form: type[Any]) -> tuple[object, ...]:
    example = form()
    return parameters_of(form), example.bits, example.bits_per_weight, example.source, form.summary()


def make_format(base: type[F], name: str, parameters: Mapping[str, object]) -> F:
    """A format by name.

    Raises:
        RecipeError: no such format or parameter; the message names the nearest.
    """
    known = registry_of(base)
    if name not in known:
        raise RecipeError(f"unknown format {shown(name)}{nearest(name, list(known))}")
    form: F = known[name].make(parameters)
    return form
