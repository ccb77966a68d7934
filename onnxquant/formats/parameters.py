"""What a format says of its parameters: fields with a help text, from which options and recipe keys are made."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any

# A field with this metadata is set by encoding, not by a user.
INTERNAL = {"internal": True}
_KINDS: dict[str, tuple[type, str]] = {
    "bool": (bool, "bool"),
    "int": (Integral, "int"),
    "float": (Real, "float"),
    "str": (str, "str"),
}


def parameter(default: Any, help: str, flag: str = "", metavar: str = "", choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that is a parameter of a format, as the command line shows it."""
    return field(default=default, metadata={"help": help, "flag": flag, "metavar": metavar, "choices": choices})


@dataclass(frozen=True)
class Parameter:
    """One parameter of formats.

    Attributes:
        name: keyword, recipe key and (with dashes) option.
        kind: bool, int, float or str.
        help, flag, metavar, choices: for the command line.
    """

    name: str
    kind: str
    help: str
    flag: str
    metavar: str
    choices: tuple[str, ...]

    @classmethod
    def of(cls, spec: Field[Any]) -> Parameter:
        """From a field, whose annotation says the kind."""
        kind = next((k for k in _KINDS if k in str(spec.type)), "str")
        meta = {"help": "", "flag": "", "metavar": "", "choices": (), **spec.metadata}
        return cls(spec.name, kind, meta["help"], meta["flag"], meta["metavar"], meta["choices"])

    def mistake(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        wanted = _KINDS[self.kind][0]
        if isinstance(value, wanted) and (not isinstance(value, bool) or wanted is bool):
            if not self.choices or value in self.choices:
                return None
            return f"{self.name} is {value!r}, expected {' or '.join(self.choices)}"
        return f"{self.name} is {value!r}, expected {_KINDS[self.kind][1]}"


def parameters_of(form: type[Any]) -> dict[str, Parameter]:
    """Parameters of a format class that a user may set, by name."""
    return {f.name: Parameter.of(f) for f in fields(form) if not f.metadata.get("internal")}
