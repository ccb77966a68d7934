"""``onnxquant diff``."""

from __future__ import annotations

import json
import sys

import click

from onnxquant.cli.shared import FAILED, console, errors_become_exit_codes, json_option, print_json
from onnxquant.inspect.diff import Diff, WeightForm
from onnxquant.inspect.diff import diff as diff_models
from onnxquant.json_data import JsonValue
from onnxquant.language.quantize import graph_of
from onnxquant.report.terminal import table
from onnxquant.report.units import decibels, size

# Number of weights that are shown unless -v asks for all.
_SHOWN = 25


@click.command(short_help="Show what differs between two models.")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Print every weight that differs.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit code tells whether they differ.")
@errors_become_exit_codes
def diff(a: str, b: str, as_json: bool, verbose: bool, quiet: bool) -> None:
    """Show what differs between A and B: weights, operators, sizes, options.

    They are any .onnx files, decoder folders, or reports of quantize --json.

    \b
    The SQNR is that of B's values against A's.
    Exit codes: 0 nothing differs, 1 something does, 2 bad input.

    \b
    Examples:
      onnxquant diff model.int8.onnx model.int4.onnx
      onnxquant diff model.onnx model.int8.onnx --json
      onnxquant diff yesterday.json today.json -q && echo the same plan
    """
    difference = diff_models(graph_of(a), graph_of(b))
    if as_json:
        print_json(difference.to_dict())
    elif not quiet:
        _print(difference, verbose=verbose)
    if not difference.equal:
        sys.exit(FAILED)


def _print(difference: Diff, *, verbose: bool) -> None:
    screen = console()
    if difference.weights:
        out = table("Weights that differ", "weight", ">SQNR", ">bytes of A", ">of B", "~A -> B")
        weights = list(difference.weights.items())
        for name, weight in weights if verbose else weights[:_SHOWN]:
            sizes = ["" if form is None else size(form.bytes) for form in (weight.a, weight.b)]
            sqnr = "" if weight.sqnr_db is None else decibels(weight.sqnr_db)
            out.add_row(name, sqnr, *sizes, f"{_shown(weight.a)} -> {_shown(weight.b)}")
        if len(weights) > _SHOWN and not verbose:
            out.caption = f"{len(weights) - _SHOWN} more: -v"
        screen.print(out)
    if difference.facts:
        out = table("What else differs", "what", "file", "~value")
        for key, values in difference.facts.items():
            out.add_row(key.replace("_", " "), "A", _text(values.a, values.b))
            out.add_row("", "B", _text(values.b, values.a))
        screen.print(out)
    click.echo(difference.summary())


def _shown(weight: WeightForm | None) -> str:
    if weight is None:
        return "none"
    parameters = ", ".join(f"{k} {v}" for k, v in weight.parameters.items() if v is not None)
    on = f" on {weight.target}" if weight.target else ""
    return f"{weight.format}{f' ({parameters})' if parameters else ''}{on}, {weight.bits:.4g} bits"


def _text(value: JsonValue, other: JsonValue) -> str:
    """A value as text; of a table, only the entries that differ from the other table's."""
    if isinstance(value, dict) and isinstance(other, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if other.get(k) != v) or "-"
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)
