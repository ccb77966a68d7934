"""The published schema of a report as JSON, and the check that data fits it."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from onnxquant.errors import ReportError
from onnxquant.json_data import JsonObject
from onnxquant.recipe.declaration import Option, declared, options_of
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import Rule
from onnxquant.report.state import OLD_NAMES, State


@cache
def text() -> str:
    """The JSON Schema (draft 2020-12): the file of this package, with the names of states, keys of rules and options."""
    schema = json.loads(files("onnxquant.report").joinpath("schema.json").read_text(encoding="utf-8"))
    rule, options = schema["$defs"]["rule"], schema["properties"]["asked"]["properties"]["options"]
    rule["properties"] = {name: _of_key(option) for name, option in declared(Rule).items()}
    schema["$defs"]["verdict"]["properties"]["state"]["enum"] = [*(state.value for state in State), *OLD_NAMES]
    rule["properties"]["parameters"] = {"type": "object", "additionalProperties": {}}
    reported = [option for option in options_of(Options).values() if option.declared.is_reported]
    options["properties"] = {option.name: {"description": option.declared.help} for option in reported}
    return json.dumps(schema, indent=1) + "\n"


def _of_key(option: Option) -> JsonObject:
    """Schema of a rule's key. A report may name formats and targets of packages that are not installed here."""
    if option.is_list:
        return {"description": option.declared.help, "type": "array", "items": {"type": "string"}}
    return {"description": option.declared.help, "type": list(option.kinds)}


def check(data: JsonObject, name: str) -> None:
    """Refuse data that does not fit the schema.

    Args:
        data: a report as plain data.
        name: name of the report in errors.

    Raises:
        ReportError: a field does not fit.
    """
    from jsonschema import Draft202012Validator, exceptions  # only saved reports need it

    error = exceptions.best_match(Draft202012Validator(json.loads(text())).iter_errors(data))
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the report"
        raise ReportError(f"{name}: {where}: {error.message[:200]}")
