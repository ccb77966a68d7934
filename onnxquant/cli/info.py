"""``onnxquant info``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import click

from onnxquant.cli.convert import show_checkpoint
from onnxquant.cli.shared import console, errors_become_exit_codes, json_option, print_json
from onnxquant.clients import Source
from onnxquant.inspect.compatibility import ClientInfo, advice
from onnxquant.inspect.info import WeightInfo
from onnxquant.inspect.info import info as info_of
from onnxquant.interchange.files import is_checkpoint
from onnxquant.json_data import JsonObject, JsonValue, to_object
from onnxquant.language.quantize import graph_of
from onnxquant.report.table import Table
from onnxquant.report.terminal import table
from onnxquant.report.units import size

# The origin of what is known of a client, by its name in data.
_ORIGINS = {Source.RUN: "run:", Source.DOCUMENTATION: "not run; documentation of"}


@click.command(short_help="Show the contents of a model.")
@click.argument("model", type=click.Path())
@click.option("-v", "--verbose", is_flag=True, help="Print every tensor.")
@json_option
@errors_become_exit_codes
def info(model: str, as_json: bool, verbose: bool) -> None:
    """Show the contents of MODEL: formats, sizes before and after, bits per weight, opset, provenance, and where it runs.

    MODEL may be a decoder folder, or a file of tensors without a graph: GGUF, safetensors, a folder of .q8k files, AXQT.

    \b
    Examples:
      onnxquant info model.int8.onnx
      onnxquant info model.gguf -v
    """
    if is_checkpoint(Path(model)):
        show_checkpoint(model, as_json=as_json, verbose=verbose)
        return
    graph = graph_of(model)
    contents = info_of(graph)
    facts: JsonObject = {**to_object(contents), "advice": advice(str(graph))}
    if as_json:
        print_json(facts)
        return
    out = table(str(graph), "what", "~value")
    for key, value in facts.items():
        if key not in ("model", "clients", "tensors"):  # they have tables of their own
            out.add_row(key.replace("_", " "), _text(key, value))
    screen = console()
    screen.print(out)
    screen.print()
    screen.print(_clients(contents.clients))
    if verbose and contents.tensors:
        screen.print()
        screen.print(_weights(contents.tensors))


def _weights(weights: Sequence[WeightInfo]) -> Table:
    """A row for each encoded weight."""
    out = table("Encoded weights", "weight", "format", ">shape", ">size", ">ratio")
    for weight in weights:
        shape = "x".join(map(str, weight.shape)) or "scalar"
        ratio = "" if weight.ratio is None else f"{weight.ratio:.2f}x"
        out.add_row(weight.name, weight.format, shape, size(weight.bytes), ratio)
    return out


def _clients(clients: Sequence[ClientInfo]) -> Table:
    """A row for each client; releases of onnxruntime that give the same answer share one."""
    out = table("Where it runs", "client", "~runs")
    for (runs, reason, _, _), rows in groupby(clients, key=_alike):
        group = list(rows)
        first, last = group[-1], group[0]
        name = last.client if first is last else f"{first.client} to {last.client.rpartition('-')[2]}"
        versions = " to ".join(dict.fromkeys((first.version, last.version)))
        known = f"{_ORIGINS[Source(last.source)]} {versions}, {last.date}"
        out.add_row(name, f"{runs}{': ' if reason else ''}{reason} ({known})")
    return out


def _alike(client: ClientInfo) -> tuple[str, str, str, str]:
    """Equal for clients that share a row."""
    release = client.client.startswith("onnxruntime-1.")
    return client.runs, client.reason, client.source, "" if release else client.client


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
