"""The published schema of a report as JSON, and the check that data fits it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from onnxquant.errors import ReportError


@cache
def text() -> str:
    """The JSON Schema (draft 2020-12), as it is shipped."""
    return files("onnxquant.report").joinpath("schema.json").read_text(encoding="utf-8")


def check(data: Mapping[str, Any], name: str) -> None:
    """Refuse data that does not fit the schema.

    Args:
        data: a report as plain data.
        name: what to call it.

    Raises:
        ReportError: with the first field that does not fit.
    """
    from jsonschema import Draft202012Validator, exceptions  # only saved reports need it

    error = exceptions.best_match(Draft202012Validator(json.loads(text())).iter_errors(data))
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the report"
        raise ReportError(f"{name}: {where}: {error.message[:200]}")
