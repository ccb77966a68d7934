"""Parameters of formats: fields with a help text, from which options and recipe keys are made."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypeVar

from onnxquant.errors import shown

T = TypeVar("T")

# A field with this metadata is set by encoding, not by a user.
INTERNAL = {"internal": True}
_KINDS: dict[str, tuple[type, str]] = {
    "bool": (bool, "bool"),
    "int": (Integral, "int"),
    "float": (Real, "float"),
    "str": (str, "str"),
}


def parameter(
    default: T,
    help: str,
    flag: str = "",
    *,
    samples: tuple[Any, ...],
    metavar: str = "",
    choices: tuple[str, ...] = (),
) -> T:
    """A dataclass field that is a parameter of a format.

    Args:
        default: value of the parameter that is not said.
        help: sentence for the command line and the documentation.
        flag: option of the command line; "": made from the name.
        samples: other values, which tests try.
        metavar: word for the value on the command line.
        choices: the only values there are, if they are few.
    """
    texts = {"help": help, "flag": flag, "metavar": metavar}
    return field(default=default, metadata={**texts, "choices": choices, "samples": samples})


@dataclass(frozen=True)
class Parameter:
    """One parameter of formats.

    Attributes:
        name: keyword, recipe key and (with dashes) option.
        kind: bool, int, float or str.
        help: sentence for the command line and the documentation.
        flag: option of the command line; "": made from the name.
        metavar: word for the value on the command line.
        choices: the only values there are, if they are few.
        samples: values that tests try.
    """

    name: str
    kind: str
    help: str
    flag: str
    metavar: str
    choices: tuple[str, ...]
    samples: tuple[Any, ...]

    @classmethod
    def of(cls, spec: Field[Any]) -> Parameter:
        """The parameter that a field declares; its annotation says the kind."""
        kind = next((k for k in _KINDS if k in str(spec.type)), "str")
        meta = {"help": "", "flag": "", "metavar": "", "choices": (), "samples": (), **spec.metadata}
        return cls(spec.name, kind, meta["help"], meta["flag"], meta["metavar"], meta["choices"], meta["samples"])

    def mistake(self, value: object) -> str | None:
        """The reason why a value is refused, or None."""
        expected = _KINDS[self.kind][0]
        if isinstance(value, expected) and (not isinstance(value, bool) or expected is bool):
            if not self.choices or value in self.choices:
                return None
            return f"{self.name} is {shown(value)}, expected {' or '.join(self.choices)}"
        return f"{self.name} is {shown(value)}, expected {_KINDS[self.kind][1]}"


def parameters_of(form: type[Any]) -> dict[str, Parameter]:
    """Parameters of a format class that a user may set, by name."""
    return {f.name: Parameter.of(f) for f in fields(form) if not f.metadata.get("internal")}
