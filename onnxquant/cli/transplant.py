"""``onnxquant transplant``."""

from __future__ import annotations

import sys

import click

from onnxquant.cli.shared import FAILED, console, errors_become_exit_codes, json_option, print_json, progress_bar
from onnxquant.inspect.validate import validate
from onnxquant.interchange.transplant import TransplantReport
from onnxquant.interchange.transplant import transplant as transplant_codes
from onnxquant.json_data import to_object
from onnxquant.report.table import say
from onnxquant.report.terminal import show, table
from onnxquant.targets import AUTO

# Weights that stay in float of which a reason is printed.
_SHOWN = 10


@click.command(short_help="Put a checkpoint's codes into a graph.")
@click.argument("model", type=click.Path())
@click.argument("checkpoint", type=click.Path())
@click.option("-o", "--output", type=click.Path(), required=True, help="File to write.")
@click.option("--target", default=AUTO, show_default=True, help="Target that holds the codes.")
@click.option("--data", type=click.Path(exists=True), help="Samples for the proof. [default: made-up ones]")
@click.option("--no-proof", is_flag=True, help="Do not run the file against MODEL.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Print every weight.")
@errors_become_exit_codes
def transplant(
    model: str,
    checkpoint: str,
    output: str,
    target: str,
    data: str | None,
    no_proof: bool,
    force: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Write the float graph MODEL with the codes of CHECKPOINT in the place of its weights; nothing is rounded again.

    Weights are found by name and shape, and where names differ by their values: joined queries, keys and values, tied and
    transposed weights and the order of rows of rotary models are recognised. The rest stays in float and is listed. The
    file is then run against MODEL.

    \b
    Examples:
      onnxquant transplant model.onnx model.gguf -o model.q4.onnx
      onnxquant transplant model.onnx gptq/ -o model.int4.onnx --data texts.npz

    Exit codes: 0 done, 1 the proof failed, 2 an error.
    """
    if no_proof and data is not None:
        raise click.UsageError("--data has no effect with --no-proof")
    with progress_bar(is_shown=not as_json) as progress:
        result = transplant_codes(model, checkpoint, output, target=target, force=force, progress=progress)
        report = None if no_proof else validate(model, output, data, progress=progress)
    if as_json:
        print_json(to_object(result) | ({"proof": report.to_dict()} if report else {}))
    else:
        _print(result, is_verbose=verbose)
        if report is not None:
            show(report, console(), verbose=verbose)
    if report is not None and not report.passed:
        sys.exit(FAILED)


def _print(result: TransplantReport, *, is_verbose: bool) -> None:
    screen = console()
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
    reordered = sum(weight.is_reordered for weight in result.weights)
    say(
        screen,
        f"{result.output}: {len(result.weights)} weights have the checkpoint's codes, {len(result.unmatched)} stay in float"
        + (f"; rows of {reordered} were put in the graph's order" if reordered else ""),
    )
