"""Dataclasses as JSON data and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

from onnxquant.json_data import EMPTY, INLINE, OPTIONAL, JsonKey, JsonObject, from_json, to_json


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Pair(NamedTuple):
    name: str
    place: int


@dataclass(frozen=True)
class Inner:
    value: float
    note: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle"] = field(default="circle", init=False)
    radius: float = 1.0


@dataclass(frozen=True)
class Square:
    kind: Literal["square"] = field(default="square", init=False)
    side: float = 1.0


@dataclass(frozen=True)
class Outer:
    number: int
    color: Color
    pairs: tuple[Pair, ...]
    shape: Circle | Square
    inline: Inner | None = field(metadata=INLINE)
    empty: Inner | None = field(metadata=EMPTY)
    renamed: Mapping[str, float] = field(metadata=JsonKey("float").metadata)
    rest: JsonObject = field(default_factory=dict, metadata=INLINE)


PAIRS = (Pair("a", 1), Pair("b", 2))
MORE: JsonObject = {"more": [1, {"b": None}]}
FULL = Outer(3, Color.BLUE, PAIRS, Square(2.5), Inner(-math.inf, "low"), Inner(0.5), {"x": math.inf}, MORE)
BARE = Outer(0, Color.RED, (), Circle(), None, None, {})


def test_the_form_of_every_kind_of_field() -> None:
    assert to_json(FULL) == {
        "number": 3, "color": "blue", "pairs": [["a", 1], ["b", 2]], "shape": {"kind": "square", "side": 2.5},
        "value": "-inf", "note": "low", "empty": {"value": 0.5}, "float": {"x": "inf"}, "more": [1, {"b": None}],
    }  # fmt: skip
    bare = to_json(BARE)
    assert bare == {
        "number": 0, "color": "red", "pairs": [], "shape": {"kind": "circle", "radius": 1.0}, "empty": {}, "float": {},
    }  # fmt: skip


@pytest.mark.parametrize("value", [FULL, BARE], ids=["full", "bare"])
def test_reading_gives_the_same_value_back(value: Outer) -> None:
    text = json.dumps(to_json(value), allow_nan=False)
    assert from_json(Outer, json.loads(text)) == value


def test_arrays_and_numbers_of_numpy_become_plain() -> None:
    assert to_json({"a": np.float32(0.5), "b": np.int64(7), "c": (np.float64("nan"),)}) == {
        "a": 0.5,
        "b": 7,
        "c": ["nan"],
    }


def test_a_value_without_a_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no form"):
        to_json({"a": object()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": "many"}, "number: 'many' is not int"),
        ({"number": True}, "number: 'True' is not int"),
        ({"color": "green"}, "'green' is not a valid Color"),
        ({"pairs": [["a", 1, 2]]}, "is not 2 entries"),
        ({"pairs": {"a": 1}}, "is not an array"),
        ({"shape": {"kind": "square", "side": "long"}}, "side: 'long' is not a number"),
        ({"shape": {"kind": "line"}}, "shape: .* is of no type"),
        ({"float": []}, "float: .* is not an object"),
        ({"empty": {"note": "x"}}, "the key 'value' is missing"),
    ],
    ids=["word", "bool", "enum", "length", "array", "float", "union", "mapping", "missing"],
)
def test_data_of_another_type_names_the_key(change: dict[str, Any], message: str) -> None:
    data = to_json(FULL)
    assert isinstance(data, dict)
    with pytest.raises(ValueError, match=message):
        from_json(Outer, {**data, **change})


def test_unknown_keys_are_ignored_where_no_field_takes_them() -> None:
    assert from_json(Inner, {"value": 1, "later": 2}) == Inner(1)
