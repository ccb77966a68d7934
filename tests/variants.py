"""Every format with every kind of parameters it takes, from the registry."""

from __future__ import annotations

from typing import Any

import pytest

from onnxquant.errors import OnnxQuantError
from onnxquant.formats import format_named, formats
from onnxquant.formats.base import Format
from onnxquant.formats.parameters import parameters_of


def variants(form: Format) -> list[dict[str, Any]]:
    """Parameter combinations of a format that it accepts."""
    combinations: list[dict[str, Any]] = [{}]
    for name, parameter in parameters_of(type(form)).items():
        samples = [{}, *({name: value} for value in parameter.samples)]
        combinations = [{**v, **sample} for v in combinations for sample in samples]
    return [v for v in combinations if _accepted(form.name, v)] + [{"permuted": True}]


def _accepted(name: str, parameters: dict[str, Any]) -> bool:
    try:
        format_named(name, **parameters)
    except OnnxQuantError:
        return False
    return True


def label(name: str, parameters: dict[str, Any]) -> str:
    """How a case is called."""
    return "-".join([name, *(f"{k[:5]}{v}" for k, v in parameters.items())])


CASES = [pytest.param(f.name, v, id=label(f.name, v)) for f in formats() for v in variants(f)]


def fits(name: str, parameters: dict[str, Any], cols: int) -> bool:
    """Whether rows of this length are whole blocks, where the format wants them whole."""
    return format_named(name, **parameters).unfit(1, cols) is None
