"""Typed reading of configurations, JSON files and the metadata of GGUF files, which may hold anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from onnxquant.errors import CheckpointError, OnnxQuantError, shown
from onnxquant.interchange.cursor import json_file
from onnxquant.json_data import JsonValue

# Sizes beyond these are damage.
_LARGEST, _DEEPEST = (1 << 31) - 1, 1 << 12
# Positive numbers that float32, in which decoders compute, holds.
_SMALLEST_FLOAT, _LARGEST_FLOAT = 2.0**-126, 2.0**127
# Bytes of a file of tensors that would pay for the largest tokenizer.json; see ``json_file``.
_ALLOWANCE = 1 << 28


@dataclass(frozen=True)
class Fields:
    """Entries of a configuration; null is an entry that says nothing.

    Attributes:
        place: the file, for messages.
        entries: entries by name.
        prefix: beginning of all names.
        outer: name of the entry that holds these, for messages.
        problem: class of the errors about them.
    """

    place: str
    entries: Mapping[str, JsonValue]
    prefix: str = ""
    outer: str = ""
    problem: type[OnnxQuantError] = CheckpointError

    def has(self, name: str) -> bool:
        """Whether there is an entry that says something."""
        return self.get(name) is not None

    def get(self, name: str) -> JsonValue:
        """An entry of any type; None where there is none."""
        return self.entries.get(self.prefix + name)

    def count(self, name: str, default: int | None = None, most: int = _LARGEST) -> int:
        """A number of things, above 0.

        Args:
            name: name of the entry.
            default: number where it is missing; None: there must be one.
            most: largest number; others are damage.

        Raises:
            OnnxQuantError: it is missing, or none.
        """
        value = self._value(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not 0 < value <= most:
            raise self.error(name, value, f"a whole number from 1 to {most}")
        return value

    def count_or_none(self, name: str) -> int | None:
        """A number of things, above 0; None where the entry is missing.

        Raises:
            OnnxQuantError: it is something else.
        """
        return self.count(name) if self.has(name) else None

    def depth(self, name: str) -> int:
        """A number of layers.

        Raises:
            OnnxQuantError: it is missing, none, or beyond any network.
        """
        return self.count(name, most=_DEEPEST)

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number.

        Raises:
            OnnxQuantError: it is missing, or none.
        """
        value = self._value(name, default)
        if not _is_number(value):
            raise self.error(name, value, "a number")
        return float(str(value))

    def positive(self, name: str, default: float | None = None) -> float:
        """A number above 0 that float32 holds.

        Raises:
            OnnxQuantError: it is missing, or none.
        """
        value = self.number(name, default)
        if not _SMALLEST_FLOAT <= value <= _LARGEST_FLOAT:
            raise self.error(name, value, "a number above 0 that float32 holds")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text.

        Raises:
            OnnxQuantError: it is missing, or none.
        """
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.error(name, value, "a text")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false.

        Raises:
            OnnxQuantError: it is neither.
        """
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def array(self, name: str, expected: str = "an array") -> Sequence[JsonValue]:
        """An array of anything.

        Raises:
            OnnxQuantError: it is missing, or none.
        """
        value = self.get(name)
        if not isinstance(value, list):
            raise self.error(name, value, expected)
        return value

    def numbers(self, name: str) -> list[float]:
        """A list of numbers above 0.

        Raises:
            OnnxQuantError: it is missing, or none.
        """
        expected = "a list of numbers above 0"
        values = self.array(name, expected)
        if not all(_is_number(value) and float(str(value)) > 0 for value in values):
            raise self.error(name, values, expected)
        return [float(str(v)) for v in values]

    def texts(self, name: str) -> list[str]:
        """A list of texts.

        Raises:
            OnnxQuantError: it is missing, or none.
        """
        expected = "a list of texts"
        values = self.array(name, expected)
        if not all(isinstance(value, str) for value in values):
            raise self.error(name, values, expected)
        return [str(value) for value in values]

    def tokens(self, name: str) -> tuple[int, ...]:
        """The id of a token, or those of several; none where the entry is missing.

        Raises:
            OnnxQuantError: it is something else.
        """
        value = self.get(name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        tokens = tuple(token for token in values if type(token) is int and token >= 0)
        if len(tokens) < len(values):
            raise self.error(name, value, "the id of a token, or a list of ids")
        return tokens

    def inner(self, name: str) -> Fields:
        """The entries of an entry; none where it is absent.

        Raises:
            OnnxQuantError: it holds something else.
        """
        value = self.get(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.error(name, value, "an object")
        return Fields(self.place, value, outer=f"{self.outer}{self.prefix}{name}.", problem=self.problem)

    def error(self, name: str, value: object, expected: str) -> OnnxQuantError:
        """The error for an entry."""
        is_missing = value is None and self.prefix + name not in self.entries
        what = "is missing" if is_missing else f"is {shown(value)}"
        return self.problem(f"{self.place}: {self.outer}{self.prefix}{name} {what}; expected {expected}")

    def _value(self, name: str, default: object) -> object:
        value = self.get(name)
        return default if value is None else value


@dataclass(frozen=True)
class JsonFiles:
    """The files of JSON in a folder; each is read once.

    Attributes:
        folder: the folder.
        problem: class of the errors about them.
    """

    folder: Path
    problem: type[OnnxQuantError] = CheckpointError
    _read: dict[str, Fields] = field(default_factory=dict, repr=False, compare=False)

    def has(self, name: str) -> bool:
        """Whether there is a file."""
        return (self.folder / name).is_file()

    def fields(self, name: str) -> Fields:
        """The entries of a file; none where it is missing.

        Raises:
            OnnxQuantError: it cannot be read, or is no JSON object.
        """
        if name not in self._read:
            path = self.folder / name
            try:
                entries = json_file(path, _ALLOWANCE) if self.has(name) else {}
            except CheckpointError as error:
                raise self.problem(str(error)) from None
            self._read[name] = Fields(str(path), entries, problem=self.problem)
        return self._read[name]

    def error(self, name: str, sentence: str) -> OnnxQuantError:
        """The error of a file."""
        return self.problem(f"{self.folder / name}: {sentence}")


def _is_number(value: object) -> bool:
    """Whether a value is a number that a float holds; an integer may be beyond all of them."""
    return type(value) in (int, float) and isfinite(float(str(value)))
