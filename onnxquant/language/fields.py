"""Typed reading of a checkpoint's configuration, which comes from a file and may hold anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from onnxquant.errors import CheckpointError
from onnxquant.json_data import JsonValue

# Sizes beyond these are damage.
_LARGEST, _DEEPEST = 1 << 31, 1 << 12


@dataclass(frozen=True)
class Fields:
    """Entries of a configuration.

    Attributes:
        place: the file, for messages.
        entries: entries by name.
        prefix: beginning of all names.
    """

    place: str
    entries: Mapping[str, JsonValue]
    prefix: str = ""

    def has(self, name: str) -> bool:
        """Whether there is an entry that says something."""
        return self.entries.get(self.prefix + name) is not None

    def count(self, name: str, default: int | None = None) -> int:
        """A number of things, above 0.

        Raises:
            CheckpointError: it is missing, or none.
        """
        value = self._value(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not 0 < value < _LARGEST:
            raise self.error(name, value, "a number of things above 0")
        return value

    def depth(self, name: str) -> int:
        """A number of layers.

        Raises:
            CheckpointError: it is missing, none, or beyond any network.
        """
        value = self.count(name)
        if value > _DEEPEST:
            raise self.error(name, value, f"at most {_DEEPEST} layers")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number.

        Raises:
            CheckpointError: it is missing, or none.
        """
        value = self._value(name, default)
        if not _is_number(value):
            raise self.error(name, value, "a number")
        return float(str(value))

    def positive(self, name: str, default: float | None = None) -> float:
        """A number above 0.

        Raises:
            CheckpointError: it is missing, or none.
        """
        value = self.number(name, default)
        if value <= 0:
            raise self.error(name, value, "a number above 0")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text.

        Raises:
            CheckpointError: it is missing, or none.
        """
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.error(name, value, "a text")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false.

        Raises:
            CheckpointError: it is neither.
        """
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def numbers(self, name: str) -> list[float]:
        """A list of numbers above 0.

        Raises:
            CheckpointError: it is missing, or none.
        """
        values = self._list(name, "a list of numbers above 0")
        if not all(_is_number(value) and float(str(value)) > 0 for value in values):
            raise self.error(name, values, "a list of numbers above 0")
        return [float(str(v)) for v in values]

    def texts(self, name: str) -> list[str]:
        """A list of texts.

        Raises:
            CheckpointError: it is missing, or none.
        """
        values = self._list(name, "a list of texts")
        if not all(isinstance(value, str) for value in values):
            raise self.error(name, values, "a list of texts")
        return [str(value) for value in values]

    def inner(self, name: str) -> Fields:
        """The entries of an entry; none where it is absent.

        Raises:
            CheckpointError: it holds something else.
        """
        value = self.entries.get(self.prefix + name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.error(name, value, "entries by name")
        return Fields(f"{self.place}: {self.prefix}{name}", value)

    def error(self, name: str, value: object, expected: str) -> CheckpointError:
        """The error for an entry."""
        shown = "nothing" if value is None else str(value)[:100]
        return CheckpointError(f"{self.place}: {self.prefix}{name}: found {shown}, expected {expected}")

    def _value(self, name: str, default: object) -> object:
        value = self.entries.get(self.prefix + name)
        return default if value is None else value

    def _list(self, name: str, expected: str) -> Sequence[JsonValue]:
        value = self.entries.get(self.prefix + name)
        if not isinstance(value, list):
            raise self.error(name, value, expected)
        return value


def _is_number(value: object) -> bool:
    """Whether a value is a number that a float holds; an integer may be beyond all of them."""
    return type(value) in (int, float) and isfinite(float(str(value)))
