"""Descriptions of preprocessing: keys and values from a file, a text or a mapping, checked against a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from onnxquant.calibration.feeds.presets import PRESETS
from onnxquant.errors import FeedError, RecipeError, nearest
from onnxquant.recipe.files import read_table

Description = str | Path | Mapping[str, Any]
"""A preset, ``key=value,...``, a file or a mapping."""

T = TypeVar("T")


def entries(description: Description | None) -> dict[str, Any]:
    """The keys of a description: a mapping, a TOML or YAML file, or ``key=value,...``; perhaps with a preset in front.

    A part without ``=`` continues the list before it: ``imagenet,size=224,224,mean=0.5,0.5,0.5``.

    Raises:
        FeedError: the file cannot be read, or the text is not of that form.
    """
    if description is None:
        return {}
    if isinstance(description, Mapping):
        return dict(description)
    text = str(description)
    if text in PRESETS:
        return {"preset": text}
    if isinstance(description, Path) or "=" not in text or Path(text).exists():
        if Path(text).suffix.lower() not in (".toml", ".yaml", ".yml"):
            near = nearest(text, list(PRESETS))
            raise FeedError(f"preprocess {text!r}: expected a .toml or .yaml file, or key=value,..., or a preset{near}")
        try:
            return read_table(Path(text))
        except RecipeError as error:
            raise FeedError(f"preprocess: {str(error).replace('not a recipe', 'not well-formed')}") from None
    return _inline(text)


def option_of(values: Mapping[str, Any]) -> str:
    """The option that gives a description.

    >>> option_of({"preset": "yolo", "size": [320, 320], "order": "BGR"})
    '--preprocess yolo,size=320,320,order=BGR'
    """
    preset = [str(values["preset"])] if "preset" in values else []
    pairs = [f"{key}={_text(value)}" for key, value in entries_without(values, "preset").items()]
    return f"--preprocess {','.join(preset + pairs)}"


def _text(value: object) -> str:
    """A value as an option has it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _inline(text: str) -> dict[str, Any]:
    values: dict[str, list[Any]] = {}
    key = ""
    for part in text.split(","):
        name, is_pair, value = part.partition("=")
        if is_pair:
            key = name.strip()
            if key in values:
                raise FeedError(f"preprocess {text!r}: {key} is given twice")
            values[key] = [_value(value)]
        elif key:
            values[key].append(_value(part))
        elif not values and part.strip() in PRESETS:
            values["preset"] = [part.strip()]
        else:
            near = "" if "preset" in values else nearest(part.strip(), list(PRESETS))
            raise FeedError(f"preprocess {text!r}: expected key=value, found {part!r}, which is no preset{near}")
    return {k: v[0] if len(v) == 1 else v for k, v in values.items()}


def _value(text: str) -> object:
    text = text.strip()
    for kind in (int, float, _fraction):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _fraction(text: str) -> float:
    """A number such as ``1/255``.

    Raises:
        ValueError: it is none.
    """
    above, is_fraction, below = text.partition("/")
    if not is_fraction or not float(below):
        raise ValueError(text)
    return float(above) / float(below)


def described(kind: type[T], values: Mapping[str, Any], what: str) -> T:
    """The steps with the values of a description.

    Args:
        kind: dataclass of the steps.
        values: values by key.
        what: word for the samples, for messages.

    Raises:
        FeedError: an unknown key (the nearest is named), or a value that does not fit.
    """
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise FeedError(f"preprocess: {what} have no key {key!r}{nearest(str(key), known)}")
    return kind(**values)


def entries_without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The values of a description but for some keys."""
    return {key: value for key, value in values.items() if key not in keys}


def numbers(key: str, value: object) -> tuple[float, ...] | None:
    """One number or several, as floats.

    Raises:
        FeedError: anything else.
    """
    if value is None:
        return None
    entries = [_value(v) if isinstance(v, str) else v for v in (value if isinstance(value, (list, tuple)) else [value])]
    floats = tuple(float(v) for v in entries if isinstance(v, (int, float)) and not isinstance(v, bool))
    if not floats or len(floats) != len(entries):
        raise FeedError(f"preprocess: {key} is {value!r}, expected a number, or one for each channel")
    return floats


def number(key: str, value: object) -> float:
    """One number.

    Raises:
        FeedError: anything else.
    """
    floats = numbers(key, value) or ()
    if len(floats) != 1:
        raise FeedError(f"preprocess: {key} is {value!r}, expected one number")
    return floats[0]


def one_of(key: str, value: object, choices: list[str]) -> None:
    """Check that a value is one of the choices.

    Raises:
        FeedError: it is not; the message lists them.
    """
    if value not in choices:
        raise FeedError(f"preprocess: {key} is {value!r}, expected {', '.join(choices[:-1])} or {choices[-1]}")
