"""``onnxquant diff``."""

from __future__ import annotations

import json
import sys

import click
from rich.markup import escape

from onnxquant.cli.options import FAILED, console, errors_become_exit_codes, print_json
from onnxquant.inspect.diff import Diff, WeightForm
from onnxquant.inspect.diff import diff as diff_models
from onnxquant.json_data import JsonValue
from onnxquant.report.terminal import table
from onnxquant.report.units import decibels, size

# Rows of weights that are shown unless -v asks for all.
_SHOWN = 25


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Print every weight that differs.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing: the exit code says it.")
@errors_become_exit_codes
def diff(a: str, b: str, as_json: bool, verbose: bool, quiet: bool) -> None:
    """What differs between A and B: weights, operators, sizes, options; any .onnx files, or reports of quantize --json.

    \b
    The SQNR is that of B's values against A's.
    Exit codes: 0 nothing differs, 1 something does, 2 bad input.

    \b
    Examples:
      onnxquant diff model.int8.onnx model.int4.onnx
      onnxquant diff model.onnx model.int8.onnx --json
      onnxquant diff yesterday.json today.json -q && echo the same plan
    """
    found = diff_models(a, b)
    if as_json:
        print_json(found.to_dict())
    elif not quiet:
        _print(found, verbose=verbose)
    if not found.equal:
        sys.exit(FAILED)


def _print(found: Diff, *, verbose: bool) -> None:
    screen = console()
    if found.weights:
        out = table("Weights that differ", "weight", "A", "B", ">bytes of A", ">of B", ">SQNR")
        entries = list(found.weights.items())
        for name, w in entries if verbose else entries[:_SHOWN]:
            sizes = ["" if form is None else size(form.bytes) for form in (w.a, w.b)]
            measured = "" if w.sqnr_db is None else decibels(w.sqnr_db)
            out.add_row(escape(name), escape(_shown(w.a)), escape(_shown(w.b)), *sizes, measured)
        if len(entries) > _SHOWN and not verbose:
            out.caption = f"{len(entries) - _SHOWN} more: -v"
        screen.print(out)
    if found.about:
        out = table("What else differs", "what", "A", "B")
        for key, values in found.about.items():
            out.add_row(key.replace("_", " "), escape(_text(values.a, values.b)), escape(_text(values.b, values.a)))
        screen.print(out)
    click.echo(found.summary())


def _shown(weight: WeightForm | None) -> str:
    if weight is None:
        return "none"
    parameters = ", ".join(f"{k} {v}" for k, v in weight.parameters.items() if v is not None)
    on = f" on {weight.target}" if weight.target else ""
    return f"{weight.format}{f' ({parameters})' if parameters else ''}{on}, {weight.bits:.4g} bits"


def _text(value: JsonValue, other: JsonValue) -> str:
    """A value, of tables only what the other has not."""
    if isinstance(value, dict) and isinstance(other, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if other.get(k) != v) or "-"
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)
