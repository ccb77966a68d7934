"""Every format with every kind of parameters it takes, from the registry."""

from __future__ import annotations

from typing import Any

import pytest

from onnxquant import formats
from onnxquant.errors import OnnxQuantError
from onnxquant.formats import format_named
from onnxquant.formats.base import Format

# Values of each parameter that are tried; the first, where it is None, means that it is not given.
TRIED: dict[str, list[Any]] = {
    "block_size": [None, 32, 128],
    "per_channel": [None, True, False],
    "symmetric": [None, False],
    "zero_point": [None, "float"],
    "double_quant": [None, True],
    "stochastic": [None, 7],
    "threshold": [None, 2.5],
    "quantile": [None, 0.95],
}


def variants(form: Format) -> list[dict[str, Any]]:
    """Parameter combinations of a format that it accepts."""
    made: list[dict[str, Any]] = [{}]
    for name in form.parameters():
        made = [{**v, **({} if value is None else {name: value})} for v in made for value in TRIED[name]]
    return [v for v in made if _accepted(form.name, v)] + [{"permuted": True}]


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
