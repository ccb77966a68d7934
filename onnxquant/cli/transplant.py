"""``onnxquant transplant``."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import click
from rich.console import Console

from onnxquant.cli.options import model_options
from onnxquant.cli.shared import (
    FAILED,
    Display,
    command_line,
    console,
    display_options,
    errors_become_exit_codes,
    print_json,
    progress_bar,
)
from onnxquant.inspect.validate import validate
from onnxquant.interchange.transplant import TransplantReport
from onnxquant.interchange.transplant import transplant as transplant_codes
from onnxquant.json_data import to_object
from onnxquant.report.table import say
from onnxquant.report.terminal import table
from onnxquant.report.units import decibels
from onnxquant.report.write import places
from onnxquant.validation.outputs import DEPLOYED, Run
from onnxquant.validation.proof import Proof

# Weights that stay in float of which a reason is printed.
_SHOWN = 10


@click.command(short_help="Put a checkpoint's codes into a graph.")
@click.argument("model", type=click.Path())
@click.argument("checkpoint", type=click.Path())
@click.option("-o", "--output", type=click.Path(), required=True, help="File to write.")
@click.option("--data", type=click.Path(exists=True), help="Samples for the proof. [default: made-up ones]")
@click.option("--no-proof", is_flag=True, help="Do not run the file against MODEL.")
@model_options("target", "compute", "report", "force")
@display_options
@errors_become_exit_codes
def transplant(
    model: str,
    checkpoint: str,
    output: str,
    target: str,
    compute: str,
    data: str | None,
    no_proof: bool,
    report: tuple[str, ...],
    force: bool,
    display: Display,
) -> None:
    """Write the float graph MODEL with the codes of CHECKPOINT in the place of its weights; nothing is rounded again.

    Weights are found by name and shape, and where names differ by their values: joined queries, keys and values, tied and
    transposed weights and the order of rows of rotary models are recognised. The rest stays in float and is listed. The
    file is then run against MODEL, and against MODEL with the decoded weights of CHECKPOINT.

    \b
    Examples:
      onnxquant transplant model.onnx model.gguf -o model.q4.onnx
      onnxquant transplant model.onnx gptq/ -o model.int4.onnx --data texts.npz

    Exit codes: 0 done, 1 the proof failed, 2 an error.
    """
    for flag, value in (("--data", data), ("--report", report)):
        if no_proof and value:
            raise click.UsageError(f"{flag} has no effect with --no-proof")
    places(report, Path(output), force=force)  # refuses what cannot be written before any work
    with progress_bar(is_shown=display.shows_progress) as progress:
        result = transplant_codes(
            model, checkpoint, output, target=target, compute=compute, force=force, progress=progress
        )
        proven = None
        if not no_proof:
            proven = validate(
                model, output, data, progress=progress, command=command_line(), report=report, force=force
            )
    if display.as_json:
        print_json(to_object(result) | ({"proof": proven.to_dict()} if proven else {}))
    else:
        screen = console(quiet=display.quiet)
        _print_weights(result, screen, is_verbose=display.verbose)
        if proven is not None:
            display.report(proven)
        _print_outcome(result, screen)
        if proven is not None and proven.proof is not None:
            _print_distance(proven.proof, screen)
    if proven is not None and not proven.passed:
        sys.exit(FAILED)


def _print_weights(result: TransplantReport, screen: Console, *, is_verbose: bool) -> None:
    """Print the weights that stay in float, and the others too where it is verbose."""
    if is_verbose:
        out = table("", "weight", "from", "format", "found by", ">dB")
        for weight in result.weights:
            out.add_row(weight.name, ", ".join(weight.sources), weight.format, weight.how, f"{weight.sqnr_db:.1f}")
        screen.print(out)
    for entry in result.unmatched[: None if is_verbose else _SHOWN]:
        say(screen, f"stays in float: {entry.name}: {entry.reason}")
    if len(result.unmatched) > _SHOWN and not is_verbose:
        say(screen, f"and {len(result.unmatched) - _SHOWN} others; -v lists them")
    if result.unused:
        names = ", ".join(result.unused[:3]) + (" and others" if len(result.unused) > 3 else "")
        say(screen, f"{len(result.unused)} weights of the checkpoint are not in the graph: {names}")


def _print_outcome(result: TransplantReport, screen: Console) -> None:
    """Print the number of weights that have the checkpoint's codes."""
    reordered = sum(weight.is_reordered for weight in result.weights)
    say(
        screen,
        f"{result.output}: {len(result.weights)} weights have the checkpoint's codes, {len(result.unmatched)} stay in float"
        + (f"; rows of {reordered} were put in the graph's order" if reordered else ""),
    )


def _print_distance(proof: Proof, screen: Console) -> None:
    """Print how near the outputs are to those of the graph that has the checkpoint's decoded weights: the dense twin."""
    errors = next((e for run in DEPLOYED if (e := proof.errors(Run.TWIN, run))), {})
    if not errors:
        return
    name, error = min(errors.items(), key=lambda entry: entry[1].sqnr_db)
    if error.sqnr_db == math.inf:
        say(screen, "against the decoded checkpoint: outputs are exactly the same")
    else:
        say(screen, f"against the decoded checkpoint: worst output {name}: signal to noise {decibels(error.sqnr_db)}")
