"""``onnxquant info``."""

from __future__ import annotations

import click

from onnxquant.cli.shared import console, errors_become_exit_codes, json_option, print_json
from onnxquant.inspect.compatibility import advice
from onnxquant.inspect.info import info as info_of
from onnxquant.json_data import JsonObject, JsonValue, to_object
from onnxquant.report.terminal import table
from onnxquant.report.units import size


@click.command(short_help="Show the contents of a model.")
@click.argument("model", type=click.Path())
@json_option
@errors_become_exit_codes
def info(model: str, as_json: bool) -> None:
    """Show the contents of MODEL: formats, sizes before and after, bits per weight, opset, provenance.

    \b
    Examples:
      onnxquant info model.int8.onnx
    """
    facts: JsonObject = {**to_object(info_of(model)), "advice": advice(model)}
    if as_json:
        print_json(facts)
        return
    out = table(model, "what", "~value")
    for key, value in facts.items():
        if key not in ("model", "tensors"):  # tensors are listed one by one in JSON alone
            out.add_row(key.replace("_", " "), _text(key, value))
    console().print(out)


def _text(key: str, value: JsonValue) -> str:
    if isinstance(value, (int, float)) and key.endswith("bytes"):
        return size(value)
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
